"""The event store in PostgreSQL: the statements of a recording batch, and reads by id.

A batch is recorded in one of two ways. Without locks: look (one statement), decide, append (one
statement that commits by itself, and only if the accounts stand as they were looked at). Under
locks: lock, look up, decide, append, commit. The order of the statements is what makes recording
right; the comments at each say why. The batch's logic is in ``batch.py`` and sees only the
protocols.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from saldo.domain.account import Account, new_account
from saldo.record.intent import KEYED_HASH_BYTES, StoredEvent
from saldo.serve import database
from saldo.serve.database import Failure, column, translating

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy


class StoreBusy(Exception):
    """Nothing was committed: a deadlock, a serialization failure or a timeout. Run it again."""


class StoreUnavailable(Exception):
    """Nothing was committed: the event store cannot be reached."""


class StoreRefused(StoreUnavailable):
    """Nothing was committed: the event store is read-only, full or otherwise refuses."""


class CommitUnknown(Exception):
    """The connection was lost while COMMIT was under way: it may or may not have taken hold."""


class Contradicted(Exception):
    """Nothing was committed: the store no longer stands as the batch read it.

    Without locks another process was quicker. Under locks it cannot be.
    """

    def __init__(self, constraint: str) -> None:
        super().__init__(f"Nothing was committed: {constraint} no longer holds.")
        self.constraint = constraint


class Unusable(Exception):
    """Nothing was committed: what is stored of an account cannot be read or written."""


class Transaction(Protocol):
    """One database transaction of a recording batch. Its methods raise the errors above."""

    async def lock(self, account_ids: Sequence[str]) -> None:
        """Create the missing streams and lock all, in the order of account ids."""

    async def read_accounts(self) -> tuple[dict[str, Account], datetime]:
        """The locked accounts, and the store's time once they were locked."""

    async def find_repeated(
        self,
        keys: Sequence[tuple[str, bytes]],
        reversals: Sequence[tuple[str, UUID]],
    ) -> list[StoredEvent]:
        """Events recorded under the keys (account, hash) or as reversals (account, original id)."""

    async def append(
        self,
        events: Sequence[StoredEvent],
        accounts: Sequence[Account],
        traceparents: Sequence[str | None],
        *,
        read: Sequence[Account],
        decided_at: datetime,
    ) -> None:
        """Write events, their outbox rows and the accounts' new states.

        ``read`` are the same accounts as they were when it was decided.
        """

    async def find_own(self, event_ids: Sequence[UUID], account_ids: Sequence[str]) -> set[bytes]:
        """The hashes of the batch's own events, as a commit of unknown outcome has written them."""

    async def commit(self) -> None:
        """Commit; raises CommitUnknown when the connection is lost meanwhile."""

    async def roll_back(self) -> None:
        """Undo all and give the connection back; never raises."""


class EventStore(Protocol):
    """What recording needs of a store. Its methods raise the errors above."""

    async def begin(self) -> Transaction:
        """Start a database transaction."""

    async def look(
        self,
        account_ids: Sequence[str],
        keys: Sequence[tuple[str, bytes]],
        reversals: Sequence[tuple[str, UUID]],
    ) -> tuple[dict[str, Account], list[StoredEvent], datetime] | None:
        """The accounts, what find_repeated finds, and the store's time: of one moment, no locks.

        None where an account has no stream yet.
        """

    async def append(
        self,
        events: Sequence[StoredEvent],
        accounts: Sequence[Account],
        traceparents: Sequence[str | None],
        *,
        read: Sequence[Account],
        decided_at: datetime,
    ) -> None:
        """Write and commit, all or nothing; Contradicted where an account has moved on meanwhile.

        After CommitUnknown it may be carried out later still, as long as the accounts have not
        moved on, and for APPEND_DELAY_MAX.
        """


# How Contradicted names an account that has moved on, beside the unique constraints.
STREAM_POSITION = "stream_position"

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

