"""The event store's clock, as a process estimates it between two reads."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    import asyncpg

log = logging.getLogger(__name__)

# A process's clock that is off the event store's by more is reported.
CLOCK_OFF_MAX_S = 5.0
# The store's clock was set back where it is behind the time that had to come by more.
SET_BACK_MIN = timedelta(seconds=10)

STORE_NOW = "SELECT clock_timestamp()"


async def store_now(
    store: asyncpg.Pool[asyncpg.Record] | asyncpg.Connection[asyncpg.Record],
) -> datetime:
    """Return the event store's time."""
    now: datetime = await store.fetchval(STORE_NOW)
    return now


class StoreClock:
    """The event store's time: read at times, and advanced by the monotonic clock in between.

    The process's own wall clock is only compared with it and dates nothing.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self.monotonic = monotonic
        self._noted: tuple[datetime, float] | None = None
        # How far the process's clock is ahead of the store's at the least; negative: behind.
        self.ahead_s: float | None = None
        # When, by the monotonic clock, the store's clock was last seen set back. The first read
        # counts, since it may follow such a step.
        self.set_back_s: float | None = None

    async def read(self, ask: Callable[[], Awaitable[datetime]]) -> datetime:
        """Ask the store for its time."""
        asked_s = self._wall()
        now = await ask()
        self.note(asked_s, now)
        return now

    def note(self, asked_s: float, now: datetime) -> None:
        """Take ``now`` for the store's time at some moment since ``asked_s`` of the wall clock."""
        expected = self.now()
        if expected is None or now < expected - SET_BACK_MIN:
            self.set_back_s = self.monotonic()
        self._noted = now, self.monotonic()
        store_s = now.timestamp()
        was_off = abs(self.ahead_s or 0.0) > CLOCK_OFF_MAX_S
        self.ahead_s = max(asked_s - store_s, 0.0) + min(self._wall() - store_s, 0.0)
        if abs(self.ahead_s) > CLOCK_OFF_MAX_S and not was_off:
            log.warning(
                "this process's clock is %.1f s ahead of the event store's: set one of them right",
                self.ahead_s,
            )

    def now(self) -> datetime | None:
        """Return the store's time; None before it was read."""
        if self._noted is None:
            return None
        noted, at = self._noted
        return noted + timedelta(seconds=self.monotonic() - at)
