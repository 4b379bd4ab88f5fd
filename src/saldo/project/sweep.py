"""The lag sweep: finds accounts whose events the read model lacks, whatever Kafka did with them.

It walks the event store by ``appended_at`` from its watermark, so an idle account costs nothing.
It starts OVERLAP before the watermark: an event is stamped before its transaction commits, and a
commit may come as late as the recorder's transaction timeout allows, which is less.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import asyncpg

    from saldo.project.catch_up import CaughtUp

OVERLAP = timedelta(seconds=30)
PAGE_EVENTS = 5_000
PAGE_EVENTS_MAX = 80_000
PAGES_MAX = 100_000
LAG_SWEEP = "lagging"
# A younger event is on its way, as every event is for a moment; an older one was lost or held up.
HEALED_AGE_S = 5.0

READ_WATERMARK = "SELECT watermark FROM read_model.sweep WHERE name = $1"
FIRST_APPENDED = "SELECT min(appended_at) FROM event_store.event"
WALK = """
SELECT account_id, position, hash, appended_at FROM event_store.event
WHERE appended_at >= $1 ORDER BY appended_at LIMIT $2
"""
STANDING = """
SELECT account_id, position, hash, blocked_schema FROM read_model.balance
WHERE account_id = ANY ($1::text[])
"""
NOTE = """
INSERT INTO read_model.sweep AS s (name, watermark, swept_at, found, lag_positions, lag_s)
VALUES ($1, $2, clock_timestamp(), $3, $4, $5)
ON CONFLICT (name) DO UPDATE
SET watermark = greatest(s.watermark, excluded.watermark), swept_at = excluded.swept_at,
    found = excluded.found, lag_positions = excluded.lag_positions, lag_s = excluded.lag_s
"""
ERASED = """
SELECT account_id, position FROM event_store.event
WHERE erased_at >= $1 ORDER BY erased_at LIMIT $2
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


@dataclass(slots=True)
class Lag:
    """How far the read model was behind what a sweep has walked."""

    positions: int = 0
    seconds: float = 0.0


class LagSweep:
    """Walks the last events and has the accounts that lag caught up."""

    def __init__(
        self,
        streams: asyncpg.Pool[asyncpg.Record],
        read_model: asyncpg.Pool[asyncpg.Record],
        catch_up: Callable[[str, int], Awaitable[CaughtUp]],
    ) -> None:
        self._streams = streams
        self._read_model = read_model
        self._catch_up = catch_up
        self._walked = Lag()
        self.lag: Lag | None = None  # as the last sweep that came to its end found it
        self.healed = 0

    async def sweep(self) -> int:
        """One walk to the end of the events; how many accounts were found to lag."""
        self._walked = Lag()
        watermark = await self._read_model.fetchval(READ_WATERMARK, LAG_SWEEP)
        if watermark is None:
            watermark = await self._streams.fetchval(FIRST_APPENDED)
            if watermark is None:
                return 0
        start = watermark - OVERLAP
        found = 0
        cursor, page_events = start, PAGE_EVENTS
        for _ in range(PAGES_MAX):
            rows = await self._streams.fetch(WALK, cursor, page_events)
            last_page = len(rows) < page_events
            found += await self._catch_up_lagging(rows, last_page=last_page)
            if rows:
                watermark = max(watermark, rows[-1]["appended_at"])
                if not last_page and rows[-1]["appended_at"] == cursor:
                    # More events of one microsecond than a page holds: a larger page passes it.
                    page_events = min(page_events * 2, PAGE_EVENTS_MAX)
                cursor = rows[-1]["appended_at"]
            if last_page:
                break
        await self._erase_copies(start)
        lag = self.lag = self._walked
        await self._read_model.execute(
            NOTE, LAG_SWEEP, watermark, found, lag.positions, lag.seconds
        )
        return found

    async def _catch_up_lagging(self, rows: Sequence[asyncpg.Record], *, last_page: bool) -> int:
        newest: dict[str, asyncpg.Record] = {}
        for row in rows:
            # By position, not by order: events of one microsecond come in any.
            known = newest.get(row["account_id"])
            if known is None or known["position"] < row["position"]:
                newest[row["account_id"]] = row
        if not newest:
            return 0
        standing = {
            row["account_id"]: row for row in await self._read_model.fetch(STANDING, list(newest))
        }
        oldest = self._note_lag(rows, newest, standing)
        found = 0
        for account_id, row in newest.items():
            balance = standing.get(account_id)
            if balance is None or balance["position"] < row["position"]:
                lags = True
            else:
                # On the last page the row is the end of the account's stream. A balance that
                # stands elsewhere has diverged from it, as after a restore, and is refolded.
                lags = last_page and (
                    balance["position"] != row["position"] or balance["hash"] != row["hash"]
                )
            if lags:
                found += 1
                reached = await self._catch_up(account_id, row["position"])
                was_late = oldest.get(account_id, 0.0) > HEALED_AGE_S
                self.healed += was_late and not reached.blocked
        return found

    def _note_lag(
        self,
        rows: Sequence[asyncpg.Record],
        newest: Mapping[str, asyncpg.Record],
        standing: Mapping[str, asyncpg.Record],
    ) -> dict[str, float]:
        """Add a page to the lag; the age in seconds of each lagging account's oldest event."""
        at = {account_id: row["position"] for account_id, row in standing.items()}
        now = datetime.now(UTC)
        oldest: dict[str, float] = {}
        for row in rows:
            if row["position"] > at.get(row["account_id"], 0):
                age_s = (now - row["appended_at"]).total_seconds()
                oldest[row["account_id"]] = max(oldest.get(row["account_id"], 0.0), age_s)
        lag = self._walked
        lag.seconds = max(lag.seconds, *oldest.values(), 0.0)
        lag.positions += sum(newest[a]["position"] - at.get(a, 0) for a in oldest)
        return oldest

    async def _erase_copies(self, since: datetime) -> None:
        rows = await self._streams.fetch(ERASED, since, PAGE_EVENTS)
        if rows:
            await self._read_model.execute(
                ERASE_COPIES,
                [r["account_id"] for r in rows],
                [r["position"] for r in rows],
            )

    async def erase_copy(self, account_id: str, position: int) -> None:
        """Erase the statement's copy of a private part, if the event store says it is erased."""
        row = await self._streams.fetchrow(CONFIRM_ERASED, account_id, position)
        if row is not None:
            await self._read_model.execute(ERASE_COPIES, [account_id], [position])
