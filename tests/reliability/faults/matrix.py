"""The command `make faults`: every cell of the fault matrix, and docs/reliability.md from the runs.

Each run is kept as a line of JSON, and the document is made of all of them. A run that fails keeps
its history. Its seed goes into SEEDS, and every quick form plays it again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import secrets
import sys
import time
import traceback
from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.reliability.faults import rig
from tests.reliability.faults.cells import CELLS
from tests.reliability.faults.scene import play
from tests.reliability.history.history import write_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reliability.faults.scene import Cell, Form, Result

ROOT = Path(__file__).parents[3]
RUNS = Path(__file__).with_name("runs.ndjson")
SEEDS = Path(__file__).with_name("seeds.json")
DOCUMENT = ROOT / "docs" / "reliability.md"
FAILED = Path(".saldo/faults")
CELL_TIMEOUT_S = 600.0
RUNS_DEFAULT = 5
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is kept of one run of a cell."""

    cell: str
    seed: int
    form: str
    at: str
    machine: str
    operations: int
    hits: int
    recovery_s: float
    lost: int
    doubled: int
    stale: int
    wrong: int
    notes: dict[str, float | str]
    failure: str = ""


def run_of(result: Result) -> Run:
    """Return what is kept of a result."""
    failure = "" if result.hits else "its window was never hit"
    return Run(
        cell=result.cell,
        seed=result.seed,
        form=result.form,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        operations=result.operations,
        hits=result.hits,
        recovery_s=round(result.recovery_s, 1),
        **result.counts,
        notes=result.notes,
        failure="; ".join(str(each) for each in result.violations[:3]) or failure,
    )


def machine() -> str:
    """Return the machine of the figures and its load."""
    load = psutil.getloadavg()[0]
    return f"{psutil.cpu_count()} cores, {platform.system()}, load {load:.0f}"


def seeds_kept() -> dict[str, list[int]]:
    """Return the seeds that once failed, by cell; each is played again."""
    kept: dict[str, list[int]] = json.loads(SEEDS.read_text())
    return kept


# --- playing ----------------------------------------------------------------------------------


async def play_all(cells: Sequence[Cell], form: Form, seeds: Sequence[int]) -> list[Run]:
    """Play ``cells`` in turn on one rig; one that fails is followed by a new rig."""
    runs: list[Run] = []
    waiting = [(cell, seed) for cell, seed in zip(cells, seeds, strict=True)]
    while waiting:
        async with rig.opened() as opened:
            say(opened.pids())
            while waiting and opened.can_play(waiting[0][0].name):
                cell, seed = waiting.pop(0)
                run = await _play_one(cell, opened, seed, form)
                keep(run)
                runs.append(run)
                say(_told(run))
                if run.failure or not opened.is_whole():
                    break
    return runs


async def _play_one(cell: Cell, opened: rig.Rig, seed: int, form: Form) -> Run:
    try:
        async with asyncio.timeout(CELL_TIMEOUT_S):
            result = await play(cell, opened, seed=seed, form=form)
    except Exception as error:
        traceback.print_exc()
        return Run(
            cell=cell.name,
            seed=seed,
            form=form,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine(),
            operations=0,
            hits=0,
            recovery_s=0.0,
            lost=0,
            doubled=0,
            stale=0,
            wrong=0,
            notes={},
            failure=f"{type(error).__name__}: {error}"[:500],
        )
    run = run_of(result)
    if run.failure:
        await asyncio.to_thread(keep_history, result)
    return run


def keep_history(result: Result) -> None:
    """Keep what the checker saw of a run that failed."""
    FAILED.mkdir(parents=True, exist_ok=True)
    write_log(FAILED / f"{result.cell}-{result.seed}.ndjson", result.history, result.final)


def _told(run: Run) -> str:
    verdict = f"FAILED: {run.failure}" if run.failure else "passed"
    return (
        f"{run.cell} seed {run.seed}: {run.operations} operations, {run.hits} hits, "
        f"lost {run.lost}, doubled {run.doubled}, stale {run.stale}, wrong {run.wrong}, "
        f"recovered in {run.recovery_s} s: {verdict}"
    )


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


# --- keeping ----------------------------------------------------------------------------------


def keep(run: Run) -> None:
    """Add a run to those that the document is made of; a failing seed to those played again."""
    with RUNS.open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")
    # At once, so that the document says what the runs say also when the command is interrupted.
    DOCUMENT.write_text(document(kept_runs()))
    if run.failure:
        kept = seeds_kept()
        known = kept.setdefault(run.cell, [])
        if run.seed not in known:
            known.append(run.seed)
            SEEDS.write_text(json.dumps(kept, indent=1) + "\n")


def kept_runs() -> list[Run]:
    """Return all runs that were kept, the oldest first."""
    return [Run(**json.loads(line)) for line in RUNS.read_text().splitlines()]