FIND_ACCOUNT = """
SELECT account_id, currency, position, balance_minor, overdraft_limit_minor, hash, recorded_at
FROM event_store.stream WHERE account_id = $1 AND position > 0
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
_ACCOUNT_COLUMNS = 7

# So long after it was decided an append may be carried out. A process may be stopped in between for
# any time, and the event would say that it was recorded then. It is decided again.
APPEND_DELAY_MAX = timedelta(seconds=60)

# (Without locks, 2, where it is a database transaction of its own; under locks, 3) One statement,
# set-based: an event and its outbox row are in one database transaction. It writes nothing at all
# unless every account stands where the batch has read it: after a restore another event may be at
# the same position, so the hash must be the same, too; a stream that was just created has none. The
# streams are locked in the order of account ids here, too, and looked at once they are: FOR UPDATE
# reads a row anew that it had to wait for. Then the clock is read.
#
# Of an array the driver looks at every element twice, in Python. So what can be is one value for
# all rows: ids and currencies with commas between them, which none has; JSON texts with a control
# character, which JSON has only as an escape; hashes one after another, as all are of one length.
APPEND = """
WITH account AS MATERIALIZED (
    SELECT * FROM unnest(string_to_array($13, ','), string_to_array($14, ',', ''), $15::bigint[],
                         $16::bigint[], $17::bigint[], $18::bytea[], $19::timestamptz[],
                         $20::bigint[], $21::bytea[])
        AS a (account_id, currency, position, balance_minor, overdraft_limit_minor, hash,
              recorded_at, read_at, read_hash)
), held AS MATERIALIZED (
    SELECT account_id, position, hash FROM event_store.stream
    WHERE account_id = ANY (ARRAY (SELECT account_id FROM account))
    ORDER BY account_id FOR UPDATE
), as_read AS MATERIALIZED (
    SELECT count(*) = (SELECT count(*) FROM account) AND clock_timestamp() <= $22::timestamptz
           AS are_all
    FROM held JOIN account AS a ON a.account_id = held.account_id AND a.read_at = held.position
                               AND (a.read_at = 0 OR a.read_hash = held.hash)
), appended AS (
    INSERT INTO event_store.event (account_id, position, event_id, public_text, private_text, hash,
                                   balance_minor, key_hash, key_line, fingerprint, reverses)
    SELECT e.account_id, e.position, e.event_id, e.public_text, e.private_text,
           substring($6::bytea FROM (e.row::int - 1) * 32 + 1 FOR 32), e.balance_minor,
           CASE WHEN e.key_line IS NOT NULL
                THEN substring($8::bytea FROM (e.row::int - 1) * 16 + 1 FOR 16) END,
           e.key_line,
           CASE WHEN e.key_line IS NOT NULL
                THEN substring($10::bytea FROM (e.row::int - 1) * 16 + 1 FOR 16) END,
           e.reverses
    FROM as_read, unnest(string_to_array($1, ','), $2::bigint[], $3::uuid[],
                         string_to_array($4, chr(31)), string_to_array($5, chr(31), ''),
                         $7::bigint[], $9::int[], $11::uuid[])
        WITH ORDINALITY AS e (account_id, position, event_id, public_text, private_text,
                              balance_minor, key_line, reverses, row)
    WHERE as_read.are_all
), queued AS (
    INSERT INTO event_store.outbox (account_id, position, traceparent)
    SELECT o.* FROM as_read, unnest(string_to_array($1, ','), $2::bigint[], $12::text[]) AS o
    WHERE as_read.are_all
)
UPDATE event_store.stream AS s
SET currency = n.currency, position = n.position, balance_minor = n.balance_minor,
    overdraft_limit_minor = n.overdraft_limit_minor, hash = n.hash, recorded_at = n.recorded_at
FROM as_read, account AS n
WHERE s.account_id = n.account_id AND as_read.are_all
"""
# What APPEND takes apart again.
TEXTS_SEPARATOR = chr(31)
HASH_BYTES = 32

FIND_OWN = """
SELECT hash FROM event_store.event
WHERE event_id = ANY ($1::uuid[]) AND account_id = ANY ($2::text[])
"""

_STORED = """
SELECT account_id, position, event_id, public_text, private_text, hash, balance_minor,
       key_hash, key_line, fingerprint, reverses
