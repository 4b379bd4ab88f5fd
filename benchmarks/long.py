"""The command `make bench-long`: figures by connections, processes, stored size and time.

    python -m benchmarks.long [--curves NAME,...] [--quick] [--events-max N] [--requests N]

Each curve is measured on a new stack and written to the report as soon as it ends. What the
report already has of other curves stays, so that they can be measured one by one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
from rich.console import Console

from benchmarks import deliveries
from benchmarks.curves import Curve, LongReport, read_long, shown, write_long
from benchmarks.fill import EVENTS_AN_ACCOUNT, check_room, fill, settings_for_filling
from benchmarks.listed import listed
from benchmarks.open_loop import run_open_loop
from benchmarks.placement import Placement, choose_placement
from benchmarks.report import commit, machine, number
from benchmarks.rounds import ACCOUNTS, CONNECTIONS, FOLLOWED, QUICK, WHOLE, Bench, Effort, Spent
from benchmarks.stack import end_at_sigterm, running_stack, settings_of
from benchmarks.wrk import Load, NoFigure, ensure_wrk, run_wrk
from local import services
from local.preconditions import NotPossible, held
from local.stack import REFUSED
from saldo.project.lag_sweep import OVERLAP
from saldo.serve.functions import BALANCE, FUNCTIONS, PROJECT, RECORD

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stack import Stack

OUT = services.ROOT / "build" / "bench"
CONNECTION_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
EVENTS_MAX = SIZES[-1]
REQUESTS = 1_000_000
# However slow the machine is, the last curve ends.
SLICES_MAX = 80
SLICE_S = 15.0
IDLE_S = 20.0
QUIET_S = OVERLAP.total_seconds()
# A rate at which nothing queues on a small machine, so that the lag is the path's own.
LAG_RATE = 100.0
MB = 1e6
HOT = """
SELECT coalesce(100.0 * n_tup_hot_upd / nullif(n_tup_upd, 0), 100)
FROM pg_stat_user_tables WHERE relname = '{table}'
"""
OUTBOX_DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'outbox'"
BEHIND = """
SELECT coalesce(sum(s.position - coalesce(b.position, 0)), 0)
FROM event_store.stream AS s LEFT JOIN read_model.balance AS b USING (account_id)
"""
# What ends one curve and not the others.
FAILED = (
    NoFigure,
    *REFUSED,
    OSError,
    httpx.HTTPError,
    psutil.Error,
    subprocess.SubprocessError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far the curves go."""

    effort: Effort
    events_max: int
    requests: int
    slice_s: float
    quiet_s: float
    idle_s: float
    connections: tuple[int, ...]


WHOLE_EXTENT = Extent(
    effort=WHOLE,
    events_max=EVENTS_MAX,
    requests=REQUESTS,
    slice_s=SLICE_S,
    quiet_s=QUIET_S,
    idle_s=IDLE_S,
    connections=CONNECTION_COUNTS,
)
QUICK_EXTENT = Extent(
    effort=QUICK,
    events_max=SIZES[0],
    requests=1_000,
    slice_s=2,
    quiet_s=0,
    idle_s=1,
    connections=(1, 64),
)


