"""The reader: what get_balance holds between requests."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from saldo.query.balances import Balances, Standing
from saldo.query.errors import TooManyWaiters
from saldo.query.position_watch import Watch
from saldo.query.system_status import System
from saldo.serve.database import close_pool, function_pool
from saldo.serve.group_commit import GroupCommit, QueueFull
from saldo.serve.http.auth import Caller, authenticator_of, caller_of
from saldo.serve.http.problems import TooBusy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from saldo.query.metrics import QueryMetrics
    from saldo.serve.http.request import Request
    from saldo.serve.settings import Settings

QUEUE_ACCOUNTS_MAX = 20_000
BATCH_ACCOUNTS_MAX = 500
BATCHES_IN_FLIGHT_MAX = 2
FURTHER_BATCH_ACCOUNTS_MIN = 32
CLOSE_POOL_S = 5.0
STREAMS_MAX = 500
STREAMS_A_CALLER_MAX = 50


class OpenStreams:
    """The event streams that are open in this process, by caller."""

    def __init__(self) -> None:
        self._by_caller: Counter[tuple[str, str]] = Counter()

    @property
    def count(self) -> int:
        """How many are open."""
        return self._by_caller.total()

    def require_room(self, caller: Caller) -> None:
        """Raise TooManyWaiters unless ``caller`` may open one more."""
        if self._by_caller[caller.issuer, caller.subject] >= STREAMS_A_CALLER_MAX:
            raise TooManyWaiters(
                f"A caller may have {STREAMS_A_CALLER_MAX} event streams open: close one first."
            )
        if self.count >= STREAMS_MAX:
            raise TooManyWaiters

    def add(self, caller: Caller, streams: int) -> None:
        """Count streams of ``caller`` that open, or by a negative number close."""
        self._by_caller[caller.issuer, caller.subject] += streams
        self._by_caller += Counter()  # drop those at zero


class Reader:
    """Pools, coalesced reads and the watch of one process."""

    def __init__(self, settings: Settings, metrics: QueryMetrics) -> None:
        if settings.read_model_url is None:
            raise ValueError("the reader's settings are incomplete")
        self.settings = settings
        self.read_model = function_pool(settings, settings.read_model_url, "read_model", metrics)
        self.streams_pool = (
            self.read_model
            if settings.event_store_url == settings.read_model_url
            else function_pool(settings, settings.event_store_url, "event_store", metrics)
        )
        self.balances = Balances(self.read_model, self.streams_pool)
        self.reads = GroupCommit[str, Standing](
            self._read_batch,
            name="read",
            metrics=metrics,
            queue_weight_max=QUEUE_ACCOUNTS_MAX,
            batch_weight_max=BATCH_ACCOUNTS_MAX,
            batches_max=BATCHES_IN_FLIGHT_MAX,
            further_weight_min=FURTHER_BATCH_ACCOUNTS_MIN,
        )
        self.watch = Watch(self.balances.states)
        self.system = System(self.read_model, self.streams_pool)
        self.authenticator = authenticator_of(settings.callers)
        self.streams = OpenStreams()
        self.stopping = False
        self._read_behind = metrics.read_behind
        metrics.clock_ahead.observe(lambda: self.balances.clock.ahead_s)
        metrics.streams_open.observe(lambda: self.streams.count)
        metrics.readers_waiting.observe(lambda: self.watch.waiting)

    async def _read_batch(self, account_ids: Sequence[str]) -> Sequence[Standing]:
        standings = await self.balances.read(account_ids)
        for standing in standings:
            self._read_behind.observe(standing.behind)
        return standings

    def read(self, account_id: str) -> asyncio.Future[Standing]:
        """Return one account as it stands; reads that wait together are one query."""
        try:
            return self.reads.submit(account_id, ())
        except QueueFull as full:
            raise TooBusy from full

    async def caller(self, request: Request) -> Caller:
        """Return who sends ``request``; raises Unauthenticated."""
        return await caller_of(self.authenticator, request)

    def drain(self) -> None:
        """End the event streams and the long waits: the process is about to stop."""
        self.stopping = True
        self.watch.release()

    async def close(self) -> None:
        """Finish what waits, and close the connections."""
        self.drain()
        await self.reads.drain()
        await self.watch.close()
        await close_pool(self.read_model, CLOSE_POOL_S)
        if self.streams_pool is not self.read_model:
            await close_pool(self.streams_pool, CLOSE_POOL_S)


async def open_reader(settings: Settings, metrics: QueryMetrics) -> Reader:
    """Return the reader of this process."""
    reader = Reader(settings, metrics)
    await reader.read_model
    await reader.streams_pool
    return reader
