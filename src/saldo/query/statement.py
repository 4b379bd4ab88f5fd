"""An account's statement and the list of accounts, page by page.

A page starts below a position that the cursor names, so what is recorded meanwhile neither shifts
nor repeats a line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.domain.commands import ACCOUNT_ID
from saldo.domain.events import format_time
from saldo.domain.money import format_minor, value_members
from saldo.serve.http.problems import FieldError, Invalid

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from saldo.query.balances import Balances, Standing

STATEMENT_LIMIT_DEFAULT = 50
STATEMENT_LIMIT_MAX = 500
# How far a page looks for lines that its filters let through. All of a million lines take more than
# a second of one of the pool's few connections, this part about 15 ms.
POSITIONS_A_PAGE_MAX = 10_000
CURSOR_CHARACTERS_MAX = 400
NEWEST = 2**63 - 1

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
ACCOUNTS_PAGE = """
SELECT account_id, currency, balance_minor, position, recorded_at
FROM read_model.balance
WHERE account_id > $1 AND position > 0 AND ($2::text[] IS NULL OR account_id = ANY ($2))
ORDER BY account_id LIMIT $3
"""
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
    """Which lines of a statement are asked for; None leaves a filter out."""

    kind: str | None = None
    occurred_from: datetime | None = None
    occurred_before: datetime | None = None
    text: str | None = None

    def digest(self, account_id: str) -> str:
        """What a cursor is bound to: it goes on with the same question only."""
        return hashlib.sha256(repr((account_id, self)).encode()).hexdigest()[:16]


def make_cursor(kind: str, bound_to: str, after: str | int) -> str:
    """An opaque page token."""
    text = json.dumps([kind, bound_to, after], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(text: str, kind: str, bound_to: str) -> str | int:
    """Where the page of ``text`` begins; raises Invalid for any other cursor."""
    fault = Invalid([FieldError("cursor", "must be the `next` of an answer to this very question")])
    if len(text) > CURSOR_CHARACTERS_MAX:
        raise fault
    try:
        content = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise fault from error
    if not isinstance(content, list) or content[:2] != [kind, bound_to] or len(content) != 3:  # noqa: PLR2004 - the three parts
        raise fault
    after = content[2]
    if isinstance(after, bool) or not isinstance(after, (str, int)):
        raise fault
    if isinstance(after, int) and not 0 <= after <= NEWEST:
        raise fault
    if isinstance(after, str) and not ACCOUNT_ID.fullmatch(after):
        raise fault
    return after


async def statement_json(
    balances: Balances, standing: Standing, filters: Filters, limit: int, cursor: str | None
) -> str:
    """Return a page of the account's statement, newest first.

    It may have fewer lines than ``limit``, or none, and a next page all the same: it looks at
    POSITIONS_A_PAGE_MAX positions.
    """
    account_id = standing.account_id
    bound_to = filters.digest(account_id)
    below = NEWEST if cursor is None else read_cursor(cursor, "statement", bound_to)
    if not isinstance(below, int):
        raise Invalid([FieldError("cursor", "is malformed")])
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
    lines = ",".join(line_json(row) for row in rows[:limit])
    ends_at = rows[limit - 1]["position"] if len(rows) > limit else lowest
    following = json.dumps(make_cursor("statement", bound_to, ends_at)) if ends_at > 1 else "null"
    return f'{{"accountId":"{account_id}","transactions":[{lines}],"next":{following}}}'


def line_json(row: asyncpg.Record) -> str:
    """One line of a statement."""
    currency = row["currency"]
    reverses = "null" if row["reverses"] is None else f'"{row["reverses"]}"'
    reversed_by = "null" if row["reversed_by"] is None else f'"{row["reversed_by"]}"'
    return (
        f'{{"id":"{row["event_id"]}","position":{row["position"]},"type":"{row["kind"]}",'
        f'{value_members(row["amount_minor"], currency)},"currency":"{currency}",'
        f'"balance":{format_minor(row["balance_minor"], currency)},'
        f'"description":{json.dumps(row["description"], ensure_ascii=False)},'
        f'"metadata":{row["metadata"] or "{}"},'
        f'"occurredAt":"{format_time(row["occurred_at"])}",'
        f'"recordedAt":"{format_time(row["recorded_at"])}",'
        f'"reverses":{reverses},"reversedBy":{reversed_by},"hash":"{row["hash"].hex()}"}}'
    )


async def accounts_json(
    balances: Balances, accounts: frozenset[str] | None, limit: int, cursor: str | None
) -> str:
    """A page of the accounts that the caller may see, in the order of their ids."""
    after = "" if cursor is None else read_cursor(cursor, "accounts", "")
    if not isinstance(after, str):
        raise Invalid([FieldError("cursor", "is malformed")])
    visible = None if accounts is None else sorted(accounts)
    rows = await balances.fetch(ACCOUNTS_PAGE, after, visible, limit + 1)
    shown = ",".join(
        f'{{"accountId":"{row["account_id"]}",'
        f"{value_members(row['balance_minor'], row['currency'])},"
        f'"currency":"{row["currency"]}","position":{row["position"]},'
        f'"recordedAt":"{format_time(row["recorded_at"])}"}}'
        for row in rows[:limit]
    )
    following = (
        json.dumps(make_cursor("accounts", "", rows[limit - 1]["account_id"]))
        if len(rows) > limit
        else "null"
    )
    return f'{{"accounts":[{shown}],"next":{following}}}'


async def daily_json(balances: Balances, account_id: str, currency: str, limit: int) -> str:
    """The last ``limit`` UTC days on which something occurred, the oldest of them first."""

    def shown(minor: int) -> str:
        return format_minor(int(minor), currency)

    rows = await balances.fetch(DAYS, account_id, limit)
    days = ",".join(
        f'{{"day":"{row["day"].isoformat()}","income":{shown(row["income_minor"])},'
        f'"expense":{shown(row["expense_minor"])},"transactions":{row["transactions"]},'
        f'"balance":{shown(row["balance_minor"])}}}'
        for row in reversed(rows)
    )
    return f'{{"accountId":"{account_id}","currency":"{currency}","days":[{days}]}}'
