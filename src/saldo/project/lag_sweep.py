"""The lag sweep: finds accounts whose events the read model lacks, whatever Kafka did with them.

It walks the event store by ``appended_at`` from its watermark, so an idle account costs nothing.
It starts OVERLAP before the watermark: an event is stamped before its transaction commits, and a
commit may come as late as the recorder's transaction timeout allows, which is less.

The stamps are of the event store's clock, which may be set back. Then the walk starts before that
clock, and goes through what is stamped later, which no sweep may have seen. It does so until
OVERLAP has passed: what was stamped before the clock went back may be committed after the first
such walk.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from saldo.serve.clock import store_now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import asyncpg

    from saldo.project.catch_up import CaughtUp
    from saldo.serve.clock import StoreClock

OVERLAP = timedelta(seconds=30)
# A page is looked through in one turn of the event loop, while deliveries wait: so it is small.
# Every event is walked about seven times, as often as the interval goes into OVERLAP.
PAGE_EVENTS = 1_000
PAGE_EVENTS_MAX = 80_000
ERASED_PAGE = 5_000
FIRST_ERASED = datetime(1970, 1, 1, tzinfo=UTC)
PAGES_MAX = 100_000
# Caught up together, so that they share rounds and leave room in the queue for deliveries.
ACCOUNTS_AT_ONCE = 200
LAG_SWEEP = "lagging"
ERASURE_SWEEP = "erasures"
# What the note of a sweep can hold; a stream that was damaged may claim any position.
LAG_POSITIONS_MAX = 2**63 - 1
# A younger event is on its way, as every event is for a moment; an older one was lost or held up.
HEALED_AGE_S = 5.0
END_OF_TIME = datetime.max.replace(tzinfo=UTC)

READ_WATERMARK = "SELECT watermark FROM read_model.sweep WHERE name = $1"
# A stamp that is none must not keep the sweep from all other accounts: PostgreSQL's times reach
# further than Python's on both sides, and past its clock.
FIRST_APPENDED = """
SELECT least(appended_at, clock_timestamp()) FROM event_store.event
WHERE appended_at >= 'epoch' ORDER BY appended_at LIMIT 1
"""
WALK = """
SELECT account_id, position, hash, least(appended_at, '9999-12-30Z') AS appended_at
FROM event_store.event
WHERE appended_at >= $1 AND appended_at <= $2 ORDER BY appended_at LIMIT $3
"""
STANDING = """
SELECT account_id, position, hash FROM read_model.balance
WHERE account_id = ANY ($1::text[])
"""
NOTE = """
INSERT INTO read_model.sweep (name, watermark, swept_at, found, lag_positions, lag_s)
VALUES ($1, $2, clock_timestamp(), $3, $4, $5)
ON CONFLICT (name) DO UPDATE
SET watermark = excluded.watermark, swept_at = excluded.swept_at,
    found = excluded.found, lag_positions = excluded.lag_positions, lag_s = excluded.lag_s
"""
# Each page starts after the last row of the one before, so however many were erased at one moment
# none is passed over. What is stamped in the future waits until then: it would hide later ones.
ERASED = """
SELECT erased_at, account_id, position FROM event_store.event
WHERE erased_at >= $1 AND erased_at <= statement_timestamp()
  AND (erased_at, account_id, position) > ($1, $2, $3)
ORDER BY erased_at, account_id, position LIMIT $4
"""
NOTE_ERASED = """
INSERT INTO read_model.sweep (name, watermark, swept_at, found)
VALUES ($1, $2, clock_timestamp(), $3)
ON CONFLICT (name) DO UPDATE
SET watermark = excluded.watermark, swept_at = excluded.swept_at, found = excluded.found
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


class Appended(NamedTuple):
    """An event of the event store, as the walk sees it."""

    account_id: str
    position: int
    hash: bytes
    appended_at: datetime


class Standing(NamedTuple):
    """Where a balance stands; the hash is None before its first event."""

    account_id: str
    position: int
    hash: bytes | None


class LagTables(Protocol):
    """What the sweep needs of both sides."""

    async def watermark(self) -> datetime | None:
        """Up to where an earlier sweep has walked; before the first, where the events begin."""

    async def store_now(self) -> datetime:
        """The event store's time."""

    async def walk(self, since: datetime, until: datetime, limit: int) -> list[Appended]:
        """The first ``limit`` events stamped in that time, in the order of their stamps."""

    async def standing(self, account_ids: Sequence[str]) -> list[Standing]:
        """Where the balances of these accounts stand; none for an account that has none."""

    async def note(self, watermark: datetime, found: int, lag: Lag) -> None:
        """Remember a sweep that came to its end."""

    async def erase_copies(self, now: datetime) -> None:
        """Erase the statement's copies of what was erased in the event store up to ``now``.

        It walks from a watermark that only erasures move, less OVERLAP: an erasure may be committed
        late, and a round may write a copy late that it read before. It does not depend on the walk
        of the events, which may have been held up or have gone far ahead.
        """

    async def erase_copy(self, account_id: str, position: int) -> None:
        """Erase the statement's copy of a private part, if the event store says it is erased."""


