"""One seed from its start to its rest, and what must then be true.

Two recorders, two projectors and a KafkaSource serve four clients while processes crash, stall and
stop, databases and Kafka go away, clocks jump, and records and answers are lost, doubled and
reordered. Then the faults end: within REST_S the system must have come to rest, and the history
checker and the checks below look at what it came to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest import mock

from saldo.domain.commands import Kind
from saldo.domain.events import TransactionRecorded, read_event
from saldo.project import catch_up, projector
from saldo.project import lag_sweep as sweep
from saldo.record import batch
from tests.reliability.history.checker import check
from tests.reliability.history.history import Balance, Event, Final, History
from tests.reliability.simulation.clients import Client
from tests.reliability.simulation.kafka import Broker, Source
from tests.reliability.simulation.read_model import ReadModel
from tests.reliability.simulation.sides import Projector, Recorder, Servers
from tests.reliability.simulation.store import EventStore
from tests.reliability.simulation.world import (
    DOWN_S_MAX,
    NoAnswer,
    Process,
    World,
    gathered,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from saldo.record.intent import StoredEvent
    from tests.reliability.history.history import Kind as HistoryKind

REPLICAS = 2
CLIENTS = 4
# Virtual seconds: while faults happen at the most, and until all must be at rest after them.
FAULTS_S_MAX = 90.0
REST_S = 120.0
LOOK_S = 0.25
RESTART_S_MAX = 4.0
CLOSE_S = 20.0
# The product's bounds, so small that what lies beyond them happens with a few dozen events.
SMALL = (
    (catch_up, {"CATCH_UP_EVENTS_MAX": 4, "CATCH_UP_EVENTS_MIN": 2, "ROUND_EVENTS_MAX": 8}),
    (sweep, {"PAGE_EVENTS": 12}),
    # Shorter than an outage, so that a batch in doubt meets its deadline.
    (batch, {"DEADLINE_S": 2.5}),
    (projector, {"FURTHER_BATCH_ACCOUNTS_MIN": 1, "BATCH_ACCOUNTS_MAX": 2}),
)
# The locks make the first ones impossible: the constraints behind them are the last resort.
NEVER = (
    "contradicted",
    "line-twice",
    "blocked",
    "refolded",
    "committed-unanswered",
    "cancelled-by-another",
    "unknown-names-no-event",
)
KINDS: dict[Kind, HistoryKind] = {Kind.INCOME: "INCOME", Kind.EXPENSE: "EXPENSE"}


@dataclass(slots=True, kw_only=True)
class Result:
    """What one seed came to."""

    seed: int
    wrong: list[str]
    counts: Counter[str]
    trace_hash: str
    steps: int
    virtual_s: float
    lines: list[str]


def again(seed: int) -> str:
    """Return the command that repeats a seed with every step printed."""
    return f"make simulate SEED={seed} TRACE=1"


def simulate(seed: int) -> Result:
    """Run one seed. The same seed runs the same way in every process."""
    with _small_bounds():
        simulation = Simulation(seed)
        world = simulation.world
        try:
            world.loop.run(simulation.run())
        except AssertionError as error:
            simulation.wrong.append(str(error))
    simulation.wrong += [f"loop: {error}" for error in world.loop.errors]
    return Result(
        seed=seed,
        wrong=simulation.wrong,
        counts=world.counts,
        trace_hash=world.trace_hash(),
        steps=world.loop.steps,
        virtual_s=world.loop.time(),
        lines=world.lines,
    )


@contextlib.contextmanager
def _small_bounds() -> Iterator[None]:
    """Patch the bounds; log nothing."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.ExitStack() as stack:
            for module, bounds in SMALL:
                for name, bound in bounds.items():
                    stack.enter_context(mock.patch.object(module, name, bound))
            yield
    finally:
        logging.disable(disabled)


