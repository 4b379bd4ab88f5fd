"""The read model's writer in PostgreSQL, and its reader of the event store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from saldo.project.fold import Balance, Folded, StreamEvent, new_balance
from saldo.serve import database
from saldo.serve.database import Failure, column, translating

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy


class ReadModelBusy(Exception):
    """Nothing was written: a deadlock, a lock wait or a timeout. Run it again."""


class ReadModelUnavailable(Exception):
    """The read model or the event store cannot be reached, or refuses."""


class ReadModelRefused(Exception):
    """Nothing was written: a value of this round is one that the read model does not hold.

    ``reason`` never repeats the value, which may be private.
    """

    def __init__(self, named: str | None) -> None:
        self.reason = f"the read model does not hold it: {named or 'a value'}"
        super().__init__(self.reason)


FAILURES: dict[Failure, Callable[..., Exception]] = {
    Failure.BUSY: ReadModelBusy,
    Failure.CONTRADICTED: ReadModelRefused,
    Failure.VALUE: ReadModelRefused,
    Failure.REFUSED: ReadModelUnavailable,
    Failure.LOST: ReadModelUnavailable,
}


class ReadModelTransaction(Protocol):
    """One database transaction of a catch-up round. Its methods raise the errors above."""

    async def lock(self, account_ids: Sequence[str]) -> dict[str, Balance]:
        """Create the missing balances, lock all in the order of account ids, and read them."""

    async def clear(self, account_ids: Sequence[str]) -> None:
        """Delete the accounts' statement lines and totals, to fold them anew from position 0."""

    async def write(self, folded: Folded) -> None:
        """Write lines, balances, totals, reversals and dead events."""

    async def commit(self) -> None:
        """Commit. Should its outcome be lost, the next round finds out by the positions."""

    async def roll_back(self) -> None:
        """Undo all; never raises."""


class ReadModel(Protocol):
    """What the projector needs of the read model."""

    async def begin(self) -> ReadModelTransaction:
        """Start a database transaction."""


class StreamReader(Protocol):
    """What the projector needs of the event store."""

    async def read_from(
        self, positions: Sequence[tuple[str, int]], events_max: int
    ) -> dict[str, list[StreamEvent]]:
        """For each (account, position): the event at that position, and up to ``events_max`` after.

        Of the first only the hash is read. A position of 0 has no event of its own.
        """


# Locks in the order of account ids, the same in every process. The rows are those of the moment
# when their locks were got: FOR UPDATE reads a row anew that it had to wait for.
LOCK_AND_READ = """
SELECT account_id, currency, balance_minor, position, hash, recorded_at, blocked_reason,
       blocked_schema
FROM read_model.balance WHERE account_id = ANY ($1::text[])
ORDER BY account_id FOR UPDATE
"""

# Where a balance is missing: creates and locks in one statement, in the same order.
LOCK_BALANCES = """
INSERT INTO read_model.balance AS b (account_id)
SELECT id FROM unnest($1::text[]) AS id ORDER BY id COLLATE "C"
ON CONFLICT (account_id) DO UPDATE SET account_id = excluded.account_id WHERE false
"""

