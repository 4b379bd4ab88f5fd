"""The console as a user sees it, in a real browser."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, Request, Route, expect

from local import postgres, processes
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.console.conftest import start
from tests.support.live import etag_of, fresh
from tests.support.servers import REQUEST_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.console.conftest import Console, Open
    from tests.support.servers import Database

pytestmark = pytest.mark.asyncio(loop_scope="session")

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
LINES = ".lines > li"
# What a browser writes between a currency and an amount.
NBSP = "\u00a0"


async def balance_is(page: Page, text: str) -> None:
    await expect(page.locator("#balance")).to_have_text(text)


async def fill_form(page: Page, kind: str, amount: str, description: str = "") -> None:
    await page.locator(f'.record input[value="{kind}"]').check()
    await page.locator("#amount").fill(amount)
    await page.locator("#description").fill(description)


# --- looking ----------------------------------------------------------------------------------


async def test_account_shows_its_balance_history_and_statement(
    console: Console, visit: Open
) -> None:
    account = fresh()
    console.live.post(account, "INCOME", "1500.00", description="Salary")
    last = console.live.post(account, "EXPENSE", "250.50", description="Shoes")
    console.live.deliver(last)
    page = await visit()
    await page.locator("#find").fill(account)
    await page.keyboard.press("Enter")
    await balance_is(page, "R$1,249.50")
    await expect(page.locator(LINES)).to_have_count(2)
    await expect(page.locator(f"{LINES}:first-child .sum")).to_have_text("-R$250.50")
    await expect(page.locator(f"{LINES}:first-child .what")).to_have_text("Shoes")
    await expect(page.locator(".history svg path.line")).to_be_attached()
    await expect(page.locator(".readout strong")).to_have_text("R$1,249.50")
    await expect(page.locator(".pill[data-state]")).to_have_attribute("data-state", "live")
    await page.locator(f"{LINES}:first-child summary").click()
    await expect(page.locator(f"{LINES}:first-child dl")).to_contain_text(last["hash"])


async def test_amounts_stay_exact_beyond_what_a_float_holds(console: Console, visit: Open) -> None:
    account = fresh()
    console.live.recorded(account)  # 10
    console.live.post(account, "INCOME", "90071992547409.93")
    console.live.deliver(console.live.post(account, "INCOME", "0.06"))
    page = await visit(f"accounts/{account}")
    await balance_is(page, "R$90,071,992,547,419.99")
    await expect(page.locator(f"{LINES}:nth-child(2) .sum")).to_have_text(
        "+R$90,071,992,547,409.93"
    )


AMOUNTS = [
    ("1234,56", "pt-BR", "BRL", "1234.56"),
    ("1.234,56", "pt-BR", "BRL", "1234.56"),
    ("1.234", "pt-BR", "BRL", "1234.00"),
    ("1.234", "en-GB", "KWD", "1.234"),
    ("1,234.5", "en-GB", "BRL", "1234.50"),
    ("1,234", "en-GB", "BRL", "1234.00"),
    ("R$ 0,10", "pt-BR", "BRL", "0.10"),
    ("1 000", "en-GB", "JPY", "1000"),
    ("12345678901234567.89", "en-GB", "BRL", "amount-large"),
    ("1.5", "en-GB", "JPY", "amount-digits"),
    ("0.001", "en-GB", "BRL", "amount-digits"),
    ("0,00", "pt-BR", "BRL", "amount-zero"),
    ("1,23,456.00", "en-GB", "BRL", "amount-malformed"),
    ("1.2.3", "en-GB", "BRL", "amount-malformed"),
    ("-5", "en-GB", "BRL", "amount-malformed"),
    ("1e5", "en-GB", "BRL", "amount-malformed"),
    ("", "en-GB", "BRL", "amount-missing"),
]


async def test_amount_is_read_in_either_notation_and_never_rounded(visit: Open) -> None:
    page = await visit()
    read = await page.evaluate(
        """async (cases) => {
            const { readAmount } = await import("/console/money.js");
            return cases.map(([typed, locale, currency]) => {
                const read = readAmount(typed, currency, locale);
                return read.text ?? read.fault;
            });
        }""",
        [[typed, locale, currency] for typed, locale, currency, _ in AMOUNTS],
    )
    assert dict(zip(AMOUNTS, read, strict=True)) == {case: case[3] for case in AMOUNTS}


async def test_statement_is_paged_and_searched(console: Console, visit: Open) -> None:
    account = fresh()
    body = [
        {"accountId": account, "type": "INCOME", "value": 1, "description": f"Line {n}"}
        for n in range(119)
    ]
    shoes = {"accountId": account, "type": "EXPENSE", "value": 5, "description": "Sapatos Ação"}
    answer = console.live.record.post("/transactions", json=[shoes, *body])
    console.live.deliver(answer.json()["transactions"][-1])
    page = await visit(f"accounts/{account}")
    lines, older = page.locator(LINES), page.locator(".statement .more")
    await expect(lines).to_have_count(50)
    await older.click()
    await expect(lines).to_have_count(100)
    await older.click()
    await expect(lines).to_have_count(120)
    await expect(older).not_to_be_visible()
    numbers = await lines.locator(".what").all_text_contents()
    assert numbers == [*(f"Line {n}" for n in range(118, -1, -1)), "Sapatos Ação"]
    await page.locator("#statement-text").fill("sapatos")
    await expect(lines).to_have_count(1)
    await page.locator("#statement-text").fill("nothing like it")
    await expect(page.locator(".statement .note")).to_contain_text("Nothing matches")
    await page.locator(".filters button").click()
    await expect(lines).to_have_count(50)
    await page.locator("#statement-kind").select_option("EXPENSE")
    await expect(lines).to_have_count(1)
    await page.locator("#statement-to").fill("2001-01-01")
    await expect(lines).to_have_count(0)


async def test_chart_is_moved_by_keyboard_and_date_range(console: Console, visit: Open) -> None:
    account = fresh()
    for value, day in ((100, "2020-01-01"), (20, "2020-03-05")):
        console.live.post(account, value=value, occurredAt=f"{day}T12:00:00Z")
    console.live.deliver(console.live.post(account, value=3))
    page = await visit(f"accounts/{account}")
    plot = page.get_by_role("slider")
    await page.locator('.history input[value="all"]').check()
    await expect(plot).to_have_attribute("aria-valuemax", "3")
    await plot.focus()
    await page.keyboard.press("Home")
    await expect(page.locator(".readout")).to_contain_text("1 Jan 2020")
    await expect(plot).to_have_attribute("aria-valuetext", "1 Jan 2020: R$100.00")
    await page.keyboard.press("ArrowRight")
    await expect(plot).to_have_attribute("aria-valuetext", "5 Mar 2020: R$120.00")
    # What came before the range is where its line begins.
    await page.locator('.history input[value="30"]').check()
    await expect(plot).to_have_attribute("aria-valuemax", "2")
    await plot.focus()
    await page.keyboard.press("Home")
    await expect(plot).to_have_attribute("aria-valuetext", re.compile(r": R\$120\.00$"))
    await page.locator(".months summary").click()
    await expect(page.locator(".months tbody tr")).to_have_count(3)


async def test_language_is_the_browsers_unless_one_is_chosen(console: Console, visit: Open) -> None:
    account = fresh()
    console.live.recorded(account, 1234)
    page = await visit(f"accounts/{account}", locale="pt-BR")
    await balance_is(page, f"R${NBSP}1.234,00")
    await expect(page.locator("#statement-title")).to_have_text("Extrato")
    await expect(page.locator("html")).to_have_attribute("lang", "pt-BR")
    await page.locator("#amount").fill("1.050,9")
    await expect(page.locator("#amount-preview")).to_have_text(f"R${NBSP}1.050,90")
    await page.locator("#language").select_option("en")
    await expect(page.locator("#statement-title")).to_have_text("Statement")
    await expect(page.locator("#language")).to_be_focused()
    await balance_is(page, "R$1,234.00")
    await page.reload()
    await expect(page.locator("#token-title")).to_have_text("Access token")


# --- recording --------------------------------------------------------------------------------


async def test_receipt_is_shown_and_balance_updates_after_recording(
    console: Console, visit: Open
) -> None:
    account = fresh()
    console.live.recorded(account, 100)
    page = await visit(f"accounts/{account}")
    await balance_is(page, "R$100.00")
    await expect(page.locator(".pill[data-state]")).to_have_attribute("data-state", "live")
    receipt = page.locator(".receipt")
    with projector_stopped(console):
        await fill_form(page, "EXPENSE", "30.25", "Groceries")
        await page.locator(".record button.primary").click()
        await expect(receipt).to_contain_text("Recorded: -R$30.25")
        [_, event] = console.live.record.get(f"/accounts/{account}/events").json()["events"]
        await expect(receipt).to_contain_text(event["hash"])
        await expect(receipt).to_contain_text("The balance will include it in a moment.")
        await expect(page.locator(".pill.behind")).to_have_text("1 behind")
    console.live.deliver(console.live.record.get(f"/transactions/{event['id']}").json())
    await balance_is(page, "R$69.75")
    await expect(page.locator("#announcer")).to_have_text("Balance R$69.75")
    await expect(receipt).to_contain_text("It is in the balance.")
    await expect(page.locator(".pill.behind")).not_to_be_visible()
    await expect(page.locator(f"{LINES}:first-child .what")).to_have_text("Groceries")
    await expect(page.locator(".readout strong")).to_have_text("R$69.75")
    await expect(page.locator('.accounts-list [aria-current="page"] .amount')).to_have_text(
        "R$69.75"
    )
    await expect(page.locator("#amount")).to_have_value("")


@contextlib.contextmanager
def projector_stopped(console: Console) -> Iterator[None]:
    """Stop all projection, even by the projector's own sweep."""
    projector = console.live.served["project_balance"].child.process
    projector.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        projector.send_signal(signal.SIGCONT)


