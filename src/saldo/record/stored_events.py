"""What is stored, read outside of a batch: events by id and position, accounts, erasure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saldo.record.errors import StoreUnavailable
from saldo.record.postgres import account_of, stored_event
from saldo.serve.database import Failure, translating

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from saldo.domain.account import Account
    from saldo.record.intent import StoredEvent

FIND_ACCOUNT = """
SELECT account_id, currency, position, balance_minor, overdraft_limit_minor, hash, recorded_at
FROM event_store.stream WHERE account_id = $1 AND position > 0
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

# A read has no account of its own to blame: every error of the database is one of the store.
READ_FAILURES = dict.fromkeys(set(Failure) - {Failure.VALUE}, StoreUnavailable)


class StoredEvents:
    """The event store as clients read it, on a pool of connections. Raises StoreUnavailable."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def find(self, event_id: UUID) -> StoredEvent | None:
        """Return the event of that id."""
        return next(iter(await self._events(FIND_BY_ID, event_id)), None)

    async def find_reversal(self, account_id: str, original_id: UUID) -> StoredEvent | None:
        """Return the event that reverses `original_id`."""
        return next(iter(await self._events(FIND_REVERSAL, account_id, original_id)), None)

    async def after(self, account_id: str, position: int, limit: int) -> list[StoredEvent]:
        """Return up to `limit` events after `position`, oldest first."""
        return await self._events(EVENTS_AFTER, account_id, position, limit)

    async def find_account(self, account_id: str) -> Account | None:
        """Return the account's current state."""
        rows = await self._fetch(FIND_ACCOUNT, account_id)
        return account_of(list(rows[0])) if rows else None

    async def hash_at(self, account_id: str, position: int) -> bytes | None:
        """Return the hash of one position."""
        rows = await self._fetch(HASH_AT, account_id, position)
        return rows[0]["hash"] if rows else None

    async def erase_private(self, account_id: str, position: int) -> None:
        """Erase the private text of one event."""
        await self._fetch(ERASE_PRIVATE, account_id, position)

    async def _events(self, statement: str, *arguments: object) -> list[StoredEvent]:
        return [stored_event(row) for row in await self._fetch(statement, *arguments)]

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        with translating(READ_FAILURES):
            return await self._pool.fetch(statement, *arguments)
