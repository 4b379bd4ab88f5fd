"""The event store in PostgreSQL, as a batch uses it, and its outbox.

A batch is recorded in one of two ways. Without locks: look (one statement), decide, append (one
statement that commits by itself, and only if the accounts are still as they were looked at). Under
locks: lock, look up, decide, append, commit. The order of the statements makes recording right; the
comment at each says why. `batch.py` has the logic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from saldo.domain.account import Account, new_account
from saldo.record.errors import (
    STREAM_POSITION,
    CommitUnknown,
    Contradicted,
    StoreBusy,
    StoreRefused,
    StoreUnavailable,
    Unusable,
)
from saldo.record.intent import StoredEvent
from saldo.record.ports import APPEND_DELAY_MAX, Looked, Lookup
from saldo.serve import database
from saldo.serve.database import Failure, translating

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from saldo.record.decision import Decided

# (Under locks, 1) Creates the missing streams and locks all, in the order of account ids. That is
# the same in every process: two batches cannot wait for each other in a circle. A conflict locks
# the existing row even though the WHERE keeps it as it is. Nothing is read here: the snapshot of
# this statement was taken before it waited, and lacks what the other process has just committed. A
# batch that created a stream after it had locked others may be in a circle with one that found it
# there: the database ends one of them, which is run again.
LOCK_STREAMS = """
INSERT INTO event_store.stream AS s (account_id)
SELECT id FROM unnest($1::text[]) AS id ORDER BY id COLLATE "C"
ON CONFLICT (account_id) DO UPDATE SET account_id = excluded.account_id WHERE false
"""

# (Without locks, 1; under locks, 2) The accounts with the events that are recorded under the keys,
# and as reversals, found by the unique indexes that would refuse a duplicate. All is of one
# snapshot. Under locks it is newer than the locks. Without, what is recorded under a key up to the
# position that is read for its account is seen, and what is recorded after it makes the append
# fail.
LOOK = """
SELECT s.account_id, s.currency, s.position, s.balance_minor, s.overdraft_limit_minor, s.hash,
       s.recorded_at, clock_timestamp() AS now, repeated.*
FROM event_store.stream AS s LEFT JOIN (
    SELECT e.account_id, e.position, e.event_id, e.public_text, e.private_text, e.hash,
           e.balance_minor, e.key_hash, e.key_line, e.fingerprint, e.reverses
    FROM unnest($2::text[], $3::bytea[]) AS k (account_id, key_hash)
    JOIN event_store.event AS e ON e.account_id = k.account_id AND e.key_hash = k.key_hash
    UNION ALL
    SELECT e.account_id, e.position, e.event_id, e.public_text, e.private_text, e.hash,
           e.balance_minor, e.key_hash, e.key_line, e.fingerprint, e.reverses
    FROM unnest($4::text[], $5::uuid[]) AS r (account_id, reverses)
    JOIN event_store.event AS e ON e.account_id = r.account_id AND e.reverses = r.reverses
) AS repeated ON repeated.account_id = s.account_id
WHERE s.account_id = ANY ($1::text[])
"""
STREAM_COLUMNS = len(Account.__struct_fields__)
EVENT_COLUMNS = tuple(name for name in StoredEvent.__struct_fields__ if name != "traceparent")

# (Without locks, 2: a database transaction by itself; under locks, 3) One statement, so an event
# and its outbox row are in one database transaction. It writes nothing at all unless every account
# is as the batch has read it. After a restore another event may be at the same position, so the
# hash must be the same, too; a stream that was just created has none. The streams are locked in the
# order of account ids here, too, and looked at once they are: FOR UPDATE reads a row again that it
# had to wait for. Then the clock is read.
#
# The rows of each table are one JSON document, in which bytes are base64.
APPEND = """
WITH expected AS MATERIALIZED (
    SELECT account_id, position, decode(hash, 'base64') AS hash
    FROM json_to_recordset($1::json) AS a (account_id text, position bigint, hash text)
), held AS MATERIALIZED (
    SELECT account_id, position, hash FROM event_store.stream
    WHERE account_id = ANY (ARRAY (SELECT account_id FROM expected))
    ORDER BY account_id FOR UPDATE
), as_read AS MATERIALIZED (
    SELECT count(*) = (SELECT count(*) FROM expected) AND clock_timestamp() <= $2::timestamptz
           AS are_all
    FROM held JOIN expected USING (account_id, position)
    WHERE position = 0 OR held.hash = expected.hash
), decided AS MATERIALIZED (
    SELECT e.* FROM as_read, json_to_recordset($3::json)
        AS e (account_id text, position bigint, event_id uuid, public_text text, private_text text,
              hash text, balance_minor bigint, key_hash text, key_line int, fingerprint text,
              reverses uuid, traceparent text)
    WHERE as_read.are_all
), appended AS (
    INSERT INTO event_store.event (account_id, position, event_id, public_text, private_text, hash,
                                   balance_minor, key_hash, key_line, fingerprint, reverses)
    SELECT account_id, position, event_id, public_text, private_text, decode(hash, 'base64'),
           balance_minor, decode(key_hash, 'base64'), key_line, decode(fingerprint, 'base64'),
           reverses
    FROM decided
), queued AS (
    INSERT INTO event_store.outbox (account_id, position, traceparent)
    SELECT account_id, position, traceparent FROM decided
)
UPDATE event_store.stream AS s
SET currency = n.currency, position = n.position, balance_minor = n.balance_minor,
    overdraft_limit_minor = n.overdraft_limit_minor, hash = decode(n.hash, 'base64'),
    recorded_at = n.recorded_at