class LagSweep:
    """Walks the last events and has the accounts that lag caught up."""

    def __init__(
        self,
        tables: LagTables,
        catch_up: Callable[[str, int], Awaitable[CaughtUp]],
        clock: StoreClock,
    ) -> None:
        self._tables = tables
        self._catch_up = catch_up
        self._clock = clock
        self._walked = Lag()
        # When the last walk through all that is stamped later began, by the monotonic clock.
        self._walked_later_s = -math.inf
        self.lag: Lag | None = None  # as the last sweep that came to its end found it
        self.healed = 0

    async def sweep(self) -> int:
        """One walk to the end of the events; how many accounts were found to lag."""
        self._walked = Lag()
        now = await self._clock.read(self._tables.store_now)
        await self._tables.erase_copies(now)
        watermark = await self._tables.watermark()
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
            rows = await self._tables.walk(cursor, end, page_events)
            last_page = len(rows) < page_events
            found += await self._catch_up_lagging(rows, now, last_page=last_page)
            if rows:
                # What is stamped in the future moves nothing: events that are stamped rightly still
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
        await self._tables.note(watermark, found, lag)
        if walks_later:
            self._walked_later_s = began_s
        return found

    async def _catch_up_lagging(
        self, rows: Sequence[Appended], now: datetime, *, last_page: bool
    ) -> int:
        newest: dict[str, Appended] = {}
        for row in rows:
            # By position, not by order: events of one microsecond come in any.
            known = newest.get(row.account_id)
            if known is None or known.position < row.position:
                newest[row.account_id] = row
        if not newest:
            return 0
        standing = {each.account_id: each for each in await self._tables.standing(list(newest))}
        oldest = self._note_lag(rows, newest, standing, now)
        lagging: list[Appended] = []
        for account_id, row in newest.items():
            balance = standing.get(account_id)
            if (
                balance is None
                or balance.position < row.position
                # The balance has diverged from its stream, as after a restore, and is refolded.
                or (balance.position == row.position and balance.hash != row.hash)
                # So it has where it stands beyond the stream's end, which the last page holds.
                or (last_page and balance.position > row.position)
            ):
                lagging.append(row)
        for start in range(0, len(lagging), ACCOUNTS_AT_ONCE):
            rows_at_once = lagging[start : start + ACCOUNTS_AT_ONCE]
            outcomes = await asyncio.gather(
                *(self._catch_up(row.account_id, row.position) for row in rows_at_once),
                return_exceptions=True,
            )
            for row, reached in zip(rows_at_once, outcomes, strict=True):
                if isinstance(reached, BaseException):
                    raise reached
                was_late = oldest.get(row.account_id, 0.0) > HEALED_AGE_S
                self.healed += was_late and not reached.blocked
        return len(lagging)

    def _note_lag(
        self,
        rows: Sequence[Appended],
        newest: Mapping[str, Appended],
        standing: Mapping[str, Standing],
        now: datetime,
    ) -> dict[str, float]:
        """Add a page to the lag; the age in seconds of each lagging account's oldest event."""
        at = {account_id: balance.position for account_id, balance in standing.items()}
        oldest: dict[str, float] = {}
        for row in rows:
            if row.position > at.get(row.account_id, 0):
                age_s = (now - row.appended_at).total_seconds()
                oldest[row.account_id] = max(oldest.get(row.account_id, 0.0), age_s)
        lag = self._walked
        lag.seconds = max(lag.seconds, *oldest.values(), 0.0)
        behind = sum(newest[a].position - at.get(a, 0) for a in oldest)
        lag.positions = min(lag.positions + behind, LAG_POSITIONS_MAX)
        if oldest:
            # Told at once: an account that lags may be one that cannot be caught up.
            self.lag = lag
        return oldest


class PostgresLagTables:
    """LagTables, on a pool of connections to each side."""

    def __init__(
        self,
        streams: asyncpg.Pool[asyncpg.Record],
        read_model: asyncpg.Pool[asyncpg.Record],
    ) -> None:
        self._streams = streams
        self._read_model = read_model

    async def watermark(self) -> datetime | None:
        noted: datetime | None = await self._read_model.fetchval(READ_WATERMARK, LAG_SWEEP)
        if noted is not None:
            return noted
        first: datetime | None = await self._streams.fetchval(FIRST_APPENDED)
        return first

    async def store_now(self) -> datetime:
        return await store_now(self._streams)

    async def walk(self, since: datetime, until: datetime, limit: int) -> list[Appended]:
        return list(map(Appended._make, await self._streams.fetch(WALK, since, until, limit)))

    async def standing(self, account_ids: Sequence[str]) -> list[Standing]:
        return list(map(Standing._make, await self._read_model.fetch(STANDING, account_ids)))

    async def note(self, watermark: datetime, found: int, lag: Lag) -> None:
        await self._read_model.execute(
            NOTE, LAG_SWEEP, watermark, found, lag.positions, lag.seconds
        )

    async def erase_copies(self, now: datetime) -> None:
        noted = await self._read_model.fetchval(READ_WATERMARK, ERASURE_SWEEP)
        last, found = (FIRST_ERASED if noted is None else min(noted, now) - OVERLAP, "", 0), 0
        for _ in range(PAGES_MAX):
            rows = await self._streams.fetch(ERASED, *last, ERASED_PAGE)
            if not rows:
                break
            found += len(rows)
            last = (rows[-1][0], rows[-1][1], rows[-1][2])
            await self._read_model.execute(
                ERASE_COPIES,
                [row["account_id"] for row in rows],
                [row["position"] for row in rows],
            )
            if len(rows) < ERASED_PAGE:
                break
        if found:
            await self._read_model.execute(NOTE_ERASED, ERASURE_SWEEP, last[0], found)

    async def erase_copy(self, account_id: str, position: int) -> None:
        row = await self._streams.fetchrow(CONFIRM_ERASED, account_id, position)
        if row is not None:
            await self._read_model.execute(ERASE_COPIES, [account_id], [position])
