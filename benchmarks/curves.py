"""Scale curves as data, stored in a file and shown as tables.

Each curve names its own time and commit, because a report can hold curves of several runs.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.report import number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCHEMA = 2
COLUMNS_MAX = 10
QUARTERS = 4

# How a value of a point is called, and its unit.
LABELS = {
    "post_per_s": ("POST, throughput", "/s"),
    "post_cpu_us": ("POST, CPU of the function", "us"),
    "post_postgres_us": ("POST, CPU of PostgreSQL, projection included", "us"),
    "post_wal_bytes": ("POST, WAL, projection included", "bytes"),
    "post_p50_ms": ("POST, median latency", "ms"),
    "get_per_s": ("GET, throughput", "/s"),
    "get_cpu_us": ("GET, CPU of the function", "us"),
    "get_p50_ms": ("GET, median latency", "ms"),
    "lag_p50_ms": ("delay from the 201 to the balance, p50", "ms"),
    "lag_p99_ms": ("delay from the 201 to the balance, p99", "ms"),
    "idle_percent": ("CPU of recorder and projector when idle, sweeps running", "%"),
    "idle_postgres_percent": ("CPU of PostgreSQL when idle", "%"),
    "stored_events": ("events actually stored", ""),
    "database_mb": ("database", "MB"),
    "record_mb": ("resident memory of record_transaction", "MB"),
    "balance_mb": ("resident memory of get_balance", "MB"),
    "project_mb": ("resident memory of project_balance", "MB"),
    "outbox_mb": ("outbox with its indexes", "MB"),
    "outbox_rows": ("outbox, waiting rows", ""),
    "outbox_dead_rows": ("outbox, dead rows", ""),
    "behind_events": ("unprojected events", ""),
    "stream_hot_percent": ("stream updates without an index update (HOT)", "%"),
    "balance_hot_percent": ("balance updates without an index update (HOT)", "%"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was measured at one point of a curve, round by round."""

    x: float
    rounds: list[dict[str, float]]

    def taken(self, name: str) -> list[float]:
        """Return a value in each round that has it."""
        return [values[name] for values in self.rounds if name in values]

    @property
    def values(self) -> dict[str, float]:
        """The median of each value."""
        names = dict.fromkeys(name for values in self.rounds for name in values)
        return {name: statistics.median(self.taken(name)) for name in names}


@dataclass(slots=True, kw_only=True)
class Curve:
    """A figure over connections, size or time. ``by_quarters``: its x is the course of time."""

    name: str
    title: str
    axis: str
    by_quarters: bool = False
    taken_at: str = ""
    commit: str = ""
    seconds: float = 0.0
    load_before: float = 0.0
    ended_early: str = ""
    points: list[Point] = field(default_factory=list)

    def note(self, x: float, values: dict[str, float]) -> None:
        """Add a round at ``x``."""
        for point in self.points:
            if point.x == x:
                point.rounds.append(values)
                return
        self.points.append(Point(x=x, rounds=[values]))

    @property
    def names(self) -> list[str]:
        """The values that any of its points has."""
        return list(dict.fromkeys(name for point in self.points for name in point.values))

    @property
    def about(self) -> str:
        """Its source, in one line."""
        rounds = max((len(point.rounds) for point in self.points), default=0)
        medians = f", medians of {rounds} rounds" if rounds > 1 else ""
        early = f" It ended early: {self.ended_early}" if self.ended_early else ""
        return f"Commit {self.commit}, {self.taken_at[:10]}, {self.seconds:.0f} s{medians}.{early}"

    def columns(self) -> list[tuple[str, dict[str, float]]]:
        """Return the columns of its table: a heading, and the values below it."""
        if self.by_quarters:
            return [
                *quarters("POST", [p.values for p in self.points if "post_per_s" in p.values]),
                *quarters("GET", [p.values for p in self.points if "get_per_s" in p.values]),
            ]
        return [(f"{point.x:,.0f}", point.values) for point in thinned(self.points)]

    def rows(self) -> list[list[str]]:
        """Return the rows of its table below the headings: a label, and a cell per column."""
        columns = [values for _, values in self.columns()]
        return [
            [label_of(name), *(number(v[name]) if name in v else "" for v in columns)]
            for name in self.names
        ]


