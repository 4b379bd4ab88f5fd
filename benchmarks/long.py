"""``make bench-long``: how the figures go with connections, processes, stored size and time.

    python -m benchmarks.long [--curves NAME,...] [--quick] [--events-max N] [--requests N]

Each curve is taken on a stack of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.charts import Line
from benchmarks.fill import EVENTS_AN_ACCOUNT, fill
from benchmarks.listed import listed
from benchmarks.open_loop import run_open_loop
from benchmarks.page import curves_page
from benchmarks.placement import Placement, choose_placement
from benchmarks.report import commit, machine, number
from benchmarks.rounds import ACCOUNTS, CONNECTIONS, FOLLOWED, QUICK, WHOLE, Bench, Effort
from benchmarks.stack import end_at_sigterm, running_stack, settings_of
from benchmarks.wrk import NoFigure, ensure_wrk, run_wrk
from local import services
from local.checks import held
from local.services import BALANCE, FUNCTIONS, PROJECT, RECORD
from local.stack import REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stack import Stack

SCHEMA = 1
OUT = services.ROOT / "build" / "bench"
CONNECTION_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
EVENTS_MAX = SIZES[-1]
REQUESTS = 1_000_000
SLICES_MAX = 400
SLICE_S = 15.0
IDLE_S = 20.0
# A rate at which nothing queues on a small machine, so that the lag is the path's own.
LAG_RATE = 100.0
MB = 1e6
HOT = """
SELECT coalesce(100.0 * n_tup_hot_upd / nullif(n_tup_upd, 0), 100)
FROM pg_stat_user_tables WHERE relname = '{table}'
"""

# How a value of a point is called, and its unit.
LABELS = {
    "post_per_s": ("POST, throughput", "/s"),
    "post_cpu_us": ("POST, CPU of the function", "us"),
    "post_p50_ms": ("POST, median latency", "ms"),
    "get_per_s": ("GET, throughput", "/s"),
    "get_cpu_us": ("GET, CPU of the function", "us"),
    "get_p50_ms": ("GET, median latency", "ms"),
    "lag_p50_ms": ("from the 201 to the balance, p50", "ms"),
    "lag_p99_ms": ("from the 201 to the balance, p99", "ms"),
    "idle_percent": ("CPU of recorder and projector with nothing to do, sweeps running", "%"),
    "database_mb": ("database", "MB"),
    "record_mb": ("resident memory of record_transaction", "MB"),
    "balance_mb": ("resident memory of get_balance", "MB"),
    "project_mb": ("resident memory of project_balance", "MB"),
    "outbox_mb": ("outbox with its indexes", "MB"),
    "stream_hot_percent": ("updates of streams that touched no index (HOT)", "%"),
    "balance_hot_percent": ("updates of balances that touched no index (HOT)", "%"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was measured at one place of a curve."""

    x: float
    values: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A figure over connections, size or time."""

    name: str
    title: str
    axis: str
    log: bool
    points: list[Point] = field(default_factory=list)

    def lines(self) -> list[Line]:
        """One line for each value."""
        names = dict.fromkeys(name for point in self.points for name in point.values)
        return [
            Line(
                title=LABELS[name][0],
                unit=LABELS[name][1],
                points=[(p.x, p.values[name]) for p in self.points if name in p.values],
                log=self.log,
            )
            for name in names
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far the curves go."""

    effort: Effort
    events_max: int
    requests: int
    slice_s: float
    idle_s: float
    connections: tuple[int, ...]


WHOLE_EXTENT = Extent(
    effort=WHOLE,
    events_max=EVENTS_MAX,
    requests=REQUESTS,
    slice_s=SLICE_S,
    idle_s=IDLE_S,
    connections=CONNECTION_COUNTS,
)
QUICK_EXTENT = Extent(
    effort=QUICK,
    events_max=SIZES[0],
    requests=1_000,
    slice_s=1,
    idle_s=1,
    connections=(1, 64),
)


