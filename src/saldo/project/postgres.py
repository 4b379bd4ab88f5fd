"""The read side's databases in PostgreSQL."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from saldo.project.dead_letters import letter_of
from saldo.project.errors import ReadModelBusy, ReadModelRefused, ReadModelUnavailable
from saldo.project.fold import Balance, StatementLine, StreamEvent, new_balance
from saldo.project.lag_sweep import OVERLAP, PAGES_MAX
from saldo.project.ports import Appended
from saldo.serve import database
from saldo.serve.clock import store_now
from saldo.serve.database import Failure, close_pool, column, translating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from saldo.project.fold import Folded
    from saldo.project.ports import Lag, States

    Connection = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

FAILURES: dict[Failure, Callable[..., Exception]] = {
    Failure.BUSY: ReadModelBusy,
    Failure.CONTRADICTED: ReadModelRefused,
    Failure.VALUE: ReadModelRefused,
    Failure.REFUSED: ReadModelUnavailable,
    Failure.LOST: ReadModelUnavailable,
}
LAG_SWEEP = "lagging"
ERASURE_SWEEP = "erasures"
ERASED_PAGE = 5_000
CLOSE_POOL_S = 5.0
FIRST_ERASED = datetime(1970, 1, 1, tzinfo=UTC)

# Locks in the order of account ids, the same in every process. The rows are those of the moment
# when their locks were got: FOR UPDATE reads a row again that it had to wait for.
LOCK_BALANCES = """
SELECT account_id, hash, currency, balance_minor, position, recorded_at, blocked_reason,
       blocked_schema
FROM read_model.balance WHERE account_id = ANY ($1::text[])
ORDER BY account_id FOR UPDATE
"""
# If a balance is missing: creates and locks in one statement, in the same order. Its own snapshot
# is older than the locks, so LOCK_BALANCES reads the rows afterwards.
CREATE_BALANCES = """
INSERT INTO read_model.balance AS b (account_id)
SELECT id FROM unnest($1::text[]) AS id ORDER BY id COLLATE "C"
ON CONFLICT (account_id) DO UPDATE SET account_id = excluded.account_id WHERE false
"""
READ_FROM = """
SELECT e.account_id, e.position, e.event_id, e.public_text, e.private_text, e.hash
FROM unnest($1::text[], $2::bigint[]) AS a (account_id, position)
CROSS JOIN LATERAL (
    SELECT s.account_id, s.position, s.event_id, s.hash,
           CASE WHEN s.position > a.position THEN s.public_text END AS public_text,
           CASE WHEN s.position > a.position THEN s.private_text END AS private_text
    FROM event_store.event AS s
    WHERE s.account_id = a.account_id AND s.position >= a.position
    ORDER BY s.position LIMIT $3 + 1
) AS e
"""
CLEAR = """
WITH cleared AS (DELETE FROM read_model.statement WHERE account_id = ANY ($1::text[]))
DELETE FROM read_model.daily_total WHERE account_id = ANY ($1::text[])
"""
# One statement for a whole round: the columns of StatementLine, then those of Balance.
WRITE = """
WITH lines AS (
    INSERT INTO read_model.statement (account_id, position, event_id, kind, amount_minor, currency,
        balance_minor, description, metadata, occurred_at, recorded_at, reverses, hash)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::text[], $5::bigint[],
        $6::text[], $7::bigint[], $8::text[], $9::jsonb[], $10::timestamptz[],
        $11::timestamptz[], $12::uuid[], $13::bytea[])
    RETURNING account_id, kind, amount_minor, occurred_at
), totals AS (
    INSERT INTO read_model.daily_total AS t
        (account_id, day, income_minor, expense_minor, transactions)
    SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'INCOME'), 0),
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'EXPENSE'), 0), count(*)
    FROM lines WHERE amount_minor IS NOT NULL GROUP BY 1, 2
    ON CONFLICT (account_id, day) DO UPDATE
    SET income_minor = t.income_minor + excluded.income_minor,
        expense_minor = t.expense_minor + excluded.expense_minor,
        transactions = t.transactions + excluded.transactions
)
UPDATE read_model.balance AS b
SET currency = n.currency, balance_minor = n.balance_minor, position = n.position, hash = n.hash,
    recorded_at = n.recorded_at, blocked_reason = n.blocked_reason,
    blocked_schema = n.blocked_schema,
    blocked_at = CASE WHEN n.blocked_schema IS NULL THEN NULL
                      ELSE coalesce(b.blocked_at, clock_timestamp()) END
