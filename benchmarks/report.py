"""The report of a benchmark: a JSON file with all values, and a table for the terminal."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.figures import BY_KEY, Figure, Round, Row
from local import services

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from benchmarks.placement import Placement
    from benchmarks.rounds import Effort

SCHEMA = 1
PACKAGES = ("functions-framework", "starlette", "uvicorn", "uvloop", "httptools", "asyncpg")
DIGITS = 100  # from here on a number is shown without decimals
THOUSANDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run of the benchmark."""

    taken_at: str
    commit: str
    machine: dict[str, Any]
    effort: dict[str, Any]
    rows: list[Row]

    def row(self, key: str) -> Row:
        """Return the row of a figure; KeyError if it was not measured."""
        for row in self.rows:
            if row.figure.key == key:
                return row
        raise KeyError(key)


def make_report(
    rows: list[Row], effort: Effort, placement: Placement, settings: dict[str, str]
) -> Report:
    """Return the report of the rounds just measured on this machine."""
    return Report(
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine=machine(placement) | settings,
        effort=asdict(effort),
        rows=rows,
    )


def commit() -> str:
    """Return the measured commit, with a mark if the files differ from it."""
    said = subprocess.run(
        [shutil.which("git") or "git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=services.ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"


def machine(placement: Placement) -> dict[str, Any]:
    """Return the properties of the machine that the figures depend on."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
        "load average at the end": round(os.getloadavg()[0], 2),
        "core of the function": "its own" if placement.pinned else "shared",
        **{name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    """Return the processor's name, if the system knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - no file of ours
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"


def to_json(report: Report) -> str:
    """Return the whole report as JSON."""
    rows = [
        {
            **asdict(row.figure),
            "median": row.median,
            "low": row.low,
            "high": row.high,
            "met": row.met,
            "rounds": [asdict(each) for each in row.rounds],
        }
        for row in report.rows
    ]
    whole = {
        "schema": SCHEMA,
        "taken_at": report.taken_at,
        "commit": report.commit,
        "machine": report.machine,
        "effort": report.effort,
        "rows": rows,
    }
    return json.dumps(whole, indent=1) + "\n"


def read_report(path: Path) -> Report:
    """Read a report from a file."""
    whole = json.loads(path.read_text())
    if whole["schema"] != SCHEMA:
        raise ValueError(f"{path} is of schema {whole['schema']}, this reads {SCHEMA}")
    return Report(
        taken_at=whole["taken_at"],
        commit=whole["commit"],
        machine=whole["machine"],
        effort=whole["effort"],
        rows=[
            Row(
                figure=BY_KEY[row["key"]],
                rounds=[
                    Round(measured=r["measured"], limit=r["limit"], beside=r["beside"])
                    for r in row["rounds"]
                ],
            )
            for row in whole["rows"]
        ],
    )


def number(value: float, unit: str = "") -> str:
    """Format a number for people."""
    if abs(value) >= DIGITS:
        text = f"{value:,.0f}"
    elif abs(value) >= 1:
        text = f"{value:.3g}" if unit != "x" else f"{value:.2f}"
    else:
        text = f"{value:.2f}"
    separator = "" if unit in {"", "%", "/s"} else " "
    return f"{text}{separator}{unit}"


def bound_text(figure: Figure) -> str:
    """Format the bound of a figure."""
    sign = "<=" if figure.relation == "at most" else ">="
    return f"{sign} {number(figure.bound, figure.judged_unit())}"


def beside_text(row: Row) -> str:
    """Format the further values of a row: throughputs, latencies, sizes."""
    names = dict.fromkeys(name for each in row.rounds for name in each.beside)
    shown: list[str] = []
    for name in names:
        value = row.beside(name)
        if value is None:
            continue
        label, unit = beside_label(name, row.figure)
        shown.append(f"{label} {number(value, unit)}")
    return ", ".join(shown)


def beside_label(name: str, figure: Figure) -> tuple[str, str]:
    """Return the name of a further value, and its unit."""
    labels = {
        "per_s": ("throughput", "/s"),
        "pinned_per_s": ("on its own core", "/s"),
        "limit_per_s": ("the limit's", "/s"),
        "rate_per_s": ("at", "/s"),
        "cpu_us": ("CPU", "us"),
        "postgres_us": ("PostgreSQL's CPU", "us"),
        "wal_bytes": ("WAL", "bytes"),
        "cpu_us_a_row": ("CPU per row", "us"),
    }
    if name in labels:
        return labels[name]
    if name.endswith("_ms"):
        return name.removesuffix("_ms").replace("_", " "), "ms"
    return name, figure.unit


def show(report: Report, console: Console) -> None:
    """Print the table."""
    table = Table(title=f"Saldo against its limits, {report.commit}", title_justify="left")
    table.add_column("figure", ratio=5)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("spread", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in report.rows:
        unit = row.figure.judged_unit()
        beside = beside_text(row)
        table.add_row(
            row.figure.title + (f"\n[dim]{beside}[/dim]" if beside else ""),
            number(row.measured, row.figure.unit),
            "" if row.limit is None else number(row.limit, row.figure.unit),
            f"[bold]{number(row.median, unit)}[/bold]",
            f"{number(row.low)} to {number(row.high)}" if len(row.rounds) > 1 else "",
            bound_text(row.figure),
            "[green]met[/green]" if row.met else "[red]not met[/red]",
        )
    console.print(table)
