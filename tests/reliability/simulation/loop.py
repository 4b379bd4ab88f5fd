"""An event loop with virtual time that chooses the next ready callback by its seed.

It uses no file, no thread and no clock. Time stands still while anything is ready, then jumps to
the next timer. A callback belongs to the simulated process that scheduled it, and ends with it.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Generator

Result = TypeVar("Result")

# A simulation that has not come to its end by then never will.
STEPS_MAX = 2_000_000


class Owner:
    """A simulated process, as far as the loop must know it: the tasks that end with it."""

    def __init__(self) -> None:
        # In the order of their creation: a set's order is another one in every run.
        self.tasks: dict[asyncio.Task[Any], None] = {}


OWNER: ContextVar[Owner | None] = ContextVar("simulated_process", default=None)


class NeverEnds(AssertionError):
    """Nothing is left that could happen, or too much has happened."""


class Scheduled:
    """A callback that is ready or awaits its time; what asyncio calls a handle."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "when_s")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
        when_s: float,
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.when_s = when_s
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.when_s


class SeededLoop:
    """What asyncio's tasks, futures, locks, events and timeouts need of a loop, and no more."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._now_s = 0.0
        self._ready: list[Scheduled] = []
        self._timers: list[tuple[float, int, Scheduled]] = []
        self._timers_set = 0
        self._for_asyncio = cast("asyncio.AbstractEventLoop", self)
        self.steps = 0
        # What asyncio could not deliver: a task's exception that was never retrieved.
        self.errors: list[dict[str, Any]] = []

    def time(self) -> float:
        return self._now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self._for_asyncio

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Scheduled:
        scheduled = Scheduled(callback, args, _owned(context), self._now_s)
        self._ready.append(scheduled)
        return scheduled

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> Scheduled:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> Scheduled:
        scheduled = Scheduled(callback, args, _owned(context), when)
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, scheduled))
        return scheduled

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._for_asyncio)

    def create_task(
        self,
        coro: Generator[Any, None, Result] | Coroutine[Any, Any, Result],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Result]:
        task = asyncio.Task(coro, loop=self._for_asyncio, name=name, context=context)
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is not None:
            owner.tasks[task] = None
            task.add_done_callback(lambda ended: owner.tasks.pop(ended, None))
        return task

    def run(self, main: Coroutine[Any, Any, Result]) -> Result:
        """Run until ``main`` has ended; raises NeverEnds where it cannot."""
        events._set_running_loop(self._for_asyncio)
        try:
            # Callbacks outside of all processes have an owner too; only NO_REQUEST has none.
            outside = Context()
            outside.run(OWNER.set, Owner())
            task = self.create_task(main, context=outside)
            while not task.done():
                self._step()
            return task.result()
        finally:
            events._set_running_loop(None)

    def _step(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready and not timers:
            raise NeverEnds("nothing is left that could happen")
        if not ready and timers[0][0] > self._now_s:
            self._now_s = timers[0][0]
        while timers and timers[0][0] <= self._now_s:
            ready.append(heapq.heappop(timers)[2])
        if len(ready) > 1:
            # The drawn one changes places with the last: taken from the middle, all behind it would
            # have to move up.
            drawn = int(self._chance.random() * len(ready))
            ready[drawn], ready[-1] = ready[-1], ready[drawn]
        scheduled = ready.pop()
        if not scheduled.is_cancelled:
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise NeverEnds(f"{STEPS_MAX} steps were not enough")
            scheduled.context.run(scheduled.callback, *scheduled.args)


def _owned(context: Context | None) -> Context:
    if context is None:
        return copy_context()
    if OWNER not in context and (owner := OWNER.get()) is not None:
        context = context.copy()
        context.run(OWNER.set, owner)
    return context
