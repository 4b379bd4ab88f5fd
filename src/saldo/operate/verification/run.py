"""`saldo verify`: walks everything that is stored, and reports what is wrong.

Consistent under traffic: each side is read in one snapshot, which the workers share. The read
model's is taken first: whatever it shows was committed to the event store before, so a balance
beyond its stream is a fault, while one that lags is only counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from saldo.operate.settings import connected
from saldo.operate.verification.findings import Counts, Fault
from saldo.operate.verification.other_tables import check_other_tables
from saldo.operate.verification.walk import BEGIN, Side, Work, verify_range
from saldo.serve.clock import store_now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    import asyncpg

    from saldo.operate.settings import OperatorSettings

# A range is a worker's piece of work: small enough that the bar moves and the last one does not
# keep the others waiting, large enough that its queries cost nothing beside its rows.
RANGE_EVENTS_MAX = 20_000
RANGES_A_WORKER = 8
WORKERS_MAX = 16
# Below this, starting processes takes longer than the work.
PARALLEL_EVENTS_MIN = 20_000
FAULTS_KEPT_MAX = 1_000

# Before the snapshot is taken: a rebuild's switch would show this snapshot tables whose rows are
# all newer. It tries again when the verification has ended.
KEEP_TABLES = """
LOCK TABLE read_model.balance, read_model.statement, read_model.daily_total IN ACCESS SHARE MODE
"""
# A time of no clock is its own stream's fault: it must not decide what is in the future for others.
TOTAL = """
SELECT least(coalesce(sum(position), 0), 2^62)::bigint AS events,
       max(recorded_at) FILTER (WHERE recorded_at < '9999-01-01Z') AS recorded_at
FROM event_store.stream
"""
BOUNDS = """
SELECT min(account_id COLLATE "C") AS first FROM (
    SELECT account_id, sum(position::numeric + 1) OVER (ORDER BY account_id) AS upto
    FROM event_store.stream
) AS s GROUP BY div(upto, $1) ORDER BY 1
"""


@dataclass(slots=True)
class Report:
    """The result of a verification."""

    counts: Counts = field(default_factory=Counts)
    faults: list[Fault] = field(default_factory=list)
    faults_total: int = 0
    # Events at a time that a wrong clock explains, named once for each account: no faults.
    clock: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Return whether nothing is wrong."""
        return self.faults_total == 0

    def add_faults(self, faults: Sequence[Fault]) -> None:
        """Keep the first FAULTS_KEPT_MAX, count all."""
        wrong = [fault for fault in faults if fault.kind == "wrong"]
        self.faults_total += len(wrong)
        self.faults += wrong[: max(0, FAULTS_KEPT_MAX - len(self.faults))]
        clock = [fault for fault in faults if fault.kind == "clock"]
        self.clock += clock[: max(0, FAULTS_KEPT_MAX - len(self.clock))]


@dataclass(slots=True, kw_only=True)
class Snapshots:
    """Both sides' snapshots, held open by the connections that exported them."""

    event_store: asyncpg.Connection[asyncpg.Record]
    read_model: asyncpg.Connection[asyncpg.Record]
    works: list[Work]
    events: int
    now: datetime


@contextlib.asynccontextmanager
async def snapshots(settings: OperatorSettings, workers: int) -> AsyncIterator[Snapshots]:
    """Take both snapshots, the read model's first, and cut the accounts into ranges."""
    async with (
        connected(settings.read_model_url) as read_model,
        connected(settings.event_store_url) as event_store,
    ):
        await read_model.execute(f"{BEGIN}; {KEEP_TABLES}")
        read_side = await _export(read_model, settings.read_model_url)
        await event_store.execute(BEGIN)
        event_side = await _export(event_store, settings.event_store_url)
        now = await store_now(event_store)
        [total] = await event_store.fetch(TOTAL)
        size = max(1, min(RANGE_EVENTS_MAX, total["events"] // (workers * RANGES_A_WORKER)))
        bounds = [row["first"] for row in await event_store.fetch(BOUNDS, size)]
        # The first and the last range are open: rows of accounts without a stream are seen too.
        firsts = [None, *bounds[1:]]
        yield Snapshots(
            event_store=event_store,
            read_model=read_model,
            works=[
                Work(
                    event_store=event_side,
                    read_model=read_side,
                    first=first,
                    end=end,
                    now=now,
                    latest=max(now, total["recorded_at"] or now),
                )
                for first, end in zip(firsts, [*firsts[1:], None], strict=True)
            ],
            events=total["events"],
            now=now,
        )


async def _export(connection: asyncpg.Connection[asyncpg.Record], url: str) -> Side:
    return Side(url=url, snapshot=await connection.fetchval("SELECT pg_export_snapshot()"))


def workers_default() -> int:
    """Return one for each processor that this process may use."""
    return min(WORKERS_MAX, len(os.sched_getaffinity(0)))


async def verify(
    settings: OperatorSettings, *, workers: int, progress: Callable[[int, int], None]
) -> Report:
    """Verify both sides; `progress` is called with (events checked, events in all)."""
    async with snapshots(settings, workers) as taken:
        return await check_snapshots(taken, workers, progress)


async def check_snapshots(
    taken: Snapshots, workers: int, progress: Callable[[int, int], None]
) -> Report:
    """Verify all tables of both snapshots."""
    report = Report()
    progress(0, taken.events)
    async for counts, faults in _walk(taken, workers):
        report.counts.add(counts)
        report.add_faults(faults)
        progress(report.counts.events, taken.events)
    faults, report.notes = await check_other_tables(taken.event_store, taken.read_model, taken.now)
    report.add_faults(faults)
    return report


async def _walk(taken: Snapshots, workers: int) -> AsyncIterator[tuple[Counts, list[Fault]]]:
    if workers == 1 or taken.events < PARALLEL_EVENTS_MIN:
        for work in taken.works:
            yield await verify_range(work)
        return
    # Spawned, not forked: a fork would share the sockets that hold the snapshots.
    # Ctrl-C, which reaches all processes of the terminal, is left to the main process.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    loop = asyncio.get_running_loop()
    try:
        runs = [loop.run_in_executor(pool, _run_range, work) for work in taken.works]
        for run in asyncio.as_completed(runs):
            yield await run
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_range(work: Work) -> tuple[Counts, list[Fault]]:
    """Verify in a worker's process."""
    return asyncio.run(verify_range(work))
