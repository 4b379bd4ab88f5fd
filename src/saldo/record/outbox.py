"""The outbox in PostgreSQL: what Kafka has not acknowledged yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saldo.record.intent import StoredEvent
from saldo.serve.clock import store_now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import asyncpg

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


class PostgresOutbox:
    """Outbox, on a pool of connections."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def claim(self) -> list[StoredEvent]:
        rows = await self._pool.fetch(CLAIM, SWEEP_AGE_S, CLAIM_S, CLAIM_ROWS_MAX)
        return [StoredEvent(**row) for row in rows]

    async def acknowledge(self, sent: Sequence[tuple[str, int, bool]]) -> None:
        await self._pool.execute(ACKNOWLEDGE, *zip(*sent, strict=True))

    async def store_now(self) -> datetime:
        """Return the event store's time."""
        return await store_now(self._pool)

    async def note_sweep(self, found: int) -> None:
        await self._pool.execute(NOTE_SWEEP, OUTBOX_SWEEP, found)

    async def depth(self) -> tuple[int, float]:
        """Return how many rows wait, up to 100,000, and the age of the oldest in seconds."""
        row = await self._pool.fetchrow(DEPTH)
        return (0, 0.0) if row is None else (row["rows"], float(row["age_s"] or 0.0))