# A later statement, whose snapshot is newer than the locks.
READ_BALANCES = """
SELECT account_id, currency, balance_minor, position, hash, recorded_at, blocked_reason,
       blocked_schema
FROM read_model.balance WHERE account_id = ANY ($1::text[])
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

CLEAR_STATEMENT = "DELETE FROM read_model.statement WHERE account_id = ANY ($1::text[])"
CLEAR_TOTALS = "DELETE FROM read_model.daily_total WHERE account_id = ANY ($1::text[])"

# One statement for a whole round. An account that has no events at all (a forged record named it)
# leaves no row behind.
WRITE = """
WITH lines AS (
    INSERT INTO read_model.statement (account_id, position, event_id, kind, amount_minor, currency,
        balance_minor, description, metadata, occurred_at, recorded_at, reverses, reversed_by, hash)
    SELECT account_id, position, event_id, kind, amount_minor, currency, balance_minor, description,
           metadata::jsonb, occurred_at, recorded_at, reverses, reversed_by, hash
    FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::text[], $5::bigint[], $6::text[],
                $7::bigint[], $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[],
                $12::uuid[], $13::uuid[], $14::bytea[])
        AS l (account_id, position, event_id, kind, amount_minor, currency, balance_minor,
              description, metadata, occurred_at, recorded_at, reverses, reversed_by, hash)
), totals AS (
    INSERT INTO read_model.daily_total AS t
        (account_id, day, income_minor, expense_minor, transactions)
    SELECT * FROM unnest($15::text[], $16::date[], $17::numeric[], $18::numeric[], $19::bigint[])
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
FROM unnest($20::text[], $21::text[], $22::bigint[], $23::bigint[], $24::bytea[],
            $25::timestamptz[], $26::text[], $27::int[])
    AS n (account_id, currency, balance_minor, position, hash, recorded_at, blocked_reason,
          blocked_schema)
WHERE b.account_id = n.account_id
"""

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


class PostgresReadModelTransaction:
    """ReadModelTransaction, on one connection of the pool."""

    def __init__(
        self,
        pool: asyncpg.Pool[asyncpg.Record],
        connection: PoolConnectionProxy[asyncpg.Record],
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._released = False

    async def lock(self, account_ids: Sequence[str]) -> dict[str, Balance]:
        rows = await self._run(LOCK_AND_READ, account_ids)
        if len(rows) < len(account_ids):
            await self._run(LOCK_BALANCES, account_ids)
            rows = await self._run(READ_BALANCES, account_ids)
        return {row["account_id"]: _balance(row) for row in rows}

    async def clear(self, account_ids: Sequence[str]) -> None:
        await self._run(CLEAR_STATEMENT, account_ids)
        await self._run(CLEAR_TOTALS, account_ids)

    async def write(self, folded: Folded) -> None:
        lines, balances = folded.lines, folded.balances
        totals = sorted(folded.totals.items())
        await self._run(
            WRITE,
            [line.account_id for line in lines],
            [line.position for line in lines],
            [line.event_id for line in lines],
            [line.kind for line in lines],
            [line.amount_minor for line in lines],
            [line.currency for line in lines],
            [line.balance_minor for line in lines],
            column([line.description for line in lines]),
            column([line.metadata for line in lines]),
            [line.occurred_at for line in lines],
            [line.recorded_at for line in lines],
            column([line.reverses for line in lines]),
            column([line.reversed_by for line in lines]),
            [line.hash for line in lines],
            [account_id for (account_id, _), _ in totals],
            [day for (_, day), _ in totals],
            [total.income_minor for _, total in totals],
            [total.expense_minor for _, total in totals],
            [total.transactions for _, total in totals],
            [b.account_id for b in balances],
            [b.currency for b in balances],
            [b.balance_minor for b in balances],
            [b.position for b in balances],
            [b.hash for b in balances],
            [b.recorded_at for b in balances],
            column([b.blocked_reason for b in balances]),
            column([b.blocked_schema for b in balances]),
        )
        empty = [b.account_id for b in balances if b.position == 0]
        if empty:
            await self._run(DROP_EMPTY, empty)
        if folded.reversals:
            await self._run(MARK_REVERSED, *map(list, zip(*folded.reversals, strict=True)))
        if folded.dead:
            dead = folded.dead
            await self._run(
                PARK,
                [d.account_id for d in dead],
                [str(d.event_id) for d in dead],
                [d.position for d in dead],
                [d.reason for d in dead],
                [d.public_text for d in dead],
            )

    async def commit(self) -> None:
        await self._run("COMMIT")
        self._released = True
        await self._pool.release(self._connection)

    async def roll_back(self) -> None:
        if not self._released:
            self._released = True
            await database.roll_back(self._pool, self._connection)

    async def _run(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        with translating(FAILURES):
            return await self._connection.fetch(statement, *arguments)


class PostgresReadModel:
    """ReadModel, on a pool of connections."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def begin(self) -> PostgresReadModelTransaction:
        return await self._begin(PostgresReadModelTransaction)

    async def _begin(
        self, transaction: type[PostgresReadModelTransaction]
    ) -> PostgresReadModelTransaction:
        with translating(FAILURES):
            connection = await database.begin(self._pool)
        return transaction(self._pool, connection)


class PostgresStreamReader:
    """StreamReader, on a pool of connections to the event store, which may be another server."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def read_from(
        self, positions: Sequence[tuple[str, int]], events_max: int
    ) -> dict[str, list[StreamEvent]]:
        with translating(FAILURES):
            rows = await self._pool.fetch(
                READ_FROM,
                [account_id for account_id, _ in positions],
                [position for _, position in positions],
                events_max,
            )
        events: dict[str, list[StreamEvent]] = {}
        for row in rows:
            events.setdefault(row["account_id"], []).append(
                StreamEvent(
                    account_id=row["account_id"],
                    position=row["position"],
                    event_id=row["event_id"],
                    public_text=row["public_text"],
                    private_text=row["private_text"],
                    hash=row["hash"],
                )
            )
        return events


def _balance(row: asyncpg.Record) -> Balance:
    if row["hash"] is None:
        return new_balance(row["account_id"])
    return Balance(
        account_id=row["account_id"],
        currency=row["currency"],
        balance_minor=row["balance_minor"],
        position=row["position"],
        hash=row["hash"],
        recorded_at=row["recorded_at"],
        blocked_reason=row["blocked_reason"],
        blocked_schema=row["blocked_schema"],
    )
