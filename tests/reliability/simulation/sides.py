"""The product's own recorder and projector, assembled as in the functions, in simulated processes.

Everything here is imported from saldo; only the implementations of its protocols are simulated.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.domain.errors import Refused
from saldo.project import projector
from saldo.project.deliveries import Delivery
from saldo.project.errors import (
    BadDelivery,
    BeyondStore,
    GivenUp,
    ReadModelBusy,
    ReadModelUnavailable,
)
from saldo.project.metrics import ProjectMetrics
from saldo.record.batch import Dependencies, record_batch
from saldo.record.errors import OutcomeUnknown, StoreBusy, StoreUnavailable
from saldo.record.metrics import RecordMetrics
from saldo.record.relay import Relay
from saldo.serve.clock import StoreClock
from saldo.serve.group_commit import GroupCommit, QueueFull
from saldo.serve.sweeper import Sweeper
from tests.reliability.simulation.kafka import Broker, Sender
from tests.reliability.simulation.read_model import Databases, ReadModel
from tests.reliability.simulation.store import EventStore, Outbox
from tests.support.controls import BRL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from saldo.record.decision import Decided, Outcome
    from saldo.record.intent import Intent, Recorded
    from tests.reliability.simulation.world import Process

SWEEP_INTERVAL_S = 5.0
# Small, so that a few clients fill them.
QUEUE_LINES_MAX = 24
BATCH_LINES_MAX = 8
ANSWERED = (Refused, StoreBusy, StoreUnavailable, OutcomeUnknown, QueueFull)
# The projector's statuses: tests/unit/project/test_retry_policy.py compares them.
STATUSES: dict[type[Exception], int] = {
    BadDelivery: 400,
    GivenUp: 422,
    BeyondStore: 503,
    ReadModelBusy: 503,
    ReadModelUnavailable: 503,
    QueueFull: 429,
}


@dataclass(slots=True)
class Servers:
    """What all processes reach over the network."""

    store: EventStore
    model: ReadModel
    broker: Broker


class Recorder:
    """One life of record_transaction, without HTTP."""

    def __init__(self, servers: Servers, process: Process) -> None:
        self.process = process
        self._deps = Dependencies(
            store=servers.store,
            monotonic=process.world.loop.time,
            sleep=asyncio.sleep,
            default_currency=BRL,
        )
        metrics = RecordMetrics()
        self._relay = Relay(Outbox(servers.store), asyncio.sleep)
        self._relay.use(Sender(servers.broker, process, self._relay.delivered))
        self._sweeper = Sweeper("outbox", self._relay.sweep, SWEEP_INTERVAL_S, metrics)
        self._commit = GroupCommit["Intent", "list[Recorded]"](
            self._record,
            name="simulated-record",
            metrics=metrics,
            queue_weight_max=QUEUE_LINES_MAX,
            batch_weight_max=BATCH_LINES_MAX,
            batches_max=2,
        )

    async def open(self) -> None:
        self._sweeper.start()

    async def record(self, intents: Sequence[Intent]) -> list[list[Recorded] | Exception]:
        """Record concurrent requests as Recorder.record does."""
        waiting = [self._submit(intent) for intent in intents]
        return [_answer(each) for each in await asyncio.gather(*waiting, return_exceptions=True)]

    def _submit(self, intent: Intent) -> Awaitable[list[Recorded]]:
        try:
            return self._commit.submit(intent, intent.account_ids(), len(intent.lines))
        except QueueFull as full:
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(full)
            return refused

    async def close(self) -> None:
        """Stop as the recorder does at SIGTERM."""
        await self._commit.drain()
        await self._sweeper.stop()
        await self._relay.drain()

    async def _record(self, intents: Sequence[Intent]) -> list[Outcome]:
        return await record_batch(intents, self._deps, self._committed)

    def _committed(self, decided: Decided) -> None:
        self.process.world.note("batch-committed", len(decided.events))
        self._relay.send_committed(decided.events)


def _answer(each: list[Recorded] | BaseException) -> list[Recorded] | Exception:
    """Return what the client receives; raise any other error."""
    if isinstance(each, (list, *ANSWERED)):
        return each
    raise each


class Projector:
    """One life of project_balance, without HTTP."""

    def __init__(self, servers: Servers, process: Process) -> None:
        self.process = process
        self._projector = projector.Projector(
            Databases(servers.store, servers.model),
            StoreClock(process.wall, process.world.loop.time),
            ProjectMetrics(),
        )

    async def open(self) -> None:
        self._projector.sweeper.start()

    async def take(self, attributes: Mapping[str, str], data: object) -> int:
        """Take a delivery and return its status."""
        delivery = Delivery(attributes=attributes, data=json.dumps(data).encode())
        try:
            said = await self._projector.take(delivery)
        except tuple(STATUSES) as error:
            self.process.world.note(f"status-{STATUSES[type(error)]}")
            return STATUSES[type(error)]
        self.process.world.note(f"delivery-{said}")
        return 200

    async def close(self) -> None:
        """Stop as the projector does at SIGTERM."""
        await self._projector.close()
