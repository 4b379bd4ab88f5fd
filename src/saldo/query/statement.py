"""An account's statement and the list of accounts, page by page.

A page starts below a position that the cursor names, so what is recorded meanwhile neither shifts
nor repeats a line.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from saldo.domain.commands import ACCOUNT_ID, Kind
from saldo.domain.events import format_time
from saldo.domain.money import format_minor
from saldo.query.balances import with_bounded_times
from saldo.query.responses import Account, Accounts, Day, Days, Line, Statement
from saldo.serve.http.members import money
from saldo.serve.http.problems import FieldError, Invalid
from saldo.serve.http.request import TIME_FAULT, parse_time

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from saldo.query.balances import Balances, Standing
    from saldo.serve.http.request import Request

# How far a page looks for lines that its filters let through. All of a million lines take more than
# a second of one of the pool's few connections, this part about 15 ms.
POSITIONS_A_PAGE_MAX = 10_000
CURSOR_CHARACTERS_MAX = 400
TEXT_FILTER_CHARACTERS_MAX = 100
NEWEST = 2**63 - 1
# A cursor's content: its kind, what it is bound to, and where the page begins.
_CURSORS: dict[str, msgspec.json.Decoder[Any]] = {
    "statement": msgspec.json.Decoder(
        tuple[Literal["statement"], str, Annotated[int, Meta(ge=0, le=NEWEST)]]
    ),
    "accounts": msgspec.json.Decoder(
        tuple[Literal["accounts"], str, Annotated[str, Meta(pattern=rf"^{ACCOUNT_ID.pattern}\Z")]]
    ),
}

STATEMENT_PAGE = """
SELECT position, event_id, kind, amount_minor, currency, balance_minor, description, metadata,
       occurred_at, recorded_at, reverses, reversed_by, hash
FROM read_model.statement
WHERE account_id = $1 AND position < $2 AND position >= $8 AND kind <> 'LIMIT'
  AND ($3::text IS NULL OR kind = $3)
  AND ($4::timestamptz IS NULL OR occurred_at >= $4)
  AND ($5::timestamptz IS NULL OR occurred_at < $5)
  AND ($6::text IS NULL OR strpos(lower(description), lower($6)) > 0)
ORDER BY position DESC LIMIT $7
"""
ACCOUNTS_PAGE = with_bounded_times("""
SELECT account_id, currency, balance_minor, position, bounded(recorded_at) AS recorded_at
FROM read_model.balance
WHERE account_id > $1 AND position > 0 AND ($2::text[] IS NULL OR account_id = ANY ($2))
ORDER BY account_id LIMIT $3
""")
# The last days of all: the sum runs over every day before the rows are cut.
DAYS = """
SELECT day, income_minor, expense_minor, transactions, balance_minor FROM (
    SELECT day, income_minor, expense_minor, transactions,
           sum(income_minor - expense_minor) OVER (ORDER BY day) AS balance_minor
    FROM read_model.daily_total WHERE account_id = $1
) AS d ORDER BY day DESC LIMIT $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which lines of a statement to return; None leaves a filter out."""

    kind: str | None = None
    occurred_from: datetime | None = None
    occurred_before: datetime | None = None
    text: str | None = None

    def digest(self, account_id: str) -> str:
        """Return what a cursor is bound to: it continues the same query only."""
        return hashlib.sha256(repr((account_id, self)).encode()).hexdigest()[:16]


def read_filters(request: Request) -> Filters:
    """Return the filters that the query's parameters name; raises Invalid."""
    errors: list[FieldError] = []
    kind, text = request.parameter("type"), request.parameter("text")
    if kind is not None and kind not in Kind.__members__:
        errors.append(FieldError("type", "must be INCOME or EXPENSE"))
    given = {name: request.parameter(name) for name in ("from", "before")}
    moments = {name: parse_time(said) for name, said in given.items() if said is not None}
    errors += [FieldError(name, TIME_FAULT) for name, moment in moments.items() if moment is None]
    if text is not None and (len(text) > TEXT_FILTER_CHARACTERS_MAX or "\0" in text):
        fault = f"must have at most {TEXT_FILTER_CHARACTERS_MAX} characters"
        errors.append(FieldError("text", fault))
    if errors:
        raise Invalid(errors)
    occurred_from, occurred_before = moments.get("from"), moments.get("before")
    return Filters(
        kind=kind, occurred_from=occurred_from, occurred_before=occurred_before, text=text
    )