async def test_lagging_balance_is_marked_as_such(console: Console, visit: Open) -> None:
    account = fresh()
    console.live.recorded(account)
    page = await visit(f"accounts/{account}", with_clock=True)
    await balance_is(page, "R$10.00")
    with projector_stopped(console):
        for value in (1, 2):
            last = console.live.post(account, value=value)
        await page.clock.fast_forward(10_000)
        await expect(page.locator(".pill.behind")).to_have_text("2 behind")
    console.live.deliver(last)
    await balance_is(page, "R$13.00")
    await expect(page.locator(".pill.behind")).not_to_be_visible()


async def test_first_transaction_opens_an_account(console: Console, visit: Open) -> None:
    account = fresh()
    page = await visit(f"accounts/{account}")
    await expect(page.locator(".notice")).to_contain_text("Nothing is recorded here yet")
    await fill_form(page, "INCOME", "12")
    await page.locator("#amount").press("Enter")
    await expect(page.locator(".receipt")).to_contain_text("Recorded: +R$12.00")
    [event] = console.live.record.get(f"/accounts/{account}/events").json()["events"]
    console.live.deliver(console.live.record.get(f"/transactions/{event['id']}").json())
    await balance_is(page, "R$12.00")
    await expect(page.locator(LINES)).to_have_count(1)
    await expect(page.locator(".notice")).to_be_empty()


