"""``saldo verify``: walks everything that is stored, and says what is not as it must be.

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
from typing import TYPE_CHECKING, Any

from saldo.operate.settings import connect
from saldo.operate.verify_account import AccountCheck, Counts, Fault
from saldo.operate.verify_rest import check_outbox, check_rest

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
PREFETCH_ROWS = 2_000
FAULTS_KEPT_MAX = 1_000

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Before the snapshot is taken: a rebuild's switch would show this snapshot tables whose rows are
# all newer. It tries again when the verification has ended.
KEEP_TABLES = """
LOCK TABLE read_model.balance, read_model.statement, read_model.daily_total IN ACCESS SHARE MODE
"""
NOW = "SELECT clock_timestamp()"
TOTAL = "SELECT coalesce(sum(position), 0)::bigint FROM event_store.stream"
BOUNDS = """
SELECT min(account_id COLLATE "C") AS first FROM (
    SELECT account_id, sum(position + 1) OVER (ORDER BY account_id) AS upto
    FROM event_store.stream
) AS s GROUP BY div(upto, $1) ORDER BY 1
"""
# Each range is read in the order of the primary keys; the sides' texts are compared byte by byte,
# as Python compares them.
STREAMS = """
SELECT account_id, currency, position, balance_minor, overdraft_limit_minor, hash, recorded_at
FROM event_store.stream
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id
"""
EVENTS = """
SELECT account_id, position, event_id, public_text, private_text, hash, balance_minor, key_hash,
       key_line, fingerprint, reverses, appended_at, erased_at
FROM event_store.event
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id, position
"""
BALANCES = """
SELECT account_id, currency, balance_minor, position, hash, recorded_at, blocked_at,
       blocked_reason, blocked_schema
FROM read_model.balance
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id
"""
LINES = """
SELECT account_id, position, event_id, kind, amount_minor, currency, balance_minor, occurred_at,
       recorded_at, reverses, hash, reversed_by, description, metadata
FROM read_model.statement
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id, position
"""
TOTALS = """
SELECT account_id, day, income_minor, expense_minor, transactions
FROM read_model.daily_total
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id, day
"""


@dataclass(slots=True)
class Report:
    """What a verification came to."""

    counts: Counts = field(default_factory=Counts)
    faults: list[Fault] = field(default_factory=list)
    faults_total: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.faults_total == 0

    def add_faults(self, faults: Sequence[Fault]) -> None:
        """Keep the first FAULTS_KEPT_MAX, count all."""
        self.faults_total += len(faults)
        self.faults += faults[: max(0, FAULTS_KEPT_MAX - len(self.faults))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One database in one snapshot, as a worker joins it."""

    url: str
    snapshot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A range of accounts, from ``first`` up to but without ``end``; None is open."""

    event_store: Side
    read_model: Side
    first: str | None
    end: str | None
    now: datetime


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
    read_model = await connect(settings.read_model_url)
    try:
        event_store = await connect(settings.event_store_url)
        try:
            await read_model.execute(BEGIN)
            await read_model.execute(KEEP_TABLES)
            read_side = await _export(read_model, settings.read_model_url)
            await event_store.execute(BEGIN)
            event_side = await _export(event_store, settings.event_store_url)
            now = await event_store.fetchval(NOW)
            events = await event_store.fetchval(TOTAL)
            size = max(1, min(RANGE_EVENTS_MAX, events // (workers * RANGES_A_WORKER)))
            bounds = [row["first"] for row in await event_store.fetch(BOUNDS, size)]
            # The first and the last range are open: rows of accounts without a stream are seen too.
            firsts = [None, *bounds[1:]]
            works = [
                Work(event_store=event_side, read_model=read_side, first=first, end=end, now=now)
                for first, end in zip(firsts, [*firsts[1:], None], strict=True)
            ]
            yield Snapshots(
                event_store=event_store,
                read_model=read_model,
                works=works,
                events=events,
                now=now,
            )
        finally:
            await event_store.close()
    finally:
        await read_model.close()


async def _export(connection: asyncpg.Connection[asyncpg.Record], url: str) -> Side:
    return Side(url=url, snapshot=await connection.fetchval("SELECT pg_export_snapshot()"))


def workers_default() -> int:
    """One for each processor that this process may use."""
    return min(WORKERS_MAX, len(os.sched_getaffinity(0)))


async def verify(
    settings: OperatorSettings,
    *,
    workers: int,
    progress: Callable[[int, int], None],
    beside: Callable[[Snapshots, Report], Any] | None = None,
) -> Report:
    """Verify both sides; ``progress`` is told (events walked, events in all).

    ``beside`` is awaited with the snapshots still held: for heads, and for the topic.
    """
    report = Report()
    async with snapshots(settings, workers) as taken:
        progress(0, taken.events)
        async for counts, faults in _walk(taken, workers):
            report.counts.add(counts)
            report.add_faults(faults)
            progress(report.counts.events, taken.events)
        report.add_faults(await check_outbox(taken.event_store, taken.now))
        faults, notes = await check_rest(taken.event_store, taken.read_model, taken.now)
        report.add_faults(faults)
        report.notes += notes
        if beside is not None:
            await beside(taken, report)
    return report


async def _walk(taken: Snapshots, workers: int) -> AsyncIterator[tuple[Counts, list[Fault]]]:
    if workers == 1 or taken.events < PARALLEL_EVENTS_MIN:
        for work in taken.works:
            yield await verify_range(work)
        return
    # Spawned, not forked: a fork would share the sockets that hold the snapshots.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts)
    loop = asyncio.get_running_loop()
    try:
        runs = [loop.run_in_executor(pool, _run_range, work) for work in taken.works]
        for run in asyncio.as_completed(runs):
            yield await run
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes of the terminal; only the one that leads answers to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_range(work: Work) -> tuple[Counts, list[Fault]]:
    """In a worker's process."""
    return asyncio.run(verify_range(work))


