"""The outbox: rows of no event, and rows whose times keep every sweep from sending them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from saldo.operate.verification.findings import CLOCK_AHEAD_MAX, Fault
from saldo.record.outbox import CLAIM_S

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

ROWS_MAX = 100_000
OUTBOX = """
SELECT o.account_id, o.position, o.appended_at, o.claimed_until, e.position IS NULL AS orphan
FROM event_store.outbox AS o
LEFT JOIN event_store.event AS e ON e.account_id = o.account_id AND e.position = o.position
WHERE e.position IS NULL OR o.appended_at > $1 OR o.claimed_until > $1
ORDER BY o.account_id, o.position LIMIT $2
"""


async def check_outbox(
    event_store: asyncpg.Connection[asyncpg.Record], now: datetime
) -> list[Fault]:
    """Rows of no event, and rows whose times keep every sweep from sending them."""
    faults = []
    latest = now + timedelta(seconds=CLAIM_S) + CLOCK_AHEAD_MAX
    for row in await event_store.fetch(OUTBOX, latest, ROWS_MAX):
        if row["orphan"]:
            column, reason = "position", "the store has no such event"
        elif row["appended_at"] > latest:
            column, reason = "appended_at", "it is in the future: no sweep sends the row"
        else:
            column, reason = "claimed_until", "no claim lasts so long: no sweep sends the row"
        faults.append(
            Fault(
                account_id=row["account_id"],
                position=row["position"],
                table="outbox",
                column=column,
                reason=reason,
            )
        )
    return faults
