"""The shared parts of a simulation: chance, clock, faults, trace, and processes."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tests.reliability.history.history import Span
from tests.reliability.simulation.loop import OWNER, Owner, SeededLoop
from tests.support.controls import NOW

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import datetime

Result = TypeVar("Result")

# A step takes this long at the most, one in so many much longer.
STEP_S = 0.004
SLOW_ONE_IN = 25
SLOW_S = 0.6
# A stalled process goes on after this long, past every timeout of the database.
STALL_S_MAX = 25.0
DOWN_S_MAX = 6.0
COMMIT_S_MAX = 14.0
# Clocks jump by up to one of these, either way: processes' and the databases'.
JUMPS_S_MAX = (3.0, 600.0, 10_800.0, 400 * 86_400.0)
# The databases' clock that jumped back jumps forward again after more than this.
BEHIND_S_MIN = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what goes wrong, each as a probability at one step. Every seed has its own mix."""

    crash: float
    stall: float
    cut: float  # a connection to a database breaks
    busy: float  # a database refuses: deadlock, serialization failure
    commit_slow: float  # up to COMMIT_S_MAX, with the locks held and nothing visible yet
    failover: float  # the database goes away with the COMMIT that it cuts
    answer_lost: float  # between a client or the source, and a function
    send_lost: float  # Kafka does not take a record
    send_doubled: float
    acknowledgement_lost: float
    sender_full: float
    client_leaves: float
    dead_letter_lost: float
    record_lost: float  # by Kafka or by the source, with its offset committed

    @classmethod
    def drawn(cls, chance: random.Random) -> Faults:
        """Draw a mix in which about a third of the faults do not occur."""

        def rate(most: float) -> float:
            return chance.random() * most if chance.random() < 2 / 3 else 0.0

        return cls(
            crash=rate(0.02),
            stall=rate(0.004),
            cut=rate(0.04),
            busy=rate(0.04),
            commit_slow=rate(0.2),
            failover=rate(0.8),
            answer_lost=rate(0.15),
            send_lost=rate(0.3),
            send_doubled=rate(0.3),
            acknowledgement_lost=rate(0.2),
            sender_full=rate(0.2),
            client_leaves=rate(0.2),
            dead_letter_lost=rate(0.8),
            record_lost=rate(0.9),
        )


class NoAnswer(Exception):
    """The process died, the connection broke, or the caller left: it may have been done or not."""


class Connection(Protocol):
    """What a process holds at a server, and the server must let go of when the process dies."""

    def cut(self) -> None:
        """Tell the server that the client is gone."""


class Process(Owner):
    """One life of a process: what it began ends with it, wherever it stands."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__()
        self.world = world
        self.name = name
        self.is_dead = False
        self.died: asyncio.Future[None] = world.loop.create_future()
        self.is_stopping = False
        self.stalled_until_s = 0.0
        self.wall_offset_s = 0.0
        self.connections: dict[Connection, None] = {}
        self.context = Context()
        self.context.run(OWNER.set, self)

    def wall(self) -> float:
        """Return its wall clock, which may jump."""
        return NOW.timestamp() + self.world.loop.time() + self.wall_offset_s

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Begin ``work`` in this process."""
        task = self.world.loop.create_task(work, context=self.context.copy())
        task.add_done_callback(_asked_for)
        return task

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Have it called in this process, unless that has died by then."""
        if not self.is_dead:
            self.world.loop.call_soon(callback, *args, context=self.context.copy())

    def crash(self) -> None:
        """End the process here and now."""
        if not self.is_dead:
            self.world.note("crash", self.name)
            self.end()

    def end(self) -> None:
        """Have its tasks unwind where they stand; nothing that they do has an effect any more."""
        if self.is_dead:
            return
        self.is_dead = True
        self.died.set_result(None)
        for connection in list(self.connections):
            connection.cut()
        for task in list(self.tasks):
            task.cancel()


def _asked_for(task: asyncio.Task[Any]) -> None:
    """Look at a task's error, which its caller may have given up waiting for."""
    if not task.cancelled():
        task.exception()