FROM as_read, held JOIN json_to_recordset($4::json)
    AS n (account_id text, currency text, position bigint, balance_minor bigint,
          overdraft_limit_minor bigint, hash text, recorded_at timestamptz) USING (account_id)
WHERE s.account_id = held.account_id AND as_read.are_all
"""

FIND_OWN = """
SELECT hash FROM event_store.event
WHERE event_id = ANY ($1::uuid[]) AND account_id = ANY ($2::text[])
"""

# Younger rows belong to the relay of the process that wrote them.
SWEEP_AGE_S = 3.0
CLAIM_S = 5.0
CLAIM_ROWS_MAX = 500
OUTBOX_SWEEP = "outbox"

# A row that another sweep is claiming right now is passed over, not waited for. A claim runs out by
# itself, so a sweeper that dies holds nothing up. A row without its event is not claimed: enough of
# them would keep the others from being sent. A time that is still to come is of a clock that was
# set back since: such a row or claim is old.
CLAIM = """
WITH due AS (
    SELECT account_id, position FROM event_store.outbox AS o
    WHERE (appended_at < clock_timestamp() - make_interval(secs => $1)
           OR appended_at > clock_timestamp())
      AND (claimed_until IS NULL OR claimed_until < clock_timestamp()
           OR claimed_until > clock_timestamp() + make_interval(secs => $2))
      AND EXISTS (SELECT FROM event_store.event AS e
                  WHERE e.account_id = o.account_id AND e.position = o.position)
    ORDER BY appended_at LIMIT $3 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE event_store.outbox AS o
    SET claimed_until = clock_timestamp() + make_interval(secs => $2)
    FROM due WHERE o.account_id = due.account_id AND o.position = due.position
    RETURNING o.account_id, o.position, o.traceparent
)
SELECT e.account_id, e.position, e.event_id, e.public_text, e.private_text, e.hash, e.balance_minor,
       e.key_hash, e.key_line, e.fingerprint, e.reverses, c.traceparent
FROM claimed AS c
JOIN event_store.event AS e ON e.account_id = c.account_id AND e.position = c.position
ORDER BY e.account_id, e.position
"""

# A row of an event that was erased stays until the record without the private part was sent: the
# acknowledgement of the record before it is of what was sent then.
ACKNOWLEDGE = """
DELETE FROM event_store.outbox AS o
USING unnest($1::text[], $2::bigint[], $3::bool[]) AS a (account_id, position, erased)
WHERE o.account_id = a.account_id AND o.position = a.position AND (a.erased OR NOT o.erased)
"""

NOTE_SWEEP = """
INSERT INTO event_store.sweep (name, swept_at, found) VALUES ($1, clock_timestamp(), $2)
ON CONFLICT (name) DO UPDATE SET swept_at = excluded.swept_at, found = excluded.found
"""

DEPTH = """
SELECT count(*) AS rows, extract(epoch FROM clock_timestamp() - min(appended_at)) AS age_s
FROM (SELECT appended_at FROM event_store.outbox ORDER BY appended_at LIMIT 100000) AS o
"""

# What an error of the driver means for a statement that commits nothing, and for one that commits.
FAILURES: dict[Failure, Callable[..., Exception]] = {
    Failure.BUSY: StoreBusy,
    Failure.CONTRADICTED: Contradicted,
    Failure.REFUSED: StoreRefused,
    Failure.LOST: StoreUnavailable,
    Failure.VALUE: Unusable,
}
COMMIT_FAILURES = FAILURES | {Failure.LOST: CommitUnknown}


class PostgresTransaction:
    """Transaction, on one connection of the pool."""

    def __init__(
        self,
        pool: asyncpg.Pool[asyncpg.Record],
        connection: PoolConnectionProxy[asyncpg.Record],
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._released = False

    async def look(self, lookup: Lookup) -> Looked:
        with translating(FAILURES):
            await self._connection.execute(LOCK_STREAMS, lookup.account_ids)
            looked = await _look(self._connection, lookup)
        if looked is None:  # somebody has deleted a stream that this has just locked
            raise StoreUnavailable
        return looked

    async def find_own(self, event_ids: Sequence[UUID], account_ids: Sequence[str]) -> set[bytes]:
        with translating(FAILURES):
            rows = await self._connection.fetch(FIND_OWN, event_ids, account_ids)
        return {row["hash"] for row in rows}

    async def append(self, decided: Decided) -> None:
        with translating(FAILURES):
            await _append(self._connection, decided)

    async def commit(self) -> None:
        # Lost is also what the server says when it shuts down: in doubt all the same. Any other
        # error of the server's says that it did not commit.
        with translating(COMMIT_FAILURES):
            await self._connection.execute("COMMIT")
        self._released = True
        await self._pool.release(self._connection)

    async def roll_back(self) -> None:
        if not self._released:
            self._released = True
            await database.roll_back(self._pool, self._connection)


class PostgresEventStore:
    """EventStore, on a pool of connections."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def begin(self) -> PostgresTransaction:
        with translating(FAILURES):
            connection = await database.begin(self._pool)
        return PostgresTransaction(self._pool, connection)

    async def look(self, lookup: Lookup) -> Looked | None:
        with translating(FAILURES):
            connection = await database.acquire(self._pool)
            try:
                return await _look(connection, lookup)
            finally:
                await self._pool.release(connection)

    async def append(self, decided: Decided) -> None:
        with translating(FAILURES):
            connection = await database.acquire(self._pool)
        try:
            with translating(COMMIT_FAILURES):
                await _append(connection, decided)
        except CommitUnknown:
            # It was sent: it may be carried out all the same, now or once the server gets to it.
            database.terminate(connection)
            raise
        finally:
            await self._pool.release(connection)