@dataclass(slots=True, kw_only=True)
class Long:
    """Takes the curves on one stack."""

    bench: Bench
    extent: Extent

    @property
    def stack(self) -> Stack:
        """What is measured."""
        return self.bench.stack

    def connections(self, curve: Curve) -> None:
        """POST and GET by more and more clients."""
        self.bench.warm_up()
        for count in self.extent.connections:
            post, post_spent = self.bench.post(RECORD.name, connections=count)
            self.bench.settle()
            get, get_spent = self.bench.get(BALANCE.name, connections=count)
            values = {
                "post_per_s": post.per_s,
                "post_cpu_us": post_spent.us,
                "post_p50_ms": post.p50_ms,
                "get_per_s": get.per_s,
                "get_cpu_us": get_spent.us,
                "get_p50_ms": get.p50_ms,
            }
            self._add(curve, count, values)

    def processes(self, curve: Curve) -> None:
        """One recorder and two, on all cores; as many clients for one as for both."""
        self.bench.warm_up()
        second = f"{RECORD.name}-second"
        child = self.stack.start_function(RECORD, second)
        services.wait_until_ready(child, self.stack.ports[second])
        cores = self.stack.placement
        everywhere = cores.function | cores.load | cores.rest
        anywhere = Placement(function=everywhere, load=everywhere, rest=everywhere)
        self.stack.placement = anywhere
        self.stack.place_anywhere()
        for names in ([RECORD.name], [RECORD.name, second]):
            before = sum(self.stack.cpu_s(name) for name in names)
            with ThreadPoolExecutor(len(names)) as pool:
                loads = list(pool.map(lambda name: self._post_part(name, len(names)), names))  # noqa: B023 - awaited here
            self.stack.wait_sent()
            took = sum(self.stack.cpu_s(name) for name in names) - before
            requests = sum(load.requests for load in loads)
            values = {
                "post_per_s": sum(load.per_s for load in loads),
                "post_cpu_us": took / requests * 1e6,
                "post_p50_ms": max(load.p50_ms for load in loads),
            }
            self._add(curve, len(names), values)
            self.bench.settle()

    def _post_part(self, name: str, parts: int) -> Any:  # noqa: ANN401 - wrk's Load
        return run_wrk(
            self.stack.placement,
            "post",
            f"{name}-of-{parts}",
            ACCOUNTS,
            self.stack.token(),
            port=self.stack.ports[name],
            connections=CONNECTIONS // parts,
            seconds=self.extent.effort.seconds,
        )

    def stored(self, curve: Curve) -> None:
        """The same load on more and more stored events, over ten times fewer accounts."""
        filled = 0
        for events in SIZES:
            if events > self.extent.events_max:
                break
            accounts = events // EVENTS_AN_ACCOUNT
            fill(self.stack, filled + 1, accounts, self.bench.progress)
            filled = accounts
            self._warm(accounts)
            idle = self._idle_percent()
            post, post_spent = self.bench.post(RECORD.name, accounts=accounts)
            self.bench.settle()
            get, get_spent = self.bench.get(BALANCE.name, accounts=accounts)
            self.stack.place_anywhere()
            lag = run_open_loop(
                self.stack,
                rate=LAG_RATE,
                seconds=2 * self.extent.effort.seconds,
                accounts=accounts,
                label=self.bench.label(),
                followed=FOLLOWED,
            )
            values = {
                "post_per_s": post.per_s,
                "post_cpu_us": post_spent.us,
                "post_p50_ms": post.p50_ms,
                "get_per_s": get.per_s,
                "get_cpu_us": get_spent.us,
                "get_p50_ms": get.p50_ms,
                "lag_p50_ms": lag.lag_p50_ms,
                "lag_p99_ms": lag.lag_p99_ms,
                "idle_percent": idle,
                "database_mb": self._number("SELECT pg_database_size(current_database())") / MB,
            }
            self._add(curve, events, values)

    def _warm(self, accounts: int) -> None:
        """Neither the caches nor the prepared statements are cold."""
        self.bench.post(RECORD.name, accounts=accounts)
        self.bench.settle()
        self.bench.get(BALANCE.name, accounts=accounts)

    def _idle_percent(self) -> float:
        """CPU of the two functions that sweep, in percent of a core, while nobody asks."""
        names = (RECORD.name, PROJECT.name)
        before = sum(self.stack.cpu_s(name) for name in names)
        began = time.monotonic()
        time.sleep(self.extent.idle_s)
        used = sum(self.stack.cpu_s(name) for name in names) - before
        return 100 * used / (time.monotonic() - began)

    def million(self, curve: Curve) -> None:
        """So many POSTs, then so many GETs: memory, and what the tables hold of it."""
        self.bench.warm_up()
        self.bench.effort = replace(self.extent.effort, seconds=self.extent.slice_s)
        sent = 0
        for turn, function in ((self.bench.post, RECORD), (self.bench.get, BALANCE)):
            until = sent + self.extent.requests
            for _ in range(SLICES_MAX):
                load, _spent = turn(function.name)
                sent += load.requests
                kind = "post" if function is RECORD else "get"
                self._add(curve, sent, {f"{kind}_per_s": load.per_s, **self._sizes()})
                if sent >= until:
                    break
        self.bench.settle()

    def _sizes(self) -> dict[str, float]:
        """Memory and tables as they are."""
        memory = {
            f"{function.name.split('_')[0] if function is not BALANCE else 'balance'}_mb": (
                self.stack.resident_mb(function.name)
            )
            for function in FUNCTIONS
        }
        return {
            **memory,
            "outbox_mb": self._number("SELECT pg_total_relation_size('event_store.outbox')") / MB,
            "stream_hot_percent": self._hot_percent("stream"),
            "balance_hot_percent": self._hot_percent("balance"),
        }

    def _hot_percent(self, table: str) -> float:
        return self._number(HOT.format(table=table))

    def _number(self, statement: str) -> float:
        return float(self.stack.sql(statement))

    def _add(self, curve: Curve, x: float, values: dict[str, float]) -> None:
        curve.points.append(Point(x=x, values=values))
        shown = ", ".join(f"{name} {number(value)}" for name, value in values.items())
        self.bench.progress(f"{curve.name} at {x:,.0f}: {shown}")


