"""The event store in PostgreSQL, as a batch uses it.

A batch is recorded in one of two ways. Without locks: look (one statement), decide, append (one
statement that commits by itself, and only if the accounts are still as they were looked at). Under
locks: lock, look up, decide, append, commit. The order of the statements makes recording right; the
comment at each says why. `batch.py` has the logic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from saldo.record.ports import APPEND_DELAY_MAX, Lookup
from saldo.serve import database
from saldo.serve.database import Failure, translating

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from saldo.record.decision import Decided

# (1) Locks the streams of the batch in the order of account ids, which is the same in every
# process: two batches cannot wait for each other in a circle. The rows are those of the moment when
# their locks were got: FOR UPDATE reads a row anew that it had to wait for. Keys are not looked up
# here: in this statement's snapshot, taken before it waited, the key that the other process has
# just committed would be missing. The clock is read as each row comes out of the locking part, so
# the last row's is later than whatever the batch waited for.
LOCK_ACCOUNTS = """
WITH locked AS MATERIALIZED (
    SELECT account_id, currency, position, balance_minor, overdraft_limit_minor, hash, recorded_at
    FROM event_store.stream WHERE account_id = ANY ($1::text[])
    ORDER BY account_id FOR UPDATE
)
SELECT *, clock_timestamp() AS now FROM locked
"""

# (1, where a stream is missing) Creates the missing streams and locks all, in the same order. A
# conflict locks the existing row even where the WHERE keeps it as it is. Nothing is read here, as
# above. A batch that created a stream after it had locked others may be in a circle with one that
# found it there: the database ends one of them, which is run again.
LOCK_STREAMS = """
INSERT INTO event_store.stream AS s (account_id)
SELECT id FROM unnest($1::text[]) AS id ORDER BY id COLLATE "C"
ON CONFLICT (account_id) DO UPDATE SET account_id = excluded.account_id WHERE false
"""

# (1, where a stream was missing) A later statement: its snapshot is newer than the locks, so it
# sees all that the process it waited for has committed.
READ_ACCOUNTS = """
SELECT account_id, currency, position, balance_minor, overdraft_limit_minor, hash, recorded_at,
       clock_timestamp() AS now
FROM event_store.stream WHERE account_id = ANY ($1::text[])
"""

# (2, where the batch has keys or reversals) The two look-ups are by the unique indexes that would
# refuse a duplicate.
FIND_REPEATED = """
SELECT e.account_id, e.position, e.event_id, e.public_text, e.private_text, e.hash, e.balance_minor,
       e.key_hash, e.key_line, e.fingerprint, e.reverses
FROM unnest($1::text[], $2::bytea[]) AS k (account_id, key_hash)
JOIN event_store.event AS e ON e.account_id = k.account_id AND e.key_hash = k.key_hash
UNION ALL
SELECT e.account_id, e.position, e.event_id, e.public_text, e.private_text, e.hash, e.balance_minor,
       e.key_hash, e.key_line, e.fingerprint, e.reverses
FROM unnest($3::text[], $4::uuid[]) AS r (account_id, reverses)
JOIN event_store.event AS e ON e.account_id = r.account_id AND e.reverses = r.reverses
"""

# (Without locks, 1) All of one snapshot: what is recorded under a key up to the position that is
# read for its account is seen, and what is recorded after it makes the append fail.
LOOK = (
    """
SELECT s.account_id, s.currency, s.position, s.balance_minor, s.overdraft_limit_minor, s.hash,
       s.recorded_at, clock_timestamp() AS now, repeated.*
FROM event_store.stream AS s LEFT JOIN ("""
    + FIND_REPEATED
    + """) AS repeated ON repeated.account_id = s.account_id
WHERE s.account_id = ANY ($5::text[])
"""
)
STREAM_COLUMNS = 7

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

    async def lock(self, account_ids: Sequence[str]) -> tuple[dict[str, Account], datetime]:
        # The statement that locks the streams reads them, too: nobody else can change them after.
        rows = await self._run(LOCK_ACCOUNTS, account_ids)
        if len(rows) < len(account_ids):
            await self._run(LOCK_STREAMS, account_ids)
            rows = await self._run(READ_ACCOUNTS, account_ids)
        return _accounts(rows), rows[-1]["now"]

    async def find_repeated(self, lookup: Lookup) -> list[StoredEvent]:
        rows = await self._run(FIND_REPEATED, *_repeated_arguments(lookup))
        return [stored_event(row) for row in rows]

    async def find_own(self, event_ids: Sequence[UUID], account_ids: Sequence[str]) -> set[bytes]:
        rows = await self._run(FIND_OWN, event_ids, account_ids)
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

    async def _run(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        with translating(FAILURES):
            return await self._connection.fetch(statement, *arguments)


class PostgresEventStore:
    """EventStore, on a pool of connections."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def begin(self) -> PostgresTransaction:
        with translating(FAILURES):
            connection = await database.begin(self._pool)
        return PostgresTransaction(self._pool, connection)

    async def look(
        self, lookup: Lookup
    ) -> tuple[dict[str, Account], list[StoredEvent], datetime] | None:
        with translating(FAILURES):
            connection = await database.acquire(self._pool)
            try:
                rows = await connection.fetch(
                    LOOK, *_repeated_arguments(lookup), lookup.account_ids
                )
            finally:
                await self._pool.release(connection)
        accounts = _accounts(rows)
        if len(accounts) < len(lookup.account_ids):
            return None
        # A name that stands twice is the latter's: the event's, or nothing.
        repeated = [stored_event(row) for row in rows if row["event_id"] is not None]
        return accounts, repeated, rows[-1]["now"]

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


def _repeated_arguments(
    lookup: Lookup,
) -> tuple[list[str], list[bytes], list[str], list[UUID]]:
    return (
        [account_id for account_id, _ in lookup.keys],
        [key_hash for _, key_hash in lookup.keys],
        [account_id for account_id, _ in lookup.reversals],
        [original_id for _, original_id in lookup.reversals],
    )


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


def _accounts(rows: Sequence[asyncpg.Record]) -> dict[str, Account]:
    """Return the accounts of rows that begin with a stream's columns."""
    return {row[0]: account_of(*row[:STREAM_COLUMNS]) for row in rows}


def account_of(  # noqa: PLR0913 - a row's columns, in order
    account_id: str,
    currency: str | None,
    position: int,
    balance_minor: int,
    overdraft_limit_minor: int | None,
    hash_: bytes | None,
    recorded_at: datetime | None,
) -> Account:
    """Return the account of a stream's columns."""
    if hash_ is None:  # created by this batch or an earlier one that recorded nothing
        return new_account(account_id)
    return Account(
        account_id=account_id,
        currency=currency,
        position=position,
        balance_minor=balance_minor,
        overdraft_limit_minor=overdraft_limit_minor,
        hash=hash_,
        recorded_at=recorded_at,
    )


def stored_event(row: asyncpg.Record) -> StoredEvent:
    """Return the event of a row."""
    return StoredEvent(
        account_id=row["account_id"],
        position=row["position"],
        event_id=row["event_id"],
        public_text=row["public_text"],
        private_text=row["private_text"],
        hash=row["hash"],
        balance_minor=row["balance_minor"],
        key_hash=row["key_hash"],
        key_line=row["key_line"],
        fingerprint=row["fingerprint"],
        reverses=row["reverses"],
    )