class PostgresOutbox:
    """Outbox, on a pool of connections."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def claim(self) -> list[StoredEvent]:
        rows = await self._pool.fetch(CLAIM, SWEEP_AGE_S, CLAIM_S, CLAIM_ROWS_MAX)
        return [StoredEvent(**row) for row in rows]

    async def acknowledge(self, sent: Sequence[tuple[str, int, bool]]) -> None:
        await self._pool.execute(ACKNOWLEDGE, *zip(*sent, strict=True))

    async def note_sweep(self, found: int) -> None:
        await self._pool.execute(NOTE_SWEEP, OUTBOX_SWEEP, found)

    async def depth(self) -> tuple[int, float]:
        """Return how many rows wait, up to 100,000, and the age of the oldest in seconds."""
        row = await self._pool.fetchrow(DEPTH)
        return (0, 0.0) if row is None else (row["rows"], float(row["age_s"] or 0.0))


async def _look(connection: PoolConnectionProxy[asyncpg.Record], lookup: Lookup) -> Looked | None:
    rows = await connection.fetch(
        LOOK,
        lookup.account_ids,
        [account_id for account_id, _ in lookup.keys],
        [key_hash for _, key_hash in lookup.keys],
        [account_id for account_id, _ in lookup.reversals],
        [original_id for _, original_id in lookup.reversals],
    )
    accounts = {row[0]: account_of(row[:STREAM_COLUMNS]) for row in rows}
    if len(accounts) < len(lookup.account_ids):
        return None
    # A name that stands twice is the latter's: the event's, or nothing.
    repeated = [stored_event(row) for row in rows if row["event_id"] is not None]
    return Looked(accounts, repeated, rows[-1]["now"])


async def _append(connection: PoolConnectionProxy[asyncpg.Record], decided: Decided) -> None:
    """Carry APPEND out; Contradicted where it wrote nothing, or the driver's error."""
    status = await connection.execute(
        APPEND,
        _document([decided.read[account_id] for account_id in decided.accounts]),
        decided.decided_at + APPEND_DELAY_MAX,
        _document(decided.events),
        _document(list(decided.accounts.values())),
    )
    if status != f"UPDATE {len(decided.accounts)}":
        raise Contradicted(STREAM_POSITION)


def _document(rows: Sequence[Account] | Sequence[StoredEvent]) -> str:
    return msgspec.json.encode(rows).decode()


def account_of(columns: Sequence[Any]) -> Account:
    """Return the account of a stream's columns, which are in the order of its fields."""
    named = dict(zip(Account.__struct_fields__, columns, strict=True))
    if named["hash"] is None:  # created by this batch or an earlier one that recorded nothing
        return new_account(named["account_id"])
    return Account(**named)


def stored_event(row: asyncpg.Record) -> StoredEvent:
    """Return the event of a row that has the columns of the event table."""
    return StoredEvent(**{name: row[name] for name in EVENT_COLUMNS})
