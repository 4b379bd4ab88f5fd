"""A sweep on the process's own timer: at start, at every interval, and before it stops."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from saldo.serve.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

LAST_SWEEP_S = 5.0


class SweepMetrics(Metrics):
    """The metrics of a function that sweeps."""

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.sweeps = self.counter(
            "saldo_sweeps_total",
            "Sweeps by the process's own timer; outcome is `done` or `failed`.",
            "sweep",
            "outcome",
        )
        self.sweep_done_at = self.gauge(
            "saldo_sweep_last_done_timestamp_seconds",
            "When a sweep of this process last came to its end, in Unix time.",
            "sweep",
        )


class Sweeper:
    """Runs ``sweep`` in the background; a failed sweep is logged and repeated at the next tick."""

    def __init__(
        self,
        name: str,
        sweep: Callable[[], Awaitable[int]],
        interval_s: float,
        metrics: SweepMetrics,
    ) -> None:
        self._name = name
        self._sweep = sweep
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._done_at: float | None = None
        self._sweeps = metrics.sweeps
        metrics.sweep_done_at.observe(lambda: self._done_at, name)

    def start(self) -> None:
        """Begin, with a first sweep at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the timer and sweep a last time, within LAST_SWEEP_S."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            async with asyncio.timeout(LAST_SWEEP_S):
                await self._once()
        except TimeoutError:
            log.warning("the last %s sweep was not finished", self._name)

    async def _run(self) -> None:
        while True:
            await self._once()
            await asyncio.sleep(self._interval_s)

    async def _once(self) -> None:
        try:
            found = await self._sweep()
        except Exception as error:  # noqa: BLE001 - the timer must go on, whatever failed
            self._sweeps.labels(self._name, "failed").inc()
            # Not the error's text: the database repeats values in it.
            log.warning("the %s sweep failed: %s", self._name, type(error).__name__)
        else:
            self._done_at = time.time()
            self._sweeps.labels(self._name, "done").inc()
            if found:
                log.info("the %s sweep found %d", self._name, found)