FROM unnest($14::text[], $15::bytea[], $16::text[], $17::bigint[], $18::bigint[],
            $19::timestamptz[], $20::text[], $21::int[])
    AS n (account_id, hash, currency, balance_minor, position, recorded_at, blocked_reason,
          blocked_schema)
WHERE b.account_id = n.account_id
"""
# An account that has no events (a forged record named it) leaves no row behind.
DROP_EMPTY = """
DELETE FROM read_model.balance
WHERE account_id = ANY ($1::text[]) AND position = 0 AND blocked_schema IS NULL
"""
MARK_REVERSED = """
UPDATE read_model.statement AS s SET reversed_by = r.reversed_by
FROM unnest($1::text[], $2::uuid[], $3::uuid[]) AS r (account_id, event_id, reversed_by)
WHERE s.account_id = r.account_id AND s.event_id = r.event_id
"""
PARK = """
INSERT INTO read_model.dead_letter
    (dead_letter_id, account_id, event_id, position, reason, attributes, data)
SELECT gen_random_uuid(), account_id, event_id, position, reason, '{}'::jsonb, data
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[])
    AS d (account_id, event_id, position, reason, data)
ON CONFLICT (account_id, event_id) DO UPDATE
SET reason = excluded.reason, received_at = clock_timestamp(), redriven_at = NULL
"""

PARK_DELIVERED = """
INSERT INTO read_model.dead_letter
    (dead_letter_id, account_id, event_id, position, reason, attributes, data)
VALUES (gen_random_uuid(), $1, $2, $3, $4, $5::jsonb, $6)
ON CONFLICT (account_id, event_id) DO UPDATE
SET received_at = clock_timestamp(), redriven_at = NULL
"""
GIVEN_UP = "SELECT dead_letters, blocked_accounts FROM read_model.system"

READ_WATERMARK = "SELECT watermark FROM read_model.sweep WHERE name = $1"
# A stamp that is no time must not keep the sweep from all other accounts: PostgreSQL's times reach
# further than Python's on both sides, and past its clock.
FIRST_APPENDED = """
SELECT least(appended_at, clock_timestamp()) FROM event_store.event
WHERE appended_at >= 'epoch' ORDER BY appended_at LIMIT 1
"""
WALK = """
SELECT account_id, position, hash, least(appended_at, '9999-12-30Z') AS appended_at
FROM event_store.event
WHERE appended_at >= $1 AND appended_at <= $2 ORDER BY appended_at LIMIT $3
"""
STANDING = """
SELECT account_id, position, hash FROM read_model.balance
WHERE account_id = ANY ($1::text[])
"""
NOTE = """
INSERT INTO read_model.sweep (name, watermark, swept_at, found, lag_positions, lag_s)
VALUES ($1, $2, clock_timestamp(), $3, $4, $5)
ON CONFLICT (name) DO UPDATE
SET watermark = excluded.watermark, swept_at = excluded.swept_at,
    found = excluded.found, lag_positions = excluded.lag_positions, lag_s = excluded.lag_s
"""
# Each page starts after the last row of the one before, so however many were erased at one moment
# none is skipped. What is stamped in the future waits until then: it would hide later ones.
ERASED = """
SELECT erased_at, account_id, position FROM event_store.event
WHERE erased_at >= $1 AND erased_at <= statement_timestamp()
  AND (erased_at, account_id, position) > ($1, $2, $3)
ORDER BY erased_at, account_id, position LIMIT $4
"""
ERASE_COPIES = """
UPDATE read_model.statement AS s SET description = NULL, metadata = NULL
FROM unnest($1::text[], $2::bigint[]) AS e (account_id, position)
WHERE s.account_id = e.account_id AND s.position = e.position
  AND (s.description IS NOT NULL OR s.metadata IS NOT NULL)
