"""The commands that ask the functions: record, balance, statement, demo."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from saldo.operate.demo import sample
from saldo.operate.ledger_client import NDJSON, Answered, Functions
from saldo.operate.terminal import AsJson, answers, fail, print_json, print_table, progress_bar

CHUNK_LINES = 2_000
PAGES_MAX = 10_000

Account = Annotated[str, typer.Argument(metavar="ACCOUNT")]


def record_command(  # noqa: PLR0913 - a command line has one parameter for each option
    account: Account,
    kind: Annotated[str, typer.Argument(metavar="INCOME|EXPENSE")],
    value: Annotated[str, typer.Argument(help="A decimal, such as 10.50.")],
    description: Annotated[str, typer.Argument()] = "",
    *,
    currency: Annotated[str | None, typer.Option(help="Default: the account's own.")] = None,
    occurred_at: Annotated[str | None, typer.Option(help="RFC 3339; default: now.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key; default: a new one.")] = None,
    expected: Annotated[int | None, typer.Option(help="Only at this position.")] = None,
    as_json: AsJson = False,
) -> None:
    """Record an income or an expense."""
    members: dict[str, Any] = {
        "accountId": account,
        "type": kind.upper(),
        "value": value,
        "description": description,
    }
    if currency is not None:
        members["currency"] = currency
    if occurred_at is not None:
        members["occurredAt"] = occurred_at
    headers = {"idempotency-key": f'"{key or uuid.uuid4()}"'}
    if expected is not None:
        headers["if-match"] = f'"{expected}"'
    try:
        answer = Functions.from_environment().record(json.dumps(members).encode(), **headers)
    except Answered as refused:
        fail(str(refused))
    if as_json:
        print_json(answer)
        return
    answers.print(
        f"{answer['id']}: position {answer['position']}, "
        f"balance {answer['balance']} {answer['currency']}"
    )


def balance_command(
    accounts: Annotated[list[str], typer.Argument(metavar="ACCOUNT...")],
    *,
    as_of: Annotated[str | None, typer.Option(help="As recorded then: RFC 3339.")] = None,
    effective_at: Annotated[str | None, typer.Option(help="What had occurred by then.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show balances as they stand, or one as it stood."""
    parameters = [("accountId", account) for account in accounts]
    if as_of is not None:
        parameters.append(("asOf", as_of))
    if effective_at is not None:
        parameters.append(("effectiveAt", effective_at))
    try:
        answer, headers = Functions.from_environment().get("/balances", parameters)
    except Answered as refused:
        fail(str(refused))
    if as_json:
        print_json(answer)
        return
    rows = answer.get("balances", [answer])
    behind = headers.get("saldo-behind", "") if len(accounts) == 1 else ""
    print_table(
        ("account", "balance", "currency", "position", "behind"),
        [
            [r["accountId"], r.get("value", r.get("status")), r.get("currency"), r.get("position")]
            + ["blocked" if "blocked" in r else behind]
            for r in rows
        ],
    )


def statement_command(
    account: Account,
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    text: Annotated[str | None, typer.Option(help="Only descriptions that hold this.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show an account's transactions with the balance after each."""
    functions = Functions.from_environment()
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        parameters = [("accountId", account), ("limit", str(min(100, limit - len(found))))]
        if text is not None:
            parameters.append(("text", text))
        if cursor is not None:
            parameters.append(("cursor", cursor))
        try:
            answer, _headers = functions.get("/transactions", parameters)
        except Answered as refused:
            fail(str(refused))
        found += answer["transactions"]
        cursor = answer["next"]
        if cursor is None or len(found) >= limit:
            break
    if as_json:
        print_json(found)
        return
    print_table(
        ("position", "occurred", "value", "balance", "currency", "description"),
        [
            [t["position"], t["occurredAt"][:16].replace("T", " ")]
            + [f"{'' if t['type'] == 'INCOME' else '-'}{t['value']}", t["balance"], t["currency"]]
            + [(t["description"] or "") + (" (reversed)" if t["reversedBy"] else "")]
            for t in found
        ],
    )


def demo_command(
    *,
    seed: Annotated[int, typer.Option(help="Another seed is another sample.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Record a lively sample: several accounts, a year of salaries, rents and groceries."""
    functions = Functions.from_environment()
    lines = list(sample(seed, datetime.now(UTC).date()))
    accounts: dict[str, str] = {}
    replayed = 0
    began = time.monotonic()
    with progress_bar("transactions", as_json=as_json) as progress:
        for start in range(0, len(lines), CHUNK_LINES):
            chunk = lines[start : start + CHUNK_LINES]
            try:
                answer = functions.record("\n".join(chunk).encode(), media_type=NDJSON)
            except Answered as refused:
                fail(str(refused))
            for recorded in answer["transactions"]:
                accounts[recorded["accountId"]] = f"{recorded['balance']} {recorded['currency']}"
                replayed += bool(recorded.get("replayed"))
            progress(start + len(chunk), len(lines))
    seconds = time.monotonic() - began
    if as_json:
        print_json({"transactions": len(lines), "replayed": replayed, "balances": accounts})
        return
    print_table(("account", "balance"), accounts.items())
    answers.print(
        f"{len(lines) - replayed} transactions of {len(accounts)} accounts "
        f"recorded in {seconds:.1f} s" + (f", {replayed} were there already" if replayed else "")
    )
