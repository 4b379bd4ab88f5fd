"""The lag sweep: finds accounts whose events the read model lacks, whatever Kafka did with them.

It reads the event store by `appended_at` from its watermark, so an idle account costs nothing. It
starts OVERLAP before the watermark: an event is stamped before its transaction commits, and a
commit may come as late as the recorder's transaction timeout allows, which is less.

The stamps are of the event store's clock, which may be set back. Then the sweep starts before that
clock, and reads everything with a later stamp, which no sweep may have seen. It does so until
OVERLAP has passed: what was stamped before the clock went back may be committed after the first
such sweep.
"""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from saldo.project.ports import Lag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from saldo.project.catch_up import CaughtUp
    from saldo.project.ports import Appended, Databases, States
    from saldo.serve.clock import StoreClock

OVERLAP = timedelta(seconds=30)
# A page is processed in one turn of the event loop, while deliveries wait: so it is small. Every
# event is read about seven times, as often as the interval goes into OVERLAP.
PAGE_EVENTS = 1_000
PAGE_EVENTS_MAX = 80_000
PAGES_MAX = 100_000
# Caught up together, so that they share rounds and leave room in the queue for deliveries.
ACCOUNTS_AT_ONCE = 200
# What the note of a sweep can hold; a stream that was damaged may claim any position.
LAG_POSITIONS_MAX = 2**63 - 1
# A younger event is on its way, as every event is for a moment; an older one was lost or held up.
HEALED_AGE_S = 5.0
END_OF_TIME = datetime.max.replace(tzinfo=UTC)


class LagSweep:
    """Reads the last events and has the accounts that lag caught up."""

    def __init__(
        self,
        databases: Databases,
        catch_up: Callable[[str, int], Awaitable[CaughtUp]],
        clock: StoreClock,
    ) -> None:
        self._databases = databases
        self._catch_up = catch_up
        self._clock = clock
        self._walked = Lag()
        # When the last sweep through everything with a later stamp began, by the monotonic clock.
        self._walked_later_s = -math.inf
        self.lag: Lag | None = None  # as the last finished sweep found it
        self.healed = 0

    async def sweep(self) -> int:
        """Read to the end of the events; return how many accounts were found to lag."""
        self._walked = Lag()
        now = await self._clock.read(self._databases.store_now)
        await self._databases.erase_copies(now)
        watermark = await self._databases.watermark()
        if watermark is None:
            return 0
        began_s = self._clock.monotonic()
        if watermark > now:
            watermark = now - OVERLAP
        cursor = watermark - OVERLAP
        settled_s = (self._clock.set_back_s or 0.0) + OVERLAP.total_seconds()
        walks_later = self._walked_later_s < settled_s
        end = END_OF_TIME if walks_later else now + OVERLAP
        found = 0
        page_events = PAGE_EVENTS
        for _ in range(PAGES_MAX):
            rows = await self._databases.walk(cursor, end, page_events)
            last_page = len(rows) < page_events
            found += await self._catch_up_lagging(rows, now, last_page=last_page)
            if rows:
                # What is stamped in the future moves nothing: events with the right stamp still
                # come before it.
                past = [row.appended_at for row in rows if row.appended_at <= now]
                watermark = max([watermark, *past[-1:]])
                if not last_page and rows[-1].appended_at == cursor:
                    # More events of one microsecond than a page holds: a larger page passes it.
                    page_events = min(page_events * 2, PAGE_EVENTS_MAX)
                cursor = rows[-1].appended_at
            if last_page:
                break
        lag = self.lag = self._walked
        await self._databases.note(watermark, found, lag)
        if walks_later:
            self._walked_later_s = began_s
        return found

    async def _catch_up_lagging(
        self, rows: Sequence[Appended], now: datetime, *, last_page: bool
    ) -> int:
        newest: dict[str, Appended] = {}
        for row in rows:
            # By position, not by order: events of one microsecond come in any.
            if row.account_id not in newest or newest[row.account_id].position < row.position:
                newest[row.account_id] = row
        if not newest:
            return 0
        standing = await self._databases.standing(list(newest))
        oldest_s = self._note_lag(rows, newest, standing, now)
        lagging: list[Appended] = []
        for account_id, row in newest.items():
            position, state_hash = standing.get(account_id, (0, None))
            if (
                position < row.position
                # The balance has diverged from its stream, as after a restore, and is refolded.
                or (position == row.position and state_hash != row.hash)
                # So it has if it stands beyond the stream's end, which the last page holds.
                or (last_page and position > row.position)
            ):
                lagging.append(row)
        for start in range(0, len(lagging), ACCOUNTS_AT_ONCE):
            at_once = lagging[start : start + ACCOUNTS_AT_ONCE]
            reached = await asyncio.gather(
                *(self._catch_up(row.account_id, row.position) for row in at_once)
            )
            for row, each in zip(at_once, reached, strict=True):
                was_late = oldest_s.get(row.account_id, 0.0) > HEALED_AGE_S
                self.healed += was_late and not each.blocked
        return len(lagging)

    def _note_lag(
        self,
        rows: Sequence[Appended],
        newest: Mapping[str, Appended],
        standing: States,
        now: datetime,
    ) -> dict[str, float]:
        """Add a page to the lag; return the age of each lagging account's oldest event."""
        at = {account_id: position for account_id, (position, _) in standing.items()}
        oldest_s: dict[str, float] = {}
        for row in rows:
            if row.position > at.get(row.account_id, 0):
                age_s = (now - row.appended_at).total_seconds()
                oldest_s[row.account_id] = max(oldest_s.get(row.account_id, 0.0), age_s)
        behind = sum(newest[a].position - at.get(a, 0) for a in oldest_s)
        self._walked = Lag(
            positions=min(self._walked.positions + behind, LAG_POSITIONS_MAX),
            seconds=max(self._walked.seconds, *oldest_s.values(), 0.0),
        )
        if oldest_s:
            # Reported at once: it may be impossible to catch up an account that lags.
            self.lag = self._walked
        return oldest_s