async def test_form_shows_errors_while_it_is_filled_in(console: Console, visit: Open) -> None:
    account = fresh()
    console.live.recorded(account)
    console.live.record.put(f"/accounts/{account}/limit", json={"overdraftLimit": 0})
    page = await visit(f"accounts/{account}")
    await balance_is(page, "R$10.00")
    amount, fault = page.locator("#amount"), page.locator("#amount-fault")
    await expect(fault).to_be_empty()
    await amount.fill("12.345")
    await expect(fault).to_have_text("At most 2 decimals in this currency.")
    await expect(amount).to_have_attribute("aria-invalid", "true")
    await amount.fill("12.34")
    await expect(fault).to_be_empty()
    await expect(page.locator("#amount-preview")).to_have_text("R$12.34")
    await amount.fill("")
    await page.locator(".record button.primary").click()
    await expect(fault).to_have_text("Enter an amount.")
    await expect(amount).to_be_focused()
    await page.locator("#description").fill("x" * 501)
    await expect(page.locator("#description-fault")).to_have_text("At most 500 characters.")
    await page.locator("#description").fill("")
    await fill_form(page, "EXPENSE", "10.01")
    await page.locator(".record button.primary").click()
    await expect(page.locator(".outcome")).to_contain_text("Refused: the balance is R$10.00")
    assert console.live.balance.get(f"/balances?accountId={account}").json()["value"] == 10