@dataclass(slots=True, kw_only=True)
class Long:
    """Takes the curves on one stack."""

    bench: Bench
    extent: Extent
    loaded_at: float = field(default_factory=time.monotonic)

    @property
    def stack(self) -> Stack:
        """What is measured."""
        return self.bench.stack

    @property
    def rounds(self) -> range:
        """The rounds of each point."""
        return range(self.extent.effort.rounds)

    def connections(self, curve: Curve) -> None:
        """Measure POST and GET with more and more clients, all counts in each round."""
        self.bench.warm_up()
        for _ in self.rounds:
            for count in self.extent.connections:
                self._note(curve, count, self._post_and_get(count, ACCOUNTS))

    def _post_and_get(self, connections: int, accounts: int) -> dict[str, float]:
        bench = self.bench
        post, post_spent = bench.post(RECORD.name, connections=connections, accounts=accounts)
        bench.settle()
        get, get_spent = bench.get(BALANCE.name, connections=connections, accounts=accounts)
        return {
            **values_of("post", post, post_spent),
            "post_postgres_us": post_spent.postgres_us,
            "post_wal_bytes": post_spent.wal_bytes,
            **values_of("get", get, get_spent),
        }

    def processes(self, curve: Curve) -> None:
        """Measure one recorder and two, on all cores, with the same number of clients."""
        self.bench.warm_up()
        second = f"{RECORD.name}-second"
        child = self.stack.start_function(RECORD, second)
        services.wait_until_ready(child, self.stack.ports[second])
        cores = self.stack.placement
        everywhere = cores.function | cores.load | cores.rest
        anywhere = Placement(function=everywhere, load=everywhere, rest=everywhere)
        self.stack.placement = anywhere
        # The first token that a process sees, and its first statements, are not every request's.
        self._post_parts([second])
        self.bench.settle()
        for _ in self.rounds:
            for names in ([RECORD.name], [RECORD.name, second]):
                self._note(curve, len(names), self._post_parts(names))
                self.bench.settle()

    def _post_parts(self, names: list[str]) -> dict[str, float]:
        self.stack.place_anywhere()
        label = self.bench.label()
        before_s = sum(self.stack.cpu_s(name) for name in names)
        with ThreadPoolExecutor(len(names)) as pool:
            loads = list(pool.map(partial(self._post_part, len(names), label), names))
        self.stack.wait_sent()
        took_s = sum(self.stack.cpu_s(name) for name in names) - before_s
        return {
            "post_per_s": sum(load.per_s for load in loads),
            "post_cpu_us": took_s / sum(load.requests for load in loads) * 1e6,
            "post_p50_ms": max(load.p50_ms for load in loads),
        }

    def _post_part(self, parts: int, label: str, name: str) -> Load:
        return run_wrk(
            self.stack.placement,
            "post",
            f"{label}-{name}",
            ACCOUNTS,
            self.stack.token(),
            port=self.stack.ports[name],
            connections=CONNECTIONS // parts,
            seconds=self.extent.effort.seconds,
        )

    def stored(self, curve: Curve) -> None:
        """Measure the same load on more and more stored events, over ten times fewer accounts."""
        check_room(self.stack.folder, self.extent.events_max)
        filled = 0
        for events in SIZES:
            if events > self.extent.events_max:
                break
            accounts = events // EVENTS_AN_ACCOUNT
            self._fill(filled + 1, accounts)
            filled = accounts
            sizes = {
                "stored_events": self._number("SELECT sum(position) FROM event_store.stream"),
                "database_mb": self._number("SELECT pg_database_size(current_database())") / MB,
            }
            idle = self._idle()
            self._warm(accounts)
            for _ in self.rounds:
                taken = {**self._post_and_get(CONNECTIONS, accounts), **self._lag(accounts)}
                self._note(curve, events, {**taken, **idle, **sizes})

    def _fill(self, first: int, last: int) -> None:
        """Fill while no function uses the database; restart the functions afterwards."""
        dsn = self.stack.server.dsn()
        with self.stack.without_functions(), settings_for_filling(dsn):
            fill(dsn, first, last, self.bench.progress)

    def _lag(self, accounts: int) -> dict[str, float]:
        self.stack.place_anywhere()
        load = run_open_loop(
            self.stack,
            rate=LAG_RATE,
            seconds=2 * self.extent.effort.seconds,
            accounts=accounts,
            label=self.bench.label(),
            followed=FOLLOWED,
        )
        self.loaded_at = time.monotonic()
        return {"lag_p50_ms": load.lag_p50_ms, "lag_p99_ms": load.lag_p99_ms}

    def _warm(self, accounts: int) -> None:
        """Warm up the caches and the prepared statements."""
        self.bench.post(RECORD.name, accounts=accounts)
        self.bench.settle()
        self.bench.get(BALANCE.name, accounts=accounts)

    def _idle(self) -> dict[str, float]:
        """Measure the idle CPU of recorder, projector and PostgreSQL, in percent of a core.

        The lag sweep walks what was recorded in the OVERLAP before the newest event: so that it is
        one event alone, that one is recorded when the last load is as long ago.
        """
        time.sleep(max(0.0, self.loaded_at + self.extent.quiet_s - time.monotonic()))
        deliveries.record_wave(self.stack, 1, self.bench.label(), names=deliveries.BENCH)
        self.bench.settle()
        # Connecting again to Kafka is no sweep.
        time.sleep(self.extent.idle_s / 4)
        began, used_s, server_s = time.monotonic(), self._sweepers_s(), self.stack.postgres_cpu_s()
        time.sleep(self.extent.idle_s)
        took_s = time.monotonic() - began
        return {
            "idle_percent": 100 * (self._sweepers_s() - used_s) / took_s,
            "idle_postgres_percent": 100 * (self.stack.postgres_cpu_s() - server_s) / took_s,
        }

    def _sweepers_s(self) -> float:
        return sum(self.stack.cpu_s(name) for name in (RECORD.name, PROJECT.name))

    def million(self, curve: Curve) -> None:
        """Measure memory and tables over so many POSTs, then so many GETs."""
        self.bench.warm_up()
        self.bench.effort = replace(self.extent.effort, seconds=self.extent.slice_s)
        sent = 0
        for kind, turn, name in (
            ("post", self.bench.post, RECORD.name),
            ("get", self.bench.get, BALANCE.name),
        ):
            until = sent + self.extent.requests
            for _ in range(SLICES_MAX):
                under_load: dict[str, float] = {}
                load, spent = turn(name, meanwhile=partial(self._look, under_load))
                sent += load.requests
                taken = values_of(kind, load, spent)
                self._note(curve, sent, {**taken, **under_load, **self._memory()})
                if sent >= until:
                    break
            self.bench.settle()

    def _look(self, found: dict[str, float]) -> None:
        """Count the rows of the tables in the middle of a slice, under load."""
        time.sleep(self.extent.slice_s / 2)
        found |= {
            "outbox_mb": self._number("SELECT pg_total_relation_size('event_store.outbox')") / MB,
            "outbox_rows": self._number("SELECT count(*) FROM event_store.outbox"),
            "outbox_dead_rows": self._number(OUTBOX_DEAD),
            "behind_events": self._number(BEHIND),
            "stream_hot_percent": self._number(HOT.format(table="stream")),
            "balance_hot_percent": self._number(HOT.format(table="balance")),
        }

    def _memory(self) -> dict[str, float]:
        names = {RECORD: "record_mb", BALANCE: "balance_mb", PROJECT: "project_mb"}
        return {names[each]: self.stack.resident_mb(each.name) for each in FUNCTIONS}

    def _number(self, statement: str) -> float:
        return float(self.stack.sql(statement))

    def _note(self, curve: Curve, x: float, values: dict[str, float]) -> None:
        curve.note(x, values)
        said = ", ".join(f"{name} {number(value)}" for name, value in values.items())
        self.bench.progress(f"{curve.name} at {x:,.0f}: {said}")


