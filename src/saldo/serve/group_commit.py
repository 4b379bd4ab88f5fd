"""Group commit: the items that wait at the same moment in one process are done in one batch.

The recorder's commands, the projector's accounts and the readers' balances use it. There is no
artificial delay: a lone item starts at once; while its batch runs, the next gathers. A batch runs
in its own task, so a waiter that goes away cancels no other. An item whose keys are in flight
waits: a key (an account) is in at most one batch at a time, and its items keep their order.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from saldo.serve.telemetry import tracing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from opentelemetry.trace import Span

    from saldo.serve.telemetry.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")

# A batch looks this far into the queue for items whose keys are free: one hot key may fill it.
SCAN_ITEMS_MAX = 2_000


class QueueFull(Exception):
    """More is waiting than the process promised to hold."""


class _Waiting(msgspec.Struct, Generic[Item, Result], eq=False):
    item: Item
    keys: Collection[str]
    weight: int
    outcome: asyncio.Future[Result]
    span: Span | None


class GroupCommit(Generic[Item, Result]):
    """Gathers items into batches and runs them.

    ``run`` gets a batch's items and returns a result or an exception for each, in order; an error
    that it raises goes to every item. At most ``batches_max`` batches are in flight. A second one
    starts only when at least ``further_weight_min`` waits, since fuller batches cost each item
    less. ``name`` is the metrics' and the traces'.
    """

    def __init__(  # noqa: PLR0913 - each bound has a name
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        name: str,
        metrics: Metrics,
        queue_weight_max: int,
        batch_weight_max: int,
        batches_max: int,
        further_weight_min: int = 1,
    ) -> None:
        self._name = name
        self._run = run
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._queue_weight = 0
        self._queue_weight_max = queue_weight_max
        self._batch_weight_max = batch_weight_max
        self._batches_max = batches_max
        self._further_weight_min = further_weight_min
        self._busy_keys: set[str] = set()
        self._batches: set[asyncio.Task[None]] = set()
        self._start_scheduled = False
        self._weight_seen = metrics.batch_weight.labels(name)
        self._duration_seen = metrics.batch_duration.labels(name)
        metrics.queue_weight.observe(lambda: self._queue_weight, name)
        metrics.queue_weight_max.observe(lambda: queue_weight_max, name)

    @property
    def depth(self) -> int:
        """The weight that waits, batches in flight not counted."""
        return self._queue_weight

    def submit(self, item: Item, keys: Collection[str], weight: int = 1) -> asyncio.Future[Result]:
        """Return a future of ``item``'s result or its batch's error; raise QueueFull at once.

        A waiter that goes away cancels it, as a task that awaits it does.
        """
        if self._queue_weight + weight > self._queue_weight_max:
            raise QueueFull
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Result] = loop.create_future()
        span = tracing.begin_wait(self._name)
        if span is not None:
            outcome.add_done_callback(lambda _: span.end())
        self._queue.append(_Waiting(item, keys, weight, outcome, span))
        self._queue_weight += weight
        if not self._start_scheduled:
            # After this turn of the loop, so that requests which arrived together are in one
            # batch. The loop does not sleep in between.
            self._start_scheduled = True
            # Not in the request's context: a batch belongs to none of its members.
            loop.call_soon(self._start_batches, context=tracing.NO_REQUEST)
        return outcome

    async def drain(self) -> None:
        """Wait until nothing waits and nothing is in flight."""
        while self._batches or self._queue:
            if self._batches:
                await asyncio.wait(self._batches)
            else:
                await asyncio.sleep(0)

    def _start_batches(self) -> None:
        self._start_scheduled = False
        while self._queue and len(self._batches) < self._batches_max:
            if self._batches and self._queue_weight < self._further_weight_min:
                return
            batch = self._take_batch()
            if not batch:
                return
            task = asyncio.create_task(self._run_batch(batch))
            self._batches.add(task)
            task.add_done_callback(self._batch_done)

    def _take_batch(self) -> list[_Waiting[Item, Result]]:
        """Return the next items in arrival order, without those whose keys are not free."""
        batch: list[_Waiting[Item, Result]] = []
        passed_over: list[_Waiting[Item, Result]] = []
        not_free = set(self._busy_keys)
        weight = 0
        for _ in range(min(len(self._queue), SCAN_ITEMS_MAX)):
            waiting = self._queue[0]
            if batch and weight + waiting.weight > self._batch_weight_max:
                break
            self._queue.popleft()
            if waiting.outcome.done():  # its waiter went away before it was begun
                self._queue_weight -= waiting.weight
            elif not_free.isdisjoint(waiting.keys):
                batch.append(waiting)
                weight += waiting.weight
            else:
                passed_over.append(waiting)
                not_free.update(waiting.keys)
        self._queue.extendleft(reversed(passed_over))
        self._queue_weight -= weight
        for waiting in batch:
            self._busy_keys.update(waiting.keys)
        return batch

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        weight = sum(waiting.weight for waiting in batch)
        span = tracing.begin_batch(self._name, [waiting.span for waiting in batch], weight)
        began = time.monotonic()
        try:
            results = await self._run([waiting.item for waiting in batch])
        except Exception as error:  # noqa: BLE001 - it is handed to every waiter
            results = [error] * len(batch)
        except BaseException:
            for waiting in batch:
                waiting.outcome.cancel()
            raise
        finally:
            self._weight_seen.observe(weight)
            self._duration_seen.observe(time.monotonic() - began)
            if span is not None:
                span.end()
            for waiting in batch:
                self._busy_keys.difference_update(waiting.keys)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.outcome.done():
                continue
            if isinstance(result, Exception):
                waiting.outcome.set_exception(result)
            else:
                waiting.outcome.set_result(result)

    def _batch_done(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._start_batches()
