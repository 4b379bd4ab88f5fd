"""The benchmarks on the real stack: every row has figures, and the report is written.

The figures are not judged here: a machine that runs tests is no measure.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.curves import read_long
from benchmarks.figures import FIGURES
from benchmarks.report import read_report
from local.services import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 900


def run(module: str, *arguments: str | Path) -> str:
    """Run the quick form of a benchmark and return its output; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--quick", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_every_row_is_measured_against_its_limit_and_reported(tmp_path: Path) -> None:
    printed = run("benchmarks", "--out", tmp_path)
    report = read_report(tmp_path / "bench.json")
    assert [row.figure for row in report.rows] == list(FIGURES)
    for row in report.rows:
        for each in row.rounds:
            # A share of the profile may round to nothing; all else takes time, memory or both.
            assert each.measured > 0 or row.figure.key.startswith("share_"), row
            assert (each.limit is None) == (row.figure.limit is None), row
            assert each.limit is None or each.limit > 0, row
    for figure in FIGURES:
        assert figure.title[:12] in printed


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_curves_continue_on_a_filled_database(tmp_path: Path) -> None:
    """Filled accounts take transactions, are projected and read: the fill is no fake."""
    printed = run("benchmarks.long", "--curves", "stored", "--out", tmp_path)
    [curve] = read_long(tmp_path / "long.json").curves
    [point] = curve.points
    assert point.x == point.values["stored_events"] == 10_000
    taken = point.values
    assert all(taken[name] > 0 for name in ("post_per_s", "get_per_s", "lag_p50_ms", "database_mb"))
    assert curve.ended_early == ""
    assert "10,000" in printed
