"""The command `make bench`: compares Saldo with its limits in one run.

It prints a table and writes the report to a file.

python -m benchmarks [--quick] [--rows KEY,...] [--rounds N] [--seconds N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.figures import BY_KEY
from benchmarks.listed import listed
from benchmarks.placement import choose_placement
from benchmarks.report import make_report, show, to_json
from benchmarks.rounds import QUICK, WHOLE, Bench, Effort
from benchmarks.stack import end_at_sigterm, running_stack, settings_of
from benchmarks.wrk import NoFigure, ensure_wrk
from local import services
from local.preconditions import held
from local.stack import REFUSED

ROUNDS_MAX = 100
SECONDS_MAX = 600.0
TABLE_COLUMNS = 150
OUT = services.ROOT / "build" / "bench"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 when a figure could not be taken. What it says judges nothing else."""
    options = read_options(arguments)
    end_at_sigterm()
    began = time.monotonic()
    console = Console(stderr=True)

    def progress(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/dim]  {text}", highlight=False)

    effort = effort_of(options)
    placement = choose_placement()
    folder = services.ROOT / ".saldo" / "bench"
    try:
        ensure_wrk()
        with (
            held(folder.with_suffix(".lock"), otherwise="a benchmark runs in this folder already"),
            running_stack(folder, placement, progress) as stack,
        ):
            bench = Bench(stack=stack, effort=effort, progress=progress)
            rows = bench.take(frozenset(options.rows))
            settings = settings_of(stack)
    except (NoFigure, *REFUSED) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report = make_report(rows, effort, placement, settings)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench.json").write_text(to_json(report))
    # Into a file it is as wide as the table needs.
    show(report, Console() if sys.stdout.isatty() else Console(width=TABLE_COLUMNS))
    progress(f"{options.out}/bench.json is written")
    return 0


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="one short round: whether it runs")
    parser.add_argument(
        "--rows", type=listed(BY_KEY), default=[], help="only these: " + ",".join(BY_KEY)
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one measurement")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args(arguments)


def effort_of(options: argparse.Namespace) -> Effort:
    """Return the effort of a run, within bounds."""
    effort = QUICK if options.quick else WHOLE
    if options.rounds:
        effort = replace(effort, rounds=min(options.rounds, ROUNDS_MAX))
    if options.seconds:
        effort = replace(effort, seconds=min(options.seconds, SECONDS_MAX))
    return effort


if __name__ == "__main__":
    sys.exit(main())