class World:
    """One seed's world. ``faults_on`` is cleared for the end, when all must come to rest."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.loop = SeededLoop(chance)
        self.faults = Faults.drawn(chance)
        self.faults_on = True
        self._database_offset_s = 0.0
        # What the databases' clock showed, and since when.
        self._database_set_s = 0.0
        self._set_back_s = -BEHIND_S_MIN
        self._clock: list[Span] = []
        self.database_down_until_s = 0.0
        self.kafka_down_until_s = 0.0
        # How often each thing has happened: a check over what never occurred shows nothing.
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []

    # --- the trace ----------------------------------------------------------------------------

    def trace(self, text: str) -> None:
        """Add to what two runs of one seed must have in common."""
        self.lines.append(f"{self.loop.time():.6f} {text}")

    def note(self, what: str, detail: object = "") -> None:
        """Count it and trace it."""
        self.counts[what] += 1
        self.trace(f"{what} {detail}")

    def trace_hash(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    # --- chance -------------------------------------------------------------------------------

    def happens(self, probability: float) -> bool:
        """Return whether a fault of this probability happens here."""
        return self.faults_on and self.chance.random() < probability

    def delay_s(self) -> float:
        """Draw how long something takes."""
        if self.chance.random() * SLOW_ONE_IN < 1:
            return self.chance.random() * SLOW_S
        return self.chance.random() * STEP_S

    # --- clocks -------------------------------------------------------------------------------

    def database_now(self) -> datetime:
        """Return the databases' clock_timestamp()."""
        return NOW + timedelta(seconds=self.loop.time() + self._database_offset_s)

    def jump_s(self) -> float:
        """Draw a clock's offset."""
        return (self.chance.random() * 2 - 1) * self.chance.choice(JUMPS_S_MAX)

    def may_set_database_clock(self, offset_s: float) -> bool:
        """Return whether what was stamped while the clock was behind has been seen by a sweep.

        What is stamped in a moment in which the clock is far behind is before all that a sweep
        looks at. If its record is lost as well, only `saldo verify` tells: docs/reliability.md.
        """
        behind_s = self.loop.time() - self._set_back_s
        return offset_s <= self._database_offset_s or behind_s > BEHIND_S_MIN

    def set_database_clock(self, offset_s: float) -> None:
        """Have the databases' clock jump."""
        self._clock = list(self.clock())
        if offset_s < self._database_offset_s:
            self._set_back_s = self.loop.time()
        self._database_offset_s, self._database_set_s = offset_s, self.loop.time()

    def clock(self) -> tuple[Span, ...]:
        """Return what the databases' clock has shown so far."""
        ahead_s = NOW.timestamp() + self._database_offset_s
        span = Span(from_s=self._database_set_s, to_s=self.loop.time(), ahead_s=ahead_s)
        return (*self._clock, span)

    @property
    def database_is_down(self) -> bool:
        return self.loop.time() < self.database_down_until_s

    @property
    def kafka_is_down(self) -> bool:
        return self.loop.time() < self.kafka_down_until_s

    # --- steps --------------------------------------------------------------------------------

    async def step(self, what: str) -> None:
        """Simulate one await of the product: time passes, and the process may stall or die."""
        process = OWNER.get()
        if not isinstance(process, Process):
            raise TypeError(f"{what} is done outside of any process")
        if process.is_dead:
            raise asyncio.CancelledError
        self.trace(f"{process.name} {what}")
        if self.happens(self.faults.stall):
            self.note("stall", process.name)
            process.stalled_until_s = self.loop.time() + self.chance.random() * STALL_S_MAX
        stalled_s = process.stalled_until_s - self.loop.time()
        await asyncio.sleep(max(stalled_s, 0.0) + self.delay_s())
        if self.happens(self.faults.crash):
            process.crash()
        if process.is_dead:
            raise asyncio.CancelledError

    async def call(
        self,
        process: Process,
        work: Callable[[], Coroutine[Any, Any, Result]],
        wait_s: float,
    ) -> Result:
        """Have ``process`` do ``work``, over a network; raises NoAnswer, or what work raised."""
        await asyncio.sleep(self.delay_s())
        if process.is_dead or process.is_stopping:
            raise NoAnswer
        task = process.start(work())
        if self.happens(self.faults.client_leaves):
            wait_s = self.delay_s()
        await asyncio.wait([task], timeout=wait_s)
        if not task.done():
            self.note("client-left")
            if self.chance.random() < 1 / 2:
                task.cancel()  # as the server does that sees the connection close
            raise NoAnswer
        await asyncio.sleep(self.delay_s())
        if self.happens(self.faults.answer_lost):
            self.note("answer-lost")
            raise NoAnswer
        if task.cancelled():
            if not process.is_dead:
                self.note("cancelled-by-another", process.name)
            raise NoAnswer
        return task.result()

    async def until(self, condition: Callable[[], bool], wait_s: float, look_s: float) -> bool:
        """Wait until ``condition`` holds; whether it did in time."""
        until_s = self.loop.time() + wait_s
        while not condition():
            if self.loop.time() > until_s:
                return False
            await asyncio.sleep(look_s)
        return True


async def gathered(works: list[Awaitable[Any]]) -> None:
    """Wait for all of ``works``; raises the first error."""
    await asyncio.gather(*works)