async def test_lost_response_is_retried_and_counts_once(console: Console, visit: Open) -> None:
    account = fresh()
    keys: list[str | None] = []

    async def lose_the_first(route: Route, request: Request) -> None:
        if request.method != "POST":
            await route.continue_()
            return
        keys.append(await request.header_value("idempotency-key"))
        if len(keys) == 1:
            await route.fetch()  # it is recorded, and the answer gets lost
            await route.abort("connectionreset")
        else:
            await route.continue_()

    page = await visit(f"accounts/{account}")
    await page.route("**/transactions", lose_the_first)
    await fill_form(page, "INCOME", "7")
    await page.locator(".record button.primary").click()
    await expect(page.locator(".receipt")).to_contain_text("it counts once")
    assert len(keys) == 2
    assert keys[0] == keys[1] is not None
    assert len(console.live.record.get(f"/accounts/{account}/events").json()["events"]) == 1


async def test_unknown_outcome_is_retried_with_the_same_key(console: Console, visit: Open) -> None:
    account = fresh()
    keys: list[str | None] = []
    lost = True

    async def lose(route: Route, request: Request) -> None:
        if request.method == "POST":
            keys.append(await request.header_value("idempotency-key"))
            if lost:
                await route.abort("connectionreset")
                return
        await route.continue_()

    page = await visit(f"accounts/{account}")
    await page.route("**/transactions", lose)
    await fill_form(page, "INCOME", "7")
    await page.locator(".record button.primary").click()
    await expect(page.locator(".outcome")).to_contain_text("it is not known whether")
    assert len(keys) == 4
    lost = False
    await page.locator(".outcome button").click()
    await expect(page.locator(".receipt")).to_contain_text("Recorded: +R$7.00")
    # What is asked for next is another intent.
    await fill_form(page, "INCOME", "7")
    await page.locator(".record button.primary").click()
    await expect(page.locator(".receipt")).to_have_attribute("data-position", "2")
    assert len(set(keys[:5])) == 1
    assert keys[5] not in keys[:5]
    assert len(console.live.record.get(f"/accounts/{account}/events").json()["events"]) == 2


# --- verifying --------------------------------------------------------------------------------


