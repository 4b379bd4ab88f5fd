"""The recorder: what record_transaction holds between requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING
from zlib import crc32

from saldo.record.batch import Dependencies, record_batch
from saldo.record.intent import Intent, Recorded
from saldo.record.kafka import KafkaSender
from saldo.record.postgres import PostgresEventStore, PostgresOutbox
from saldo.record.relay import Relay
from saldo.record.requests import BULK_BYTES_MAX, BULK_LINES_MAX
from saldo.record.stored_events import StoredEvents
from saldo.serve.clock import StoreClock, store_now
from saldo.serve.database import close_pool, function_pool
from saldo.serve.group_commit import GroupCommit, QueueFull
from saldo.serve.http.auth import Caller, authenticator_of, caller_of
from saldo.serve.http.problems import FieldError, Invalid, TooBusy
from saldo.serve.http.request import Arrivals
from saldo.serve.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from saldo.record.decision import Decided, Outcome
    from saldo.record.metrics import RecordMetrics
    from saldo.serve.http.request import Request
    from saldo.serve.settings import Settings

# Lines that wait: two of the largest bulk requests, and beside them so many single transactions.
BULK_REQUESTS_MAX = 2
SINGLES_WAITING_MAX = 2_000
QUEUE_LINES_MAX = BULK_REQUESTS_MAX * BULK_LINES_MAX + SINGLES_WAITING_MAX
# Bodies that are on their way: eight of the largest.
ARRIVING_BYTES_MAX = 8 * BULK_BYTES_MAX
BATCH_LINES_MAX = 1_000
BATCHES_IN_FLIGHT_MAX = 2
# Lines that must wait before a second batch runs beside the first.
FURTHER_BATCH_LINES_MIN = 48
SWEEP_INTERVAL_S = 5.0
CLOSE_POOL_S = 5.0
# How many of the database's shards there are: more than one only behind a distributed engine.
SHARDS = 1


def shard_of(account_id: str) -> int:
    """Return the shard that has the account; a batch never mixes shards."""
    return crc32(account_id.encode()) % SHARDS if SHARDS > 1 else 0


class Recorder:
    """Store, group commit, relay and sweeps of one process."""

    def __init__(self, settings: Settings, metrics: RecordMetrics) -> None:
        if settings.kafka is None:
            raise ValueError("the recorder's settings are incomplete")
        self.settings = settings
        self.pool = function_pool(settings, settings.event_store_url, "event_store", metrics)
        self.events = StoredEvents(self.pool)
        self.outbox = PostgresOutbox(self.pool)
        self.relay = Relay(self.outbox, asyncio.sleep)
        self.sender = KafkaSender(settings.kafka, self.relay.delivered)
        self.relay.use(self.sender)
        self.sweeper = Sweeper("outbox", self._sweep, SWEEP_INTERVAL_S, metrics)
        self.clock = StoreClock()
        # Rows and age in seconds, as the last sweep found them; None while the store is away.
        self.outbox_depth: tuple[int, float] | None = None
        self.authenticator = authenticator_of(settings.callers)
        self.sources = authenticator_of(settings.sources)
        self._deps = Dependencies(
            store=PostgresEventStore(self.pool),
            monotonic=time.monotonic,
            sleep=asyncio.sleep,
            default_currency=settings.default_currency,
        )
        self.commits = [
            GroupCommit[Intent, list[Recorded]](
                self._record,
                name="record",
                metrics=metrics,
                queue_weight_max=QUEUE_LINES_MAX,
                batch_weight_max=BATCH_LINES_MAX,
                batches_max=BATCHES_IN_FLIGHT_MAX,
                further_weight_min=FURTHER_BATCH_LINES_MIN,
            )
            for _ in range(SHARDS)
        ]
        self.singles = 0
        self.bulks = 0
        self.arrivals = Arrivals(ARRIVING_BYTES_MAX)
        self._metrics = metrics
        relay = self.relay
        metrics.outbox_rows.observe(lambda: self.outbox_depth and self.outbox_depth[0])
        metrics.outbox_age.observe(lambda: self.outbox_depth and self.outbox_depth[1])
        metrics.clock_ahead.observe(lambda: self.clock.ahead_s)
        metrics.relay_in_flight.observe(lambda: relay.in_flight)
        metrics.relay_records.observe(lambda: relay.sent, "sent")
        metrics.relay_records.observe(lambda: relay.acknowledged, "acknowledged")
        metrics.relay_records.observe(lambda: relay.failed, "failed")
        metrics.relay_records.observe(lambda: relay.swept, "swept")

    async def _sweep(self) -> int:
        """Measure the outbox, then send what waits in it."""
        try:
            await self.clock.read(lambda: store_now(self.pool))
            self.outbox_depth = await self.outbox.depth()
        except BaseException:
            self.outbox_depth = None  # better not known than as it was once
            raise
        return await self.relay.sweep()

    async def _record(self, intents: Sequence[Intent]) -> list[Outcome]:
        outcomes = await record_batch(intents, self._deps, self._committed)
        recorded = [each for outcome in outcomes if isinstance(outcome, list) for each in outcome]
        self._metrics.replays.inc(sum(each.replayed for each in recorded))
        return outcomes

    def _committed(self, decided: Decided) -> None:
        self._metrics.events_recorded.inc(len(decided.events))
        self.relay.send_committed(decided.events)

    async def record(self, intent: Intent) -> list[Recorded]:
        """Record an intent; raises TooBusy, a Refused or an error of the store."""
        account_ids = intent.account_ids()
        shards = {shard_of(account_id) for account_id in account_ids}
        if len(shards) > 1:
            raise Invalid([FieldError("accountId", "must be of one shard within a bulk request")])
        single = not intent.is_bulk
        if single and self.singles >= SINGLES_WAITING_MAX:
            raise TooBusy
        self.singles += single
        try:
            commit = self.commits[shards.pop()]
            return await commit.submit(intent, account_ids, len(intent.lines))
        except QueueFull as full:
            raise TooBusy from full
        finally:
            self.singles -= single

    @contextlib.contextmanager
    def bulk_place(self) -> Iterator[None]:
        """Hold one of the few places for bulk requests; raise TooBusy when all are taken."""
        if self.bulks >= BULK_REQUESTS_MAX:
            raise TooBusy
        self.bulks += 1
        try:
            yield
        finally:
            self.bulks -= 1

    async def caller(self, request: Request) -> Caller:
        """Return who sends ``request``; raises Unauthenticated."""
        return await caller_of(self.authenticator, request)

    def drain(self) -> None:
        """Nothing waits here but for the store, which is bounded."""

    async def close(self) -> None:
        """Record what waits, send what was recorded, and let go."""
        for commit in self.commits:
            await commit.drain()
        await self.sweeper.stop()
        await self.relay.drain()
        await self.sender.close()
        await close_pool(self.pool, CLOSE_POOL_S)


async def open_recorder(settings: Settings, metrics: RecordMetrics) -> Recorder:
    """Return the recorder of this process, its sweeps started."""
    recorder = Recorder(settings, metrics)
    await recorder.pool
    recorder.sweeper.start()
    return recorder
