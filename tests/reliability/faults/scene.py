"""One cell of the matrix: a load, a fault, its end, and the verdict of the checker."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from tests.reliability.faults.driver import Load, p99_ms
from tests.reliability.history.checker import check, count
from tests.reliability.history.history import Span
from tests.reliability.history.tags import ambiguous_tags
from tests.support.proxy import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.reliability.faults.replica import Replica
    from tests.reliability.faults.rig import Rig
    from tests.reliability.history.history import Final, History
    from tests.reliability.history.violations import Violation

Form = Literal["quick", "long"]
Chosen = TypeVar("Chosen")

# Recorded before the fault comes, and after it has gone: the load must be there on both sides.
WARM_OPERATIONS = 30
HEALED_OPERATIONS = 20
DEADLINE_S = 120.0
FINAL_READS_MAX = 20
COUNT_EVENTS = "SELECT count(*) FROM event_store.event WHERE starts_with(account_id, $1)"
UNDER_FAULT_S: dict[Form, float] = {"quick": 0.5, "long": 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A fault, as the matrix names it, and what brings it about; ``window`` says what a hit is."""

    name: str
    fault: str
    window: str
    run: Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run of a cell came to."""

    cell: str
    seed: int
    form: Form
    operations: int
    hits: int
    recovery_s: float
    violations: list[Violation]
    notes: dict[str, float | str]
    history: History
    final: Final

    @property
    def counts(self) -> dict[str, int]:
        """Violations by column."""
        return {str(name): number for name, number in count(self.violations).items()}


@dataclass(slots=True, eq=False)
class Scene:
    """What a cell's code works with."""

    rig: Rig
    load: Load
    form: Form
    chance: random.Random
    offsets: list[int]
    hits: int = 0
    notes: dict[str, float | str] = field(default_factory=dict)
    # Ids of records on the topic that are no committed events, and known not to be.
    known_on_topic: set[str] = field(default_factory=set)
    violations: list[Violation] = field(default_factory=list)
    # What the event store's clock was set to: from when, until when, how many seconds ahead.
    store_clock: list[tuple[float, float, float]] = field(
        default_factory=lambda: [(0.0, float("inf"), 0.0)]
    )
    fault_from_s: float = 0.0
    healed_s: float = 0.0
    # The history without what a restore of the event store took away.
    forgotten: Callable[[History, Final], History] | None = None

    @property
    def prefix(self) -> str:
        """What the ids of this cell's accounts begin with."""
        return self.load.prefix

    def choose(self, among: Sequence[Chosen]) -> Chosen:
        """Choose one of them by the seed."""
        return self.chance.choice(among)

    async def warm(self, operations: int = WARM_OPERATIONS) -> None:
        """Wait until the load has recorded some more."""
        wanted = self.load.recorded + operations
        await until(lambda: self.load.has_recorded(wanted), DEADLINE_S, "the load records")

    async def under_fault(self, seconds: float | None = None) -> None:
        """Let the load go on under the fault for a while, as long as the form says."""
        await asyncio.sleep(UNDER_FAULT_S[self.form] if seconds is None else seconds)

    def begin(self) -> None:
        """Note that the fault begins now."""
        self.fault_from_s = time.monotonic()

    def heal(self) -> None:
        """Note that the fault is over: the time of recovery runs from here."""
        self.healed_s = time.monotonic()
        before = self.load.latencies_s(0, self.fault_from_s)
        during = self.load.latencies_s(self.fault_from_s, self.healed_s)
        self.notes["p99_before_ms"] = round(p99_ms(before), 1)
        self.notes["p99_during_ms"] = round(p99_ms(during), 1)
        self.notes["recorded_during"] = len(during)

    async def kill(self, replica: Replica) -> None:
        """SIGKILL a replica."""
        self.begin()
        await replica.kill()

    async def until_in_flight(self, front_in_flight: Callable[[], int], what: str) -> None:
        """Wait for the moment in which something is under way."""
        await until(front_in_flight, DEADLINE_S, f"{what} is in flight")


async def play(cell: Cell, rig: Rig, *, seed: int, form: Form) -> Result:
    """Run ``cell`` once on ``rig``, which is whole before and must be whole after."""
    load = Load(
        record_url=f"http://127.0.0.1:{rig.record_front.port}",
        balance_url=f"http://127.0.0.1:{rig.balance_front.port}",
        prefix=f"{cell.name}-{seed}",
        seed=seed,
    )
    scene = Scene(
        rig=rig,
        load=load,
        form=form,
        chance=random.Random(seed),
        offsets=await asyncio.to_thread(rig.ends_of_topic),
    )
    async with load.running():
        await scene.warm()
        await cell.run(scene)
        assert scene.healed_s, f"{cell.name} never healed"
        await scene.warm(HEALED_OPERATIONS)
        first_again_s = time.monotonic()
    await rig.until_at_rest(load.prefix)
    recovery_s = time.monotonic() - scene.healed_s
    scene.notes["first_again_s"] = round(first_again_s - scene.healed_s, 2)
    final = await _final(scene)
    topic = {
        event_id: text
        for event_id, text in (final.topic or {}).items()
        if event_id not in scene.known_on_topic
    }
    ahead_s = await rig.store_ahead_s()
    clock = tuple(
        Span(from_s=from_s, to_s=to_s, ahead_s=ahead_s + set_s)
        for from_s, to_s, set_s in scene.store_clock
    )
    final = replace(final, topic=topic, clock=clock)
    said = Counter(each.said for each in load.history.attempts() if each.outcome != "recorded")
    scene.notes["not_recorded"] = ", ".join(f"{n} x {what}" for what, n in said.most_common(6))
    history = load.history if scene.forgotten is None else scene.forgotten(load.history, final)
    return Result(
        cell=cell.name,
        seed=seed,
        form=form,
        operations=len(load.history.operations),
        hits=scene.hits,
        recovery_s=recovery_s,
        # What is forgotten of the history was said, all the same.
        violations=[*scene.violations, *ambiguous_tags(load.history), *check(history, final)],
        notes=scene.notes,
        history=history,
        final=final,
    )


async def _final(scene: Scene) -> Final:
    """Return what is stored in the end, read while nothing changed.

    A request that its client gave up may be recorded seconds later.
    """
    for _ in range(FINAL_READS_MAX):
        await scene.rig.until_at_rest(scene.prefix)
        before = await scene.rig.find_store(COUNT_EVENTS, scene.prefix)
        final = await scene.rig.final(scene.prefix, scene.offsets)
        if await scene.rig.find_store(COUNT_EVENTS, scene.prefix) == before:
            return final
    raise AssertionError(f"{scene.prefix} never came to rest")