# --- the document -----------------------------------------------------------------------------


def table(runs: Sequence[Run]) -> str:
    """Return the matrix: a row per cell, counts summed over its runs, times as median and worst."""
    by_cell: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_cell[run.cell].append(run)
    head = "| fault | runs | operations | lost | doubled | stale | wrong | recovery, s | hits |"
    lines = [head, "|---|--:|--:|--:|--:|--:|--:|--:|---|"]
    for cell in CELLS:
        own = by_cell.get(cell.name, [])
        if not own:
            lines.append(f"| {cell.fault} | 0 | | | | | | | |")
            continue
        sums = {
            name: sum(getattr(run, name) for run in own)
            for name in ("operations", "lost", "doubled", "stale", "wrong", "hits")
        }
        times = sorted(run.recovery_s for run in own)
        failed = sum(bool(run.failure) for run in own)
        counted = f"{len(own)}" + (f" ({failed} failed)" if failed else "")
        lines.append(
            f"| {cell.fault} | {counted} | {sums['operations']:,} | {sums['lost']} "
            f"| {sums['doubled']} | {sums['stale']} | {sums['wrong']} "
            f"| {times[len(times) // 2]} ({times[-1]}) | {sums['hits']:,} {cell.window} |"
        )
    return "\n".join(lines)


# The notes of a cell that the document shows, by cell and name.
MEASURED: dict[str, dict[str, str]] = {
    "kafka-out": {"p99_before_ms": "p99 before {} ms", "p99_during_ms": "p99 during {} ms"},
    "kafka-never": {"p99_before_ms": "p99 before {} ms", "p99_during_ms": "p99 during {} ms"},
    "schema-unknown": {
        "accounts": "{} accounts",
        "others_measured": "{} others measured",
        "others_lag_p99_ms": "p99 of the others' lag {} ms",
    },
    "overloaded": {
        "sustained_a_second": "sustained {}/s",
        "offered_a_second": "offered {}/s",
        "recorded_a_second": "recorded {}/s",
        "refused": "{} refused",
        "refusal_p50_ms": "refusal p50 {} ms",
        "refusal_p99_ms": "refusal p99 {} ms",
        "memory_before_mb": "memory before {} MB",
        "memory_largest_mb": "memory at most {} MB",
        "first_again_s": "first success afterwards {} s",
    },
    "withheld": {"swept_after_s": "swept after {} s"},
}


def measures(runs: Sequence[Run]) -> str:
    """Return the further measurements of some cells, run by run."""
    lines = ["| cell | form | machine | measured |", "|---|---|---|---|"]
    for run in runs:
        shown = MEASURED.get(run.cell)
        if shown and not run.failure:
            notes = [
                text.format(run.notes[name]) for name, text in shown.items() if name in run.notes
            ]
            lines.append(f"| {run.cell} | {run.form} | {run.machine} | {', '.join(notes)} |")
    return "\n".join(lines)


def document(runs: Sequence[Run]) -> str:
    """Return docs/reliability.md with new tables; the text around them is kept."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    if not runs:
        return f"{before}{BEGIN}\nNo run was kept yet.\n{END}{after}"
    forms = sorted({run.form for run in runs})
    told = f"{len(runs)} runs ({', '.join(forms)}), {runs[0].at[:10]} to {runs[-1].at[:10]}."
    made = f"{told}\n\n{table(runs)}\n\nFurther measurements:\n\n{measures(runs)}"
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


# --- the command ------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Play and write the document; 1 when a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.faults.matrix", description=__doc__
    )
    parser.add_argument("--runs", type=int, default=RUNS_DEFAULT)
    parser.add_argument("--cell", action="append", choices=[cell.name for cell in CELLS])
    parser.add_argument("--seed", type=int, help="play this seed, and no other")
    parser.add_argument("--form", choices=("quick", "long"), default="long")
    parser.add_argument("--anew", action="store_true", help="forget the runs that were kept")
    parser.add_argument("--write", action="store_true", help="write the document, play nothing")
    given = parser.parse_args(arguments)
    if given.anew:
        RUNS.write_text("")
    runs: list[Run] = []
    if not given.write:
        cells = [cell for cell in CELLS if given.cell is None or cell.name in given.cell]
        for _ in range(1 if given.seed is not None else given.runs):
            seeds = [
                secrets.randbelow(1_000_000) if given.seed is None else given.seed for _ in cells
            ]
            runs += asyncio.run(play_all(cells, given.form, seeds))
    else:
        DOCUMENT.write_text(document(kept_runs()))
    failed: list[dict[str, Any]] = [asdict(run) for run in runs if run.failure]
    for run in failed:
        say(f"failed: --cell {run['cell']} --seed {run['seed']} --form {run['form']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