def chained(console: Console, account: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = console.live.record.get(f"/accounts/{account}/events").json()[
        "events"
    ]
    return events


def tamper(console: Console, account: str, position: int, text: str, digest: str) -> None:
    """Rewrite an event, as only who holds the database's keys could."""
    postgres.run_sql(
        console.live.database.dsn(),
        f"UPDATE event_store.event SET public_text = $text${text}$text$,"
        f" hash = decode('{digest}', 'hex')"
        f" WHERE account_id = '{account}' AND position = {position}",
    )


async def test_intact_chain_verifies_and_matches_the_receipts(
    console: Console, visit: Open
) -> None:
    account = fresh()
    last = console.live.recorded(account, *range(1, 8))[-1]
    page = await visit(f"accounts/{account}")
    await expect(page.locator(LINES)).to_have_count(7)
    await page.locator(".verify button").click()
    found = page.locator(".verified")
    await expect(found).to_contain_text("The chain holds")
    await expect(found).to_contain_text("7 events recomputed; 7 hashes shown on this page agree.")
    await expect(found).to_contain_text(last["hash"])


async def test_long_chain_is_verified_page_by_page(console: Console, visit: Open) -> None:
    account = fresh()
    body = [{"accountId": account, "type": "INCOME", "value": 1}] * 2_100
    answer = console.live.record.post("/transactions", json=body).json()["transactions"]
    console.live.deliver(answer[-1])
    page = await visit(f"accounts/{account}")
    await balance_is(page, "R$2,100.00")
    await page.locator(".verify button").click()
    await expect(page.locator(".verified")).to_contain_text("2,100 events recomputed")


async def test_changed_text_breaks_the_chain_at_its_event(console: Console, visit: Open) -> None:
    account = fresh()
    console.live.recorded(account, 1, 2, 3)
    event = chained(console, account)[1]
    changed = event["event"].replace('"amountMinor":200', '"amountMinor":900')
    assert changed != event["event"]
    tamper(console, account, 2, changed, event["hash"])
    page = await visit(f"accounts/{account}")
    await balance_is(page, "R$6.00")
    await page.locator(".verify button").click()
    await expect(page.locator(".verified")).to_contain_text("The chain is broken at position 2")


async def test_rewritten_history_differs_from_the_receipt(console: Console, visit: Open) -> None:
    account = fresh()
    console.live.recorded(account, 1, 2)
    page = await visit(f"accounts/{account}")
    await expect(page.locator(LINES)).to_have_count(2)
    first, last = chained(console, account)
    text = last["event"].replace('"amountMinor":200', '"amountMinor":100')
    digest = hashlib.sha256(bytes.fromhex(first["hash"]) + text.encode()).hexdigest()
    tamper(console, account, 2, text, digest)
    await page.locator(".verify button").click()
    await expect(page.locator(".verified")).to_contain_text("history was rewritten")


# --- who may ----------------------------------------------------------------------------------


async def test_page_asks_for_a_token_and_reports_a_bad_one(console: Console, blank: Open) -> None:
    console.live.recorded(fresh())
    page = await blank()
    await page.goto(console.url)
    dialog, fault = page.locator("#token-dialog"), page.locator("#token-fault")
    await expect(dialog).to_be_visible()
    await expect(page.locator("#token-field")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(fault).to_have_text("Paste a token first.")
    await page.locator("#token-field").fill("half a token")
    await page.keyboard.press("Enter")
    await expect(fault).to_contain_text("three parts")
    await page.locator("#token-field").fill(console.live.issuer.token(aud="other"))
    await page.keyboard.press("Enter")
    await expect(fault).to_contain_text("The token is not valid")
    await page.locator("#token-field").fill(f"Bearer {console.live.issuer.token()}")
    await page.keyboard.press("Enter")
    await expect(dialog).not_to_be_visible()
    await expect(page.locator(".accounts-list a").first).to_be_visible()
    kept = await page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert "ey" not in kept
    assert console.live.issuer.token()[:20] not in page.url


async def test_missing_permissions_of_a_token_are_shown(console: Console, visit: Open) -> None:
    mine, other = fresh(), fresh()
    console.live.recorded(mine)
    console.live.recorded(other)
    token = console.live.issuer.token(scope="balances:read", saldo_accounts=[mine])
    page = await visit(token=token)
    await expect(page.locator(".accounts-list a")).to_have_count(1)
    banner = page.locator("#banner")
    await page.goto(f"{console.url}#/accounts/{other}")
    await expect(banner).to_contain_text("does not allow reading balances")
    await page.goto(f"{console.url}#/system")
    await expect(banner).to_contain_text("does not allow the system view")
    await page.goto(f"{console.url}#/accounts/{mine}")
    await balance_is(page, "R$10.00")
    await expect(banner).to_be_empty()
    await fill_form(page, "INCOME", "1")
    await page.locator(".record button.primary").click()
    await expect(page.locator(".outcome")).to_contain_text("does not allow recording")


async def test_system_view_updates_itself(console: Console, visit: Open) -> None:
    account = fresh()
    console.live.recorded(account)
    page = await visit("system", token=console.live.issuer.token(scope="system:read"))
    throughput = page.locator('[data-name="throughput"]')
    await expect(throughput).to_contain_text("events of")
    # Kafka is down here, so what was recorded waits to be sent.
    await expect(page.locator('[data-name="outbox"] .value')).not_to_have_text("0")
    letter = f"letter-{secrets.token_hex(4)}"
    postgres.run_sql(
        console.live.database.dsn(),
        "INSERT INTO read_model.dead_letter (dead_letter_id, account_id, event_id, reason,"
        f" attributes) VALUES (gen_random_uuid(), '{account}', '{letter}', 'r', '{{}}')",
    )
    await expect(page.locator(".verdict")).to_have_text("Something waits for an operator")
    redriven = f"DELETE FROM read_model.dead_letter WHERE event_id = '{letter}'"
    postgres.run_sql(console.live.database.dsn(), redriven)
    await expect(page.locator('[data-name="dead-letters"] .value')).to_have_text("0")


# --- faults -----------------------------------------------------------------------------------


async def test_page_reports_an_outage_and_recovers(
    database: Database, tmp_path: Path, blank: Open
) -> None:
    port, project_port = processes.free_port(), processes.free_port()
    recorder = start(RECORD, database, tmp_path / "r.log", record_port := processes.free_port(), {})
    projector = start(PROJECT, database, tmp_path / "p.log", project_port, {})
    reader = start(BALANCE, database, tmp_path / "b.log", port, {})
    started = [recorder, projector, reader]
    try:
        page = await blank()
        post(record_port, project_port, 100)
        await page.goto(f"http://127.0.0.1:{port}/console#/accounts/a")
        await balance_is(page, "R$100.00")
        await expect(page.locator(".record")).to_contain_text("Recording is not set up")
        reader.kill()
        await expect(page.locator("#banner")).to_contain_text("Saldo cannot be reached")
        await expect(page.locator(".pill[data-state]")).to_have_text("Reconnecting…")
        await balance_is(page, "R$100.00")
        post(record_port, project_port, 11)
        started.append(start(BALANCE, database, tmp_path / "b2.log", port, {}))
        await balance_is(page, "R$111.00")
        await expect(page.locator("#banner")).to_be_empty()
        await expect(page.locator(".pill[data-state]")).to_have_text("Live")
        await expect(page.locator(LINES)).to_have_count(2)
    finally:
        for child in started:
            child.kill()


def post(record_port: int, project_port: int, value: int) -> None:
    """Record in the account a, and have it projected."""
    body = {"accountId": "a", "type": "INCOME", "value": value}
    recorder = f"http://127.0.0.1:{record_port}"
    told = httpx.post(f"{recorder}/transactions", json=body, timeout=REQUEST_TIMEOUT_S).json()
    headers = {
        "ce-specversion": "1.0",
        "ce-id": told["id"],
        "ce-source": "/saldo/transactions",
        "ce-type": "saldo.transaction.recorded",
        "ce-subject": "a",
        "ce-sequence": str(told["position"]),
        "ce-time": told["recordedAt"],
        "content-type": "application/json",
    }
    url = f"http://127.0.0.1:{project_port}/"
    content = b'{"event":null}'
    delivered = httpx.post(url, headers=headers, content=content, timeout=REQUEST_TIMEOUT_S)
    assert delivered.status_code == 200


async def test_page_opened_in_an_outage_loads_once_it_is_over(
    console: Console, visit: Open
) -> None:
    account = fresh()
    console.live.recorded(account)
    down = True

    async def refuse(route: Route) -> None:
        await (route.abort("connectionrefused") if down else route.continue_())

    page = await visit()
    await page.route(re.compile(r"/(balances|transactions|accounts)"), refuse)
    await page.goto(f"{console.url}#/accounts/{account}")
    await expect(page.locator("#banner")).to_contain_text("Saldo cannot be reached")
    down = False
    await balance_is(page, "R$10.00")
    await expect(page.locator("#banner")).to_be_empty()


SHOW = """(hidden) => {
    const visibilityState = hidden ? "hidden" : "visible";
    for (const [name, value] of Object.entries({ hidden, visibilityState }))
        Object.defineProperty(document, name, { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_hidden_page_stops_its_stream_and_resumes_when_shown(
    console: Console, visit: Open
) -> None:
    account = fresh()
    [receipt] = console.live.recorded(account)
    page = await visit(f"accounts/{account}", with_clock=True)
    await expect(page.locator(".pill[data-state]")).to_have_text("Live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    async with page.expect_event("requestfailed", lambda request: "stream" in request.url):
        await page.evaluate(SHOW, True)
    console.live.recorded(account, 5)
    await page.clock.fast_forward(60_000)
    assert asked == []
    await balance_is(page, "R$10.00")
    async with page.expect_request(lambda request: "stream" in request.url) as again:
        await page.evaluate(SHOW, False)
    last = await (await again.value).header_value("last-event-id")
    assert f'"{last}"' == etag_of(receipt)
    await balance_is(page, "R$15.00")


async def test_hidden_page_does_not_poll_the_system_status(visit: Open) -> None:
    page = await visit("system", with_clock=True)
    await expect(page.locator(".verdict")).not_to_have_text("Loading…")
    async with page.expect_request("**/system"):
        await page.clock.fast_forward(60_000)
    await page.evaluate(SHOW, True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.clock.fast_forward(60_000)
    assert asked == []
    async with page.expect_request("**/system"):
        await page.evaluate(SHOW, False)


# --- everybody --------------------------------------------------------------------------------


async def test_every_task_works_with_the_keyboard_alone(console: Console, blank: Open) -> None:
    account = fresh()
    console.live.recorded(account, 50)
    page = await blank()
    await page.goto(console.url)
    await expect(page.locator("#token-field")).to_be_focused()
    await page.keyboard.insert_text(console.live.issuer.token(saldo_accounts=[account]))
    await page.keyboard.press("Enter")
    await expect(page.locator(".accounts-list a")).to_have_count(1)
    await tab_to(page, ".skip")
    await page.keyboard.press("Enter")
    await tab_to(page, ".accounts-list a")
    await page.keyboard.press("Enter")
    await balance_is(page, "R$50.00")
    await expect(page.locator(LINES)).to_have_count(1)
    await tab_to(page, '.record input[name="type"]')
    await page.keyboard.press("ArrowRight")
    await tab_to(page, "#amount")
    await page.keyboard.type("2.50")
    await tab_to(page, "#description")
    await page.keyboard.type("By keys")
    await tab_to(page, ".record button.primary")
    await page.keyboard.press("Enter")
    await expect(page.locator(".receipt")).to_contain_text("Recorded: +R$2.50")
    await tab_to(page, ".verify button", backwards=True)
    await page.keyboard.press("Enter")
    await expect(page.locator(".verified")).to_contain_text("The chain holds")
    await tab_to(page, ".lines summary")
    await page.keyboard.press("Enter")
    await expect(page.locator(".lines dl").first).to_be_visible()


async def tab_to(page: Page, selector: str, *, backwards: bool = False) -> None:
    """Press Tab until the element has the focus, visibly."""
    for _ in range(40):
        await page.keyboard.press("Shift+Tab" if backwards else "Tab")
        if await page.evaluate("(s) => document.activeElement.matches(s)", selector):
            # A radio button is unseen, and the label beside it shows the focus.
            seen = """[document.activeElement, document.activeElement.nextElementSibling].some(
                (each) => each !== null && getComputedStyle(each).outlineStyle !== "none")"""
            assert await page.evaluate(seen), f"{selector} does not show that it has the focus"
            return
    pytest.fail(f"Tab does not lead to {selector}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{}, PHONE], ids=["desktop", "phone"])
async def test_page_has_no_accessibility_violations(
    console: Console, blank: Open, scheme: str, size: dict[str, Any]
) -> None:
    """By axe-core, in every state that the page can be in for long."""
    account = fresh()
    console.live.post(account, value=3, description="Salary")
    console.live.deliver(console.live.post(account, "EXPENSE", 5))
    page = await blank(color_scheme=scheme, reduced_motion="reduce", locale="pt-BR", **size)
    await page.goto(console.url)
    await expect(page.locator("#token-dialog")).to_be_visible()
    await no_violation(page)
    await page.locator("#token-field").fill(console.live.issuer.token())
    await page.keyboard.press("Enter")
    await expect(page.locator(".accounts-list a").first).to_be_visible()
    await no_violation(page)
    await page.goto(f"{console.url}#/accounts/{account}")
    await expect(page.locator(LINES)).to_have_count(2)
    await page.locator(f"{LINES}:first-child summary").click()
    await page.locator(".months summary").click()
    await page.locator(".verify button").click()
    await expect(page.locator(".verified .good")).to_be_visible()
    if size:
        await page.locator(".record summary").click()
    await page.locator("#amount").fill("1,234")
    await page.locator("#amount").blur()
    await expect(page.locator("#amount-fault")).not_to_be_empty()
    await no_violation(page)
    width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert await page.evaluate(width), "the page is wider than the screen"
    await page.goto(f"{console.url}#/system")
    await expect(page.locator(".figure")).to_have_count(5)
    await no_violation(page)


async def no_violation(page: Page) -> None:
    results = await Axe().run(page)
    found = [
        (each["id"], [node["html"][:120] for node in each["nodes"]])
        for each in results.response["violations"]
    ]
    assert found == [], json.dumps(found, indent=1)


async def test_content_policy_violations_fail_a_test(console: Console, blank: Open) -> None:
    """So that the silence of the other tests says something."""
    page = await blank()
    await page.goto(console.url)
    await page.evaluate(
        """() => {
            const style = document.createElement("style");
            style.textContent = "p { color: red }";
            document.head.append(style);
        }"""
    )
    faults = blank.faults
    async with page.expect_event("console", lambda m: "policy: connect-src" in m.text):
        await page.evaluate("fetch('http://127.0.0.1:1/').catch(() => {})")
    assert any("policy: style-src" in fault for fault in faults)
    assert any("policy: connect-src" in fault for fault in faults)
    faults.clear()