CURVES: dict[str, tuple[Curve, Callable[[Long, Curve], None]]] = {
    "connections": (
        Curve(name="connections", title="By connections", axis="connections", log=True),
        Long.connections,
    ),
    "processes": (
        Curve(name="processes", title="By processes", axis="processes", log=False),
        Long.processes,
    ),
    "stored": (
        Curve(
            name="stored",
            title="By what is stored",
            axis="stored events, on a tenth as many accounts",
            log=True,
        ),
        Long.stored,
    ),
    "million": (
        Curve(name="million", title="Over a million requests", axis="requests so far", log=False),
        Long.million,
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Take the curves; 1 when one could not be taken."""
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
    settings: dict[str, str] = {}
    try:
        ensure_wrk()
        with held(folder.with_suffix(".lock"), otherwise="a benchmark runs in this folder already"):
            for name in options.curves or CURVES:
                curve, take = CURVES[name]
                progress(curve.title)
                with running_stack(folder, choose_placement(), progress) as stack:
                    bench = Bench(stack=stack, effort=extent.effort, progress=progress)
                    take(Long(bench=bench, extent=extent), curve)
                    settings = settings_of(stack)
                taken.append(curve)
    except (NoFigure, *REFUSED) as error:
        print(f"bench-long: {error}", file=sys.stderr)
        return 1
    report = {
        "schema": SCHEMA,
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "commit": commit(),
        "machine": machine(choose_placement()) | settings,
        "curves": [as_json(curve) for curve in taken],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "long.json").write_text(json.dumps(report, indent=1) + "\n")
    about = f"Commit {report['commit']}, {report['taken_at']}. Every axis begins at zero."
    charts = [(curve.title, curve.axis, curve.lines()) for curve in taken]
    (options.out / "long.html").write_text(curves_page("Saldo's scale curves", about, charts))
    screen = Console() if sys.stdout.isatty() else Console(width=150)
    for curve in taken:
        screen.print(table_of(curve))
    progress(f"{options.out}/long.html and long.json are written")
    return 0


def as_json(curve: Curve) -> dict[str, Any]:
    """A curve as it is kept."""
    return {
        "name": curve.name,
        "title": curve.title,
        "axis": curve.axis,
        "points": [{"x": point.x, **point.values} for point in curve.points],
    }


def table_of(curve: Curve) -> Table:
    """A curve for the terminal: a row for each value, a column for each point."""
    table = Table(title=f"{curve.title} ({curve.axis})", title_justify="left")
    table.add_column("")
    shown = thinned(curve.points)
    for point in shown:
        table.add_column(f"{point.x:,.0f}", justify="right")
    for name in dict.fromkeys(name for point in curve.points for name in point.values):
        label, unit = LABELS[name]
        cells = [number(p.values[name]) if name in p.values else "" for p in shown]
        table.add_row(f"{label} ({unit})", *cells)
    return table


COLUMNS_MAX = 10


def thinned(points: list[Point]) -> list[Point]:
    """At most COLUMNS_MAX of the points, the first and the last among them."""
    if len(points) <= COLUMNS_MAX:
        return points
    last = len(points) - 1
    return [points[round(last * place / (COLUMNS_MAX - 1))] for place in range(COLUMNS_MAX)]


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long")
    parser.add_argument("--curves", type=listed(CURVES), default=[], help=", ".join(CURVES))
    parser.add_argument("--quick", action="store_true", help="a point or two: whether it runs")
    parser.add_argument("--events-max", type=int, help="how many events are stored at the most")
    parser.add_argument("--requests", type=int, help="of the last curve, each way")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