class Simulation:
    """One world with its servers, processes and clients."""

    def __init__(self, seed: int) -> None:
        self.world = World(random.Random(seed))
        self.servers = Servers(
            store=EventStore(self.world), model=ReadModel(self.world), broker=Broker(self.world)
        )
        self.recorders: list[Recorder | None] = [None] * REPLICAS
        self.projectors: list[Projector | None] = [None] * REPLICAS
        self.source: Process | None = None
        self.history = History()
        self.bulks: dict[str, int] = {}
        self.dead_letters: dict[tuple[int, int], None] = {}
        self.wrong: list[str] = []
        self._lives = 0

    async def run(self) -> None:
        """Run faults and clients, wait for rest, then check."""
        world = self.world
        keepers = [world.loop.create_task(self._keep(number)) for number in range(2 * REPLICAS + 1)]
        troubles = world.loop.create_task(self._trouble())
        clients = [
            Client(
                number=number,
                world=world,
                recorder=lambda: world.chance.choice(self.recorders),
                model=self.servers.model,
                written=self.servers.store.written,
                history=self.history,
                bulks=self.bulks,
            )
            for number in range(CLIENTS)
        ]
        work = world.loop.create_task(gathered([client.run() for client in clients]))
        await asyncio.wait([work], timeout=FAULTS_S_MAX)
        world.faults_on = False
        world.database_down_until_s = world.kafka_down_until_s = 0.0
        troubles.cancel()
        world.note("faults-end")
        ended_s = world.loop.time()
        rested = await world.until(lambda: work.done() and self._is_at_rest(), REST_S, LOOK_S)
        world.note("rest", f"after {world.loop.time() - ended_s:.2f} s")
        if not rested:
            self.wrong.append(f"no rest within {REST_S} s: {self._unrest()}")
        if work.done():
            work.result()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.wait(keepers)
        self._check()

    # --- processes ----------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        """Keep one process alive: start it, and again whenever it has died or stopped."""
        world = self.world
        while True:
            self._lives += 1
            process = Process(world, f"p{number}.{self._lives}")
            if world.happens(1 / 4):
                self._jump(process)
            world.note("start", process.name)
            side: Recorder | Projector | None = None
            if number < REPLICAS:
                side = self.recorders[number] = Recorder(self.servers, process)
            elif number < 2 * REPLICAS:
                side = self.projectors[number - REPLICAS] = Projector(self.servers, process)
            else:
                self.source = process
                source = Source(self.servers.broker, process, self._sink, self.dead_letters)
                process.start(source.run())
            if side is not None:
                process.start(side.open())
            lives_s = world.chance.random() * 60 if world.happens(1 / 2) else None
            try:
                await asyncio.wait([process.died], timeout=lives_s)
                if side is not None and not process.is_dead:
                    world.note("stop", process.name)
                    process.is_stopping = True
                    await asyncio.wait([process.start(side.close())], timeout=CLOSE_S)
            finally:
                process.end()
            await asyncio.sleep(world.chance.random() * RESTART_S_MAX)

    async def _sink(self, attributes: Mapping[str, str], data: object) -> int:
        """Deliver to one of the projectors, as a Service of Kubernetes would."""
        projector = self.world.chance.choice(self.projectors)
        if projector is None:
            raise NoAnswer
        return await self.world.call(
            projector.process, lambda: projector.take(attributes, data), wait_s=10.0
        )

    # --- troubles that are nobody's -----------------------------------------------------------

    async def _trouble(self) -> None:
        """Cause outages and clock jumps."""
        world, chance = self.world, self.world.chance
        while True:
            await asyncio.sleep(chance.random() * 15)
            match chance.randrange(6):
                case 0:
                    world.note("database-down")
                    world.database_down_until_s = world.loop.time() + chance.random() * DOWN_S_MAX
                case 1:
                    world.note("kafka-down")
                    world.kafka_down_until_s = world.loop.time() + chance.random() * DOWN_S_MAX * 3
                case 2:
                    offset_s = world.jump_s()
                    if world.may_set_database_clock(offset_s):
                        world.note("database-clock-jumps")
                        world.set_database_clock(offset_s)
                case 3:
                    living = [each.process for each in self.recorders + self.projectors if each]
                    self._jump(chance.choice(living))
                case _:
                    pass

    def _jump(self, process: Process) -> None:
        process.wall_offset_s = self.world.jump_s()
        self.world.note("clock-jumps", f"{process.name} {process.wall_offset_s:.3f}")

    # --- rest ---------------------------------------------------------------------------------

    def _unrest(self) -> dict[str, int]:
        """Return the unfinished work, by name."""
        store, model, broker = self.servers.store, self.servers.model, self.servers.broker
        standing = {account_id: b.position for account_id, b in model.balances.items()}
        return {
            "outbox": len(store.outbox),
            "lag": sum(len(own) - standing.get(a, 0) for a, own in store.events.items()),
            "uncommitted": sum(map(len, broker.partitions)) - sum(broker.committed),
        }

    def _is_at_rest(self) -> bool:
        return not any(self._unrest().values())

    # --- what must be true --------------------------------------------------------------------

    def _check(self) -> None:
        store, model = self.servers.store, self.servers.model
        final = Final(
            events=tuple(_event(each) for own in store.events.values() for each in own),
            balances=tuple(
                Balance(
                    account_id=balance.account_id,
                    position=balance.position,
                    balance_minor=balance.balance_minor,
                    blocked=balance.blocked,
                )
                for balance in model.balances.values()
            ),
            topic=dict(self.servers.broker.texts()),
            outbox_rows=len(store.outbox),
            clock=self.world.clock(),
        )
        self.world.counts["events"] = len(final.events)
        records = len(self.servers.broker.texts())
        self.world.counts["records-doubled"] = records - len(final.topic or {})
        self.wrong += [f"{v.name} {v.account_id}: {v.detail}" for v in check(self.history, final)]
        for never in NEVER:
            if self.world.counts[never]:
                self.wrong.append(f"{never}: {self.world.counts[never]} times")
        for account_id, own in store.events.items():
            self._check_account(account_id, [read_event(each.public_text) for each in own])
        keys = Counter(each.key for each in final.events)
        for key, lines in self.bulks.items():
            if keys[key] not in {0, lines}:
                self.wrong.append(f"the request {key} of {lines} lines has {keys[key]} events")
        self.world.trace(f"final {json.dumps(sorted(str(each) for each in final.events))}")

    def _check_account(self, account_id: str, facts: list[object]) -> None:
        """Check that every event has one line, and no transaction is reversed twice."""
        model = self.servers.model
        lines = model.lines.get(account_id, {})
        if sorted(lines) != list(range(1, len(facts) + 1)):
            self.wrong.append(f"{account_id}: {len(facts)} events, lines at {sorted(lines)}")
        moving = [fact for fact in facts if isinstance(fact, TransactionRecorded)]
        reversed_twice = Counter(fact.reverses for fact in moving if fact.reverses is not None)
        for original, count in reversed_twice.items():
            if count > 1:
                self.wrong.append(f"{account_id}: {original} was reversed {count} times")


def _event(stored: StoredEvent) -> Event:
    kind: HistoryKind
    amount_minor: int | None
    fact = read_event(stored.public_text)
    if isinstance(fact, TransactionRecorded):
        kind, amount_minor = KINDS[fact.kind], fact.amount_minor
    else:
        kind, amount_minor = "LIMIT", fact.limit_minor
    private = json.loads(stored.private_text or "")
    return Event(
        account_id=stored.account_id,
        position=stored.position,
        event_id=str(stored.event_id),
        kind=kind,
        amount_minor=amount_minor,
        key=private["subject"],
        public_text=stored.public_text,
        hash=stored.hash.hex(),
    )