async def verify_range(work: Work) -> tuple[Counts, list[Fault]]:
    """Verify the accounts of one range, in the snapshots that ``work`` names."""
    async with (
        _joined(work.event_store) as event_store,
        _joined(work.read_model) as read_model,
    ):
        return await _RangeCheck(work, event_store, read_model).run()


@contextlib.asynccontextmanager
async def _joined(side: Side) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await connect(side.url)
    try:
        await connection.execute(f"{BEGIN}; SET TRANSACTION SNAPSHOT '{side.snapshot}'")
        yield connection
    finally:
        await connection.close()


class _RangeCheck:
    """Walks events and statement lines side by side; the rest of a range is small and held."""

    def __init__(
        self,
        work: Work,
        event_store: asyncpg.Connection[asyncpg.Record],
        read_model: asyncpg.Connection[asyncpg.Record],
    ) -> None:
        self._work = work
        self._event_store = event_store
        self._read_model = read_model
        self._counts = Counts()
        self._faults: list[Fault] = []
        self._streams: dict[str, asyncpg.Record] = {}
        self._balances: dict[str, asyncpg.Record] = {}
        self._totals: dict[str, list[asyncpg.Record]] = {}

    async def run(self) -> tuple[Counts, list[Fault]]:
        bounds = (self._work.first, self._work.end)
        for row in await self._event_store.fetch(STREAMS, *bounds):
            self._streams[row["account_id"]] = row
        for row in await self._read_model.fetch(BALANCES, *bounds):
            self._balances[row["account_id"]] = row
        for row in await self._read_model.fetch(TOTALS, *bounds):
            self._totals.setdefault(row["account_id"], []).append(row)
        await self._walk(bounds)
        for account_id in sorted(
            self._streams.keys() | self._balances.keys() | self._totals.keys()
        ):
            self._finish(self._check_of(account_id))  # there is a row of it, but no event
        return self._counts, self._faults

    async def _walk(self, bounds: tuple[str | None, str | None]) -> None:
        lines = aiter(self._read_model.cursor(LINES, *bounds, prefetch=PREFETCH_ROWS))
        line = await anext(lines, None)
        check: AccountCheck | None = None
        async for row in self._event_store.cursor(EVENTS, *bounds, prefetch=PREFETCH_ROWS):
            account_id, position = row[0], row[1]
            if check is None or check.account_id != account_id:
                if check is not None:
                    self._finish(check)
                check = self._check_of(account_id)
            key = (account_id, position)
            while line is not None and (line[0], line[1]) < key:
                self._stray(check, line)
                line = await anext(lines, None)
            if line is not None and line[0] == account_id and line[1] == position:
                check.event(row, line)
                line = await anext(lines, None)
            else:
                check.event(row, None)
        while line is not None:
            self._stray(check, line)
            line = await anext(lines, None)
        if check is not None:
            self._finish(check)

    def _check_of(self, account_id: str) -> AccountCheck:
        return AccountCheck(
            account_id=account_id,
            balance=self._balances.pop(account_id, None),
            now=self._work.now,
        )

    def _finish(self, check: AccountCheck) -> None:
        account_id = check.account_id
        check.finish(self._streams.pop(account_id, None), self._totals.pop(account_id, ()))
        self._counts.add(check.counts)
        self._faults += check.faults

    def _stray(self, check: AccountCheck | None, line: asyncpg.Record) -> None:
        """A line beside which there is no event."""
        account_id = line["account_id"]
        if check is not None and check.account_id == account_id:
            check.line_without_event(line)
            return
        if not self._faults or self._faults[-1].account_id != account_id:
            self._faults.append(
                Fault(
                    account_id=account_id,
                    position=line["position"],
                    table="statement",
                    column="account_id",
                    reason="the store has no such event",
                )
            )