def values_of(kind: str, load: Load, spent: Spent) -> dict[str, float]:
    """Return the values by which a load is judged."""
    return {
        f"{kind}_per_s": load.per_s,
        f"{kind}_cpu_us": spent.us,
        f"{kind}_p50_ms": load.p50_ms,
    }


CURVES: dict[str, tuple[Callable[[], Curve], Callable[[Long, Curve], None]]] = {
    "connections": (
        partial(Curve, name="connections", title="By connections", axis="connections"),
        Long.connections,
    ),
    "processes": (
        partial(Curve, name="processes", title="By processes", axis="recorder processes"),
        Long.processes,
    ),
    "stored": (
        partial(
            Curve,
            name="stored",
            title="By what is stored",
            axis="stored events, on a tenth as many accounts",
        ),
        Long.stored,
    ),
    "million": (
        partial(
            Curve,
            name="million",
            title="Over a million requests each way",
            axis="requests so far",
            by_quarters=True,
        ),
        Long.million,
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Take the curves; 1 when one of them could not be taken to its end."""
    options = read_options(arguments)
    end_at_sigterm()
    began = time.monotonic()
    console = Console(stderr=True)

    def progress(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/dim]  {text}", highlight=False)

    extent = QUICK_EXTENT if options.quick else WHOLE_EXTENT
    extent = replace(
        extent,
        events_max=options.events_max or extent.events_max,
        requests=options.requests or extent.requests,
    )
    folder = services.ROOT / ".saldo" / "bench"
    taken: list[Curve] = []
    try:
        ensure_wrk()
        with held(folder.with_suffix(".lock"), otherwise="a benchmark runs in this folder already"):
            for name in options.curves or CURVES:
                progress(CURVES[name][0]().title)
                taken.append(take(name, extent, folder, options.out, progress))
    except (NoFigure, NotPossible) as error:
        print(f"bench-long: {error}", file=sys.stderr)
        return 1
    screen = Console() if sys.stdout.isatty() else Console(width=170)
    for curve in taken:
        screen.print(shown(curve))
    for curve in taken:
        if curve.ended_early:
            print(f"bench-long: {curve.name} ended early: {curve.ended_early}", file=sys.stderr)
    return 1 if any(curve.ended_early for curve in taken) else 0


def take(
    name: str, extent: Extent, folder: Path, out: Path, progress: Callable[[str], None]
) -> Curve:
    """Take one curve and write it to the report in ``out``, as far as it came."""
    make, measure = CURVES[name]
    curve, began = make(), time.monotonic()
    curve.taken_at = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    curve.commit, curve.load_before = commit(), round(os.getloadavg()[0], 2)
    curve.ended_early = "it was interrupted"
    facts = machine(choose_placement())
    try:
        with running_stack(folder, choose_placement(), progress) as stack:
            facts |= settings_of(stack)
            bench = Bench(stack=stack, effort=extent.effort, progress=progress)
            measure(Long(bench=bench, extent=extent), curve)
        curve.ended_early = ""
    except FAILED as error:
        curve.ended_early = str(error) or type(error).__name__
        progress(f"{name} ended early: {curve.ended_early}")
    finally:
        # An interruption, too, leaves what was measured until then.
        curve.seconds = round(time.monotonic() - began)
        if curve.points:
            report = report_in(out, progress)
            report.machine = facts
            if report.keep(curve, list(CURVES)):
                write_long(report, out)
                progress(f"{out}/long.json is written")
            else:
                progress(f"{out}/long.json keeps the whole curve that it had")
    return curve


def report_in(out: Path, progress: Callable[[str], None]) -> LongReport:
    """Return the existing report, for the curves that are not measured again."""
    file = out / "long.json"
    if not file.exists():
        return LongReport()
    try:
        return read_long(file)
    except (ValueError, KeyError, TypeError) as error:
        progress(f"the older report is not gone on with: {error}")
        return LongReport()


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long")
    parser.add_argument("--curves", type=listed(CURVES), default=[], help=", ".join(CURVES))
    parser.add_argument("--quick", action="store_true", help="a point or two: whether it runs")
    parser.add_argument("--events-max", type=int, help="how many events are stored at the most")
    parser.add_argument("--requests", type=int, help="of the last curve, each way")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