def label_of(name: str) -> str:
    """Return a value's name with its unit."""
    label, unit = LABELS[name]
    return f"{label} ({unit})" if unit else label


def thinned(points: list[Point]) -> list[Point]:
    """Return at most COLUMNS_MAX of the points, including the first and the last."""
    if len(points) <= COLUMNS_MAX:
        return points
    last = len(points) - 1
    return [points[round(last * place / (COLUMNS_MAX - 1))] for place in range(COLUMNS_MAX)]


def quarters(kind: str, course: Sequence[dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    """Return the medians of the first and of the last quarter of a time series."""
    if not course:
        return []
    size = max(1, len(course) // QUARTERS)
    return [
        (f"{kind}s, first quarter", medians(course[:size])),
        (f"{kind}s, last quarter", medians(course[-size:])),
    ]


def medians(taken: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each value."""
    return Point(x=0, rounds=list(taken)).values


def shown(curve: Curve) -> Table:
    """Format a curve for the terminal."""
    table = Table(title=f"{curve.title} ({curve.axis})", caption=curve.about, title_justify="left")
    table.add_column("")
    for head, _ in curve.columns():
        table.add_column(head, justify="right")
    for row in curve.rows():
        table.add_row(*row)
    return table


def as_markdown(curve: Curve) -> str:
    """Format a curve for the documents."""
    heads = [curve.axis, *(head for head, _ in curve.columns())]
    lines = [
        f"**{curve.title}.** {curve.about}",
        "",
        f"| {' | '.join(heads)} |",
        "|---|" + "---:|" * (len(heads) - 1),
    ]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in curve.rows())])


# --- the report ---------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class LongReport:
    """Curves of one run or several. ``machine`` is of the last one."""

    machine: dict[str, Any] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)

    def curve(self, name: str) -> Curve:
        """Return the curve of that name; KeyError if it was not measured."""
        for curve in self.curves:
            if curve.name == name:
                return curve
        raise KeyError(name)

    def keep(self, curve: Curve, order: Sequence[str]) -> bool:
        """Put a curve in the place of an older one, the curves in ``order``; whether it was put.

        One that ended early does not replace a whole one.
        """
        older = [each for each in self.curves if each.name == curve.name]
        if curve.ended_early and any(not each.ended_early for each in older):
            return False
        others = [each for each in self.curves if each.name != curve.name]
        self.curves = sorted([*others, curve], key=lambda each: order.index(each.name))
        return True


def read_long(file: Path) -> LongReport:
    """Read a report; raise ValueError if it has another schema."""
    whole = json.loads(file.read_text())
    if whole["schema"] != SCHEMA:
        raise ValueError(f"{file} is of schema {whole['schema']}, this reads {SCHEMA}")
    curves = [
        Curve(**{**curve, "points": [Point(x=p["x"], rounds=p["rounds"]) for p in curve["points"]]})
        for curve in whole["curves"]
    ]
    return LongReport(machine=whole["machine"], curves=curves)


def write_long(report: LongReport, folder: Path) -> None:
    """Write long.json, whole or not at all."""
    whole = {
        "schema": SCHEMA,
        "machine": report.machine,
        "curves": [as_json(curve) for curve in report.curves],
    }
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "long.json.new"
    unfinished.write_text(json.dumps(whole, indent=1) + "\n")
    unfinished.replace(folder / "long.json")


def as_json(curve: Curve) -> dict[str, Any]:
    """Return a curve as JSON: every round, with the medians for readers of the file."""
    kept = {name: getattr(curve, name) for name in curve.__slots__ if name != "points"}
    points = [{"x": p.x, "values": p.values, "rounds": p.rounds} for p in curve.points]
    return {**kept, "points": points}
