"""The commands that call the functions: record, balance, statement and demo."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from saldo.operate import ledger_client
from saldo.operate.demo import sample
from saldo.operate.terminal import AsJson, print_table, progress_bar, respond, results

CHUNK_LINES = 2_000
PAGE_LINES_MAX = 100

Account = Annotated[str, typer.Argument(metavar="ACCOUNT")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """The optional values of ``saldo record``."""

    description: Annotated[str, typer.Argument()] = ""
    currency: Annotated[str | None, typer.Option(help="Default: the account's own.")] = None
    occurred_at: Annotated[str | None, typer.Option(help="RFC 3339; default: now.")] = None
    key: Annotated[str | None, typer.Option(help="Idempotency key; default: a new one.")] = None
    expected: Annotated[str | None, typer.Option(help="Only at this position or ETag.")] = None


def record_command(
    account: Account,
    kind: Annotated[str, typer.Argument(metavar="INCOME|EXPENSE")],
    value: Annotated[str, typer.Argument(help="A decimal, such as 10.50.")],
    *,
    options: RecordOptions,
    as_json: AsJson = False,
) -> None:
    """Record an income or an expense."""
    members = {
        "accountId": account,
        "type": kind.upper(),
        "value": value,
        "description": options.description,
        "currency": options.currency,
        "occurredAt": options.occurred_at,
    }
    members = {name: member for name, member in members.items() if member is not None}
    headers = {"idempotency-key": f'"{options.key or uuid.uuid4()}"'}
    if options.expected is not None:
        headers["if-match"] = '"' + options.expected.strip('"') + '"'
    recorded = ledger_client.record(json.dumps(members).encode(), **headers)
    shown = "{id}: position {position}, balance {balance} {currency}".format_map(recorded)
    respond(recorded, shown, as_json=as_json)


def balance_command(
    accounts: Annotated[list[str], typer.Argument(metavar="ACCOUNT...")],
    *,
    as_of: Annotated[str | None, typer.Option(help="As recorded then: RFC 3339.")] = None,
    effective_at: Annotated[str | None, typer.Option(help="What had occurred by then.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show balances as they stand, or one as it stood."""
    parameters = {"accountId": accounts, "asOf": as_of, "effectiveAt": effective_at}
    found, headers = ledger_client.get("/balances", parameters)
    behind = headers.get("saldo-behind", "") if len(accounts) == 1 else ""
    rows = [
        [r["accountId"], r.get("value", r.get("status")), r.get("currency"), r.get("position")]
        + ["blocked" if "blocked" in r else behind]
        for r in found.get("balances", [found])
    ]
    columns = ("account", "balance", "currency", "position", "behind")
    respond(found, lambda: print_table(columns, rows), as_json=as_json)


def statement_command(
    account: Account,
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    text: Annotated[str | None, typer.Option(help="Only descriptions that hold this.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show an account's transactions with the balance after each."""
    found: list[dict[str, Any]] = []
    parameters = {"accountId": account, "text": text}
    more = True
    while more and len(found) < limit:
        lines_max = min(PAGE_LINES_MAX, limit - len(found))
        page, _headers = ledger_client.get("/transactions", {**parameters, "limit": lines_max})
        found += page["transactions"]
        parameters["cursor"] = page["next"]
        more = page["next"] is not None
    rows = [
        [t["position"], t["occurredAt"][:16].replace("T", " ")]
        + [f"{'' if t['type'] == 'INCOME' else '-'}{t['value']}", t["balance"], t["currency"]]
        + [(t["description"] or "") + (" (reversed)" if t["reversedBy"] else "")]
        for t in found
    ]
    columns = ("position", "occurred", "value", "balance", "currency", "description")
    respond(found, lambda: print_table(columns, rows), as_json=as_json)


def demo_command(
    *,
    seed: Annotated[int, typer.Option(help="Another seed is another sample.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Record a lively sample: several accounts, a year of salaries, rents and groceries."""
    lines = list(sample(seed, datetime.now(UTC).date()))
    accounts: dict[str, str] = {}
    replayed = 0
    began = time.monotonic()
    with progress_bar("transactions", as_json=as_json) as progress:
        for start in range(0, len(lines), CHUNK_LINES):
            content = "\n".join(lines[start : start + CHUNK_LINES]).encode()
            bulk = ledger_client.record(content, media_type="application/x-ndjson")
            for recorded in bulk["transactions"]:
                accounts[recorded["accountId"]] = f"{recorded['balance']} {recorded['currency']}"
                replayed += bool(recorded.get("replayed"))
            progress(min(start + CHUNK_LINES, len(lines)), len(lines))
    seconds = time.monotonic() - began

    def show() -> None:
        print_table(("account", "balance"), accounts.items())
        results.print(
            f"{len(lines) - replayed} transactions of {len(accounts)} accounts recorded in "
            f"{seconds:.1f} s" + (f", {replayed} were there already" if replayed else "")
        )

    document = {"transactions": len(lines), "replayed": replayed, "balances": accounts}
    respond(document, show, as_json=as_json)