FROM event_store.event
"""
FIND_BY_ID = _STORED + "WHERE event_id = $1"
FIND_REVERSAL = _STORED + "WHERE account_id = $1 AND reverses = $2"
EVENTS_AFTER = _STORED + "WHERE account_id = $1 AND position > $2 ORDER BY position LIMIT $3"
HASH_AT = "SELECT hash FROM event_store.event WHERE account_id = $1 AND position = $2"
# The row in `erasure` is the trace by which `saldo verify` tells an erasure from a loss. Its time
# is the statement's as well: the table's default. The outbox row sends the record once more, now
# without its private part: the sign by which the projector erases its copy. Where the row is still
# there, its record may be in flight with the private part: `erased` keeps the row until the other
# one was acknowledged.
ERASE_PRIVATE = """
WITH erased AS (
    UPDATE event_store.event
    SET private_text = NULL, erased_at = coalesce(erased_at, statement_timestamp())
    WHERE account_id = $1 AND position = $2
    RETURNING account_id, position
), traced AS (
    INSERT INTO event_store.erasure (account_id, position)
    SELECT account_id, position FROM erased ON CONFLICT (account_id, position) DO NOTHING
)
INSERT INTO event_store.outbox (account_id, position, erased) VALUES ($1, $2, true)
ON CONFLICT (account_id, position) DO UPDATE SET erased = true, claimed_until = NULL
"""


# What an error of a statement means that commits nothing, of one that commits, and of a read.
FAILURES: dict[Failure, Callable[..., Exception]] = {
    Failure.BUSY: StoreBusy,
    Failure.CONTRADICTED: Contradicted,
    Failure.REFUSED: StoreRefused,
    Failure.LOST: StoreUnavailable,
    Failure.VALUE: Unusable,
}
COMMIT_FAILURES = FAILURES | {Failure.LOST: CommitUnknown}
READ_FAILURES = dict.fromkeys(set(Failure) - {Failure.VALUE}, StoreUnavailable)


def _repeated_arguments(
    keys: Sequence[tuple[str, bytes]], reversals: Sequence[tuple[str, UUID]]
) -> tuple[list[str], list[bytes], list[str], list[UUID]]:
    return (
        [account_id for account_id, _ in keys],
        [key_hash for _, key_hash in keys],
        [account_id for account_id, _ in reversals],
        [original_id for _, original_id in reversals],
    )


def _append_arguments(
    events: Sequence[StoredEvent],
    accounts: Sequence[Account],
    traceparents: Sequence[str | None],
    read: Sequence[Account],
    decided_at: datetime,
) -> tuple[object, ...]:
    """Return the arguments of APPEND."""
    return (
        ",".join([e.account_id for e in events]),
        [e.position for e in events],
        [e.event_id for e in events],
        TEXTS_SEPARATOR.join([e.public_text for e in events]),
        TEXTS_SEPARATOR.join([e.private_text or "" for e in events]),
        _one_after_another([e.hash for e in events], HASH_BYTES),
        [e.balance_minor for e in events],
        _one_after_another([e.key_hash for e in events], KEYED_HASH_BYTES),
        column([e.key_line for e in events]),
        _one_after_another([e.fingerprint for e in events], KEYED_HASH_BYTES),
        column([e.reverses for e in events]),
        column(traceparents),
        ",".join([a.account_id for a in accounts]),
        ",".join([a.currency or "" for a in accounts]),
        [a.position for a in accounts],
        [a.balance_minor for a in accounts],
        column([a.overdraft_limit_minor for a in accounts]),
        [a.hash for a in accounts],
        [a.recorded_at for a in accounts],
        [a.position for a in read],
        [a.hash for a in read],
        decided_at + APPEND_DELAY_MAX,
    )


def _one_after_another(hashes: Sequence[bytes | None], size: int) -> bytes:
    """All hashes as one value, an absent one as zeros."""
    absent = bytes(size)
    joined = b"".join([each or absent for each in hashes])
    if len(joined) != size * len(hashes):
        raise ValueError(f"a hash has not {size} bytes: it would be taken for parts of others")
    return joined


async def _append(
    connection: PoolConnectionProxy[asyncpg.Record], arguments: tuple[object, ...], accounts: int
) -> None:
    """Carry APPEND out; Contradicted where it wrote nothing, or the driver's error."""
    if await connection.execute(APPEND, *arguments) != f"UPDATE {accounts}":
        raise Contradicted(STREAM_POSITION)


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
        self._locked: Sequence[asyncpg.Record] = ()

    async def lock(self, account_ids: Sequence[str]) -> None:
        self._locked = await self._run(LOCK_ACCOUNTS, account_ids)
        if len(self._locked) < len(account_ids):
            await self._run(LOCK_STREAMS, account_ids)
            self._locked = await self._run(READ_ACCOUNTS, account_ids)

    async def read_accounts(self) -> tuple[dict[str, Account], datetime]:
        # They were read by the statement that locked them, which saves one: nobody else can have
        # changed them since, and this database transaction has not yet.
        accounts = {row[0]: _account(*row[:_ACCOUNT_COLUMNS]) for row in self._locked}
        return accounts, self._locked[-1]["now"]

    async def find_repeated(
        self,
        keys: Sequence[tuple[str, bytes]],
        reversals: Sequence[tuple[str, UUID]],
    ) -> list[StoredEvent]:
        rows = await self._run(FIND_REPEATED, *_repeated_arguments(keys, reversals))
        return [stored_event(row) for row in rows]

    async def append(
        self,
        events: Sequence[StoredEvent],
        accounts: Sequence[Account],
        traceparents: Sequence[str | None],
        *,
        read: Sequence[Account],
        decided_at: datetime,
    ) -> None:
        arguments = _append_arguments(events, accounts, traceparents, read, decided_at)
        with translating(FAILURES):
            await _append(self._connection, arguments, len(accounts))

    async def find_own(self, event_ids: Sequence[UUID], account_ids: Sequence[str]) -> set[bytes]:
        rows = await self._run(FIND_OWN, event_ids, account_ids)
        return {row["hash"] for row in rows}

    async def commit(self) -> None:
        # Lost is also what the server says when it shuts down: in doubt all the same. Any other
        # error of the server's says that it did not commit.
        with translating(COMMIT_FAILURES):
            await self._connection.execute("COMMIT")
        await self._release()

    async def roll_back(self) -> None:
        if not self._released:
            self._released = True
            await database.roll_back(self._pool, self._connection)

    async def _run(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        with translating(FAILURES):
            return await self._connection.fetch(statement, *arguments)

    async def _release(self) -> None:
        self._released = True
        await self._pool.release(self._connection)


class PostgresEventStore:
    """EventStore, on a pool of connections."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def begin(self) -> PostgresTransaction:
        with translating(FAILURES):
            connection = await database.begin(self._pool)
        return PostgresTransaction(self._pool, connection)

    async def look(
        self,
        account_ids: Sequence[str],
        keys: Sequence[tuple[str, bytes]],
        reversals: Sequence[tuple[str, UUID]],
    ) -> tuple[dict[str, Account], list[StoredEvent], datetime] | None:
        connection = await self._acquire()
        try:
            with translating(FAILURES):
                rows = await connection.fetch(
                    LOOK, *_repeated_arguments(keys, reversals), account_ids
                )
        finally:
            await self._pool.release(connection)
        accounts = {row[0]: _account(*row[:_ACCOUNT_COLUMNS]) for row in rows}
        if len(accounts) < len(account_ids):
            return None
        # A name that stands twice is the latter's: the event's, or nothing.
        repeated = [stored_event(row) for row in rows if row["event_id"] is not None]
        return accounts, repeated, rows[-1]["now"]

    async def append(
        self,
        events: Sequence[StoredEvent],
        accounts: Sequence[Account],
        traceparents: Sequence[str | None],
        *,
        read: Sequence[Account],
        decided_at: datetime,
    ) -> None:
        arguments = _append_arguments(events, accounts, traceparents, read, decided_at)
        connection = await self._acquire()
        try:
            with translating(COMMIT_FAILURES):
                await _append(connection, arguments, len(accounts))
        except CommitUnknown:
            # It was sent: it may be carried out all the same, now or once the server gets to it.
            database.terminate(connection)
            raise
        finally:
            await self._pool.release(connection)

    async def _acquire(self) -> PoolConnectionProxy[asyncpg.Record]:
        with translating(FAILURES):
            return await database.acquire(self._pool)

    async def find_event(self, event_id: UUID) -> StoredEvent | None:
        """The event of that id, or None."""
        row = await self._read_one(FIND_BY_ID, event_id)
        return None if row is None else stored_event(row)

    async def find_account(self, account_id: str) -> Account | None:
        """The account as it stands, or None."""
        row = await self._read_one(FIND_ACCOUNT, account_id)
        return None if row is None else _account(*row)

    async def find_reversal(self, account_id: str, original_id: UUID) -> StoredEvent | None:
        """The event that reverses ``original_id``, or None."""
        row = await self._read_one(FIND_REVERSAL, account_id, original_id)
        return None if row is None else stored_event(row)

    async def hash_at(self, account_id: str, position: int) -> bytes | None:
        """The hash of one position, or None."""
        row = await self._read_one(HASH_AT, account_id, position)
        return None if row is None else row["hash"]

    async def events_after(self, account_id: str, position: int, limit: int) -> list[StoredEvent]:
        """Up to ``limit`` events after ``position``, in order."""
        with translating(READ_FAILURES):
            rows = await self._pool.fetch(EVENTS_AFTER, account_id, position, limit)
        return [stored_event(row) for row in rows]

    async def erase_private(self, account_id: str, position: int) -> None:
        """Null the private text of one event."""
        with translating(READ_FAILURES):
            await self._pool.execute(ERASE_PRIVATE, account_id, position)

    async def _read_one(self, statement: str, *arguments: object) -> asyncpg.Record | None:
        with translating(READ_FAILURES):
            return await self._pool.fetchrow(statement, *arguments)


def _account(  # noqa: PLR0913 - a row's columns, in order
    account_id: str,
    currency: str | None,
    position: int,
    balance_minor: int,
    overdraft_limit_minor: int | None,
    hash_: bytes | None,
    recorded_at: datetime | None,
) -> Account:
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
    """The event of a row."""
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