def make_cursor(kind: str, bound_to: str, after: str | int) -> str:
    """Return an opaque page token."""
    text = json.dumps([kind, bound_to, after], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(text: str, kind: str, bound_to: str) -> Any:
    """Return where the page of ``text`` begins; raises Invalid for any other cursor."""
    with contextlib.suppress(ValueError, msgspec.DecodeError):
        if len(text) <= CURSOR_CHARACTERS_MAX:
            content = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            _, found, after = _CURSORS[kind].decode(content)
            if found == bound_to:
                return after
    fault = "is not valid for this query: use `next` from the previous page of the same query"
    raise Invalid([FieldError("cursor", fault)])


async def read_statement(
    balances: Balances, standing: Standing, filters: Filters, limit: int, cursor: str | None
) -> Statement:
    """Return a page of the account's statement, newest first.

    It may have fewer lines than ``limit``, or none, and still have a next page: it looks at
    POSITIONS_A_PAGE_MAX positions.
    """
    account_id = standing.account_id
    bound_to = filters.digest(account_id)
    below = NEWEST if cursor is None else read_cursor(cursor, "statement", bound_to)
    below = min(below, standing.position + 1)
    lowest = max(below - POSITIONS_A_PAGE_MAX, 1)
    rows = await balances.fetch(
        STATEMENT_PAGE,
        account_id,
        below,
        filters.kind,
        filters.occurred_from,
        filters.occurred_before,
        filters.text,
        limit + 1,
        lowest,
    )
    ends_at = rows[limit - 1]["position"] if len(rows) > limit else lowest
    return Statement(
        account_id=account_id,
        transactions=[_line(row) for row in rows[:limit]],
        next=make_cursor("statement", bound_to, ends_at) if ends_at > 1 else None,
    )


def _line(row: asyncpg.Record) -> Line:
    currency = row["currency"]
    text = format_minor(row["amount_minor"], currency)
    return Line(
        id=row["event_id"],
        position=row["position"],
        type=row["kind"],
        value=msgspec.Raw(text),
        value_text=text,
        currency=currency,
        balance=money(row["balance_minor"], currency),
        description=row["description"],
        metadata=msgspec.Raw(row["metadata"] or "{}"),
        occurred_at=format_time(row["occurred_at"]),
        recorded_at=format_time(row["recorded_at"]),
        reverses=row["reverses"],
        reversed_by=row["reversed_by"],
        hash=row["hash"].hex(),
    )


async def read_accounts(
    balances: Balances, visible: frozenset[str] | None, limit: int, cursor: str | None
) -> Accounts:
    """Return a page of the ``visible`` accounts, by their ids; None means all accounts."""
    after = "" if cursor is None else read_cursor(cursor, "accounts", "")
    rows = await balances.fetch(
        ACCOUNTS_PAGE, after, None if visible is None else sorted(visible), limit + 1
    )
    more = len(rows) > limit
    return Accounts(
        accounts=[_account(row) for row in rows[:limit]],
        next=make_cursor("accounts", "", rows[limit - 1]["account_id"]) if more else None,
    )


def _account(row: asyncpg.Record) -> Account:
    text = format_minor(row["balance_minor"], row["currency"])
    return Account(
        account_id=row["account_id"],
        value=msgspec.Raw(text),
        value_text=text,
        currency=row["currency"],
        position=row["position"],
        recorded_at=format_time(row["recorded_at"]),
    )


async def read_days(balances: Balances, account_id: str, currency: str, limit: int) -> Days:
    """Return the last ``limit`` UTC days on which something occurred, oldest first."""
    rows = await balances.fetch(DAYS, account_id, limit)
    days = [
        Day(
            day=row["day"],
            income=money(int(row["income_minor"]), currency),
            expense=money(int(row["expense_minor"]), currency),
            transactions=row["transactions"],
            balance=money(int(row["balance_minor"]), currency),
        )
        for row in reversed(rows)
    ]
    return Days(account_id=account_id, currency=currency, days=days)