"""
CONFIRM_ERASED = """
SELECT account_id, position FROM event_store.event
WHERE account_id = $1 AND position = $2 AND erased_at IS NOT NULL
"""


class PostgresReadModelTransaction:
    """ReadModelTransaction, on one connection of the pool."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lock(self, account_ids: Sequence[str]) -> list[Balance]:
        rows = await self.run(LOCK_BALANCES, account_ids)
        if len(rows) < len(account_ids):
            await self.run(CREATE_BALANCES, account_ids)
            rows = await self.run(LOCK_BALANCES, account_ids)
        return [new_balance(row[0]) if row["hash"] is None else Balance(*row) for row in rows]

    async def clear(self, account_ids: Sequence[str]) -> None:
        await self.run(CLEAR, account_ids)

    async def write(self, folded: Folded) -> None:
        columns = _columns(StatementLine, folded.lines) + _columns(Balance, folded.balances)
        await self.run(WRITE, *columns)
        if empty := [b.account_id for b in folded.balances if b.position == 0]:
            await self.run(DROP_EMPTY, empty)
        reversals = [(e.account_id, e.reverses, e.event_id) for e in folded.lines if e.reverses]
        if reversals:
            await self.run(MARK_REVERSED, *map(list, zip(*reversals, strict=True)))
        letters = [
            (event.account_id, str(event.event_id), event.position, reason, event.public_text or "")
            for event, reason in folded.dead
        ]
        if letters:
            await self.run(PARK, *map(list, zip(*letters, strict=True)))

    async def run(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run one statement."""
        return await _fetch(self._connection, statement, *arguments)


async def _fetch(on: Pool | Connection, statement: str, *arguments: object) -> list[asyncpg.Record]:
    with translating(FAILURES):
        return await on.fetch(statement, *arguments)


def _columns(kind: type[StatementLine | Balance], rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return the rows' columns, as unnest takes them."""
    if not rows:
        return [[]] * len(kind._fields)
    return [column(values) for values in zip(*rows, strict=True)]


class PostgresDatabases:
    """Databases, on a pool of connections to each: they may be on different servers."""

    transaction = PostgresReadModelTransaction

    def __init__(self, streams: Pool, read_model: Pool) -> None:
        self._streams = streams
        self._read_model = read_model

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[PostgresReadModelTransaction]:
        with translating(FAILURES):
            connection = await database.begin(self._read_model)
        transaction = self.transaction(connection)
        try:
            yield transaction
            await transaction.run("COMMIT")
        except BaseException:
            await database.roll_back(self._read_model, connection)
            raise
        await self._read_model.release(connection)

    async def read_from(
        self, positions: Sequence[tuple[str, int]], events_max: int
    ) -> dict[str, list[StreamEvent]]:
        account_ids, after = zip(*positions, strict=True)
        rows = await _fetch(self._streams, READ_FROM, account_ids, after, events_max)
        events: dict[str, list[StreamEvent]] = {}
        for row in rows:
            events.setdefault(row[0], []).append(StreamEvent(*row))
        return events

    async def watermark(self) -> datetime | None:
        noted = await _fetch(self._read_model, READ_WATERMARK, LAG_SWEEP)
        rows = noted or await _fetch(self._streams, FIRST_APPENDED)
        return rows[0][0] if rows else None

    async def store_now(self) -> datetime:
        with translating(FAILURES):
            return await store_now(self._streams)

    async def walk(self, since: datetime, until: datetime, limit: int) -> list[Appended]:
        return [Appended(*row) for row in await _fetch(self._streams, WALK, since, until, limit)]

    async def standing(self, account_ids: Sequence[str]) -> States:
        rows = await _fetch(self._read_model, STANDING, account_ids)
        return {account_id: (position, hash_) for account_id, position, hash_ in rows}

    async def note(self, watermark: datetime, found: int, lag: Lag) -> None:
        await _fetch(self._read_model, NOTE, LAG_SWEEP, watermark, found, *lag)

    async def erase_copies(self, now: datetime) -> None:
        noted = await _fetch(self._read_model, READ_WATERMARK, ERASURE_SWEEP)
        last = (min(noted[0][0], now) - OVERLAP if noted else FIRST_ERASED, "", 0)
        found = 0
        for _ in range(PAGES_MAX):
            rows = await _fetch(self._streams, ERASED, *last, ERASED_PAGE)
            if rows:
                found += len(rows)
                times, account_ids, positions = zip(*rows, strict=True)
                last = (times[-1], account_ids[-1], positions[-1])
                await _fetch(self._read_model, ERASE_COPIES, account_ids, positions)
            if len(rows) < ERASED_PAGE:
                break
        if found:
            await _fetch(self._read_model, NOTE, ERASURE_SWEEP, last[0], found, 0, 0.0)

    async def erase_copy(self, account_id: str, position: int) -> None:
        if await _fetch(self._streams, CONFIRM_ERASED, account_id, position):
            await _fetch(self._read_model, ERASE_COPIES, [account_id], [position])

    async def park(self, attributes: Mapping[str, str], public_text: str | None) -> None:
        await _fetch(self._read_model, PARK_DELIVERED, *letter_of(attributes, public_text))

    async def given_up(self) -> tuple[int, int]:
        [row] = await _fetch(self._read_model, GIVEN_UP)
        return row["dead_letters"], row["blocked_accounts"]

    async def close(self) -> None:
        await close_pool(self._streams, CLOSE_POOL_S)
        await close_pool(self._read_model, CLOSE_POOL_S)
