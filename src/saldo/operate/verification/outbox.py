"""The outbox: rows of no event, and rows that no recorder wrote or no sweep sends or deletes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from saldo.operate.verification.findings import CLOCK_AHEAD_MAX, NO_EVENT, Fault
from saldo.operate.verification.stamps import STAMPS_APART_MAX
from saldo.record.outbox import CLAIM_S

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

ROWS_MAX = 100_000
TRACEPARENT = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
OUTBOX = """
SELECT o.account_id, o.position, o.appended_at, o.claimed_until, e.position IS NULL AS orphan,
       o.erased AND e.private_text IS NOT NULL AS kept,
       o.appended_at + $2::interval < e.appended_at AS early
FROM event_store.outbox AS o
LEFT JOIN event_store.event AS e ON e.account_id = o.account_id AND e.position = o.position
WHERE e.position IS NULL OR o.appended_at > $1 OR o.claimed_until > $1
   OR (o.erased AND e.private_text IS NOT NULL)
   OR o.appended_at + $2::interval < e.appended_at OR o.traceparent !~ $3
ORDER BY o.account_id, o.position LIMIT $4
"""


async def check_outbox(
    event_store: asyncpg.Connection[asyncpg.Record], now: datetime
) -> list[Fault]:
    """Return a fault for each such row."""
    faults = []
    latest = now + timedelta(seconds=CLAIM_S) + CLOCK_AHEAD_MAX
    for row in await event_store.fetch(OUTBOX, latest, STAMPS_APART_MAX, TRACEPARENT, ROWS_MAX):
        if row["orphan"]:
            column, reason = "position", NO_EVENT
        elif row["kept"]:
            column, reason = "erased", "the event was not erased: the row stays"
        elif row["appended_at"] > latest:
            column, reason = "appended_at", "it is in the future"
        elif row["early"]:
            column, reason = "appended_at", "it is before the event's"
        elif row["claimed_until"] is not None and row["claimed_until"] > latest:
            column, reason = "claimed_until", "no claim lasts so long"
        else:
            column, reason = "traceparent", "it is no trace context"
        faults.append(Fault("outbox", column, reason, row["account_id"], row["position"]))
    return faults
