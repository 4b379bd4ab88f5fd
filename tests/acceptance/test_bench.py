"""The benchmark runs on the real stack: every row has figures, and the report is written.

The figures themselves are judged by nobody here: a machine that runs tests is no measure.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.figures import FIGURES
from benchmarks.report import read_report
from local.services import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 500


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_every_row_is_taken_against_its_limit_and_reported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", tmp_path],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = read_report(tmp_path / "bench.json")
    assert [row.figure for row in report.rows] == list(FIGURES)
    for row in report.rows:
        for each in row.rounds:
            # A share of the profile may round to nothing; all else takes time, memory or both.
            assert each.measured > 0 or row.figure.key.startswith("share_"), row
            assert (each.limit is None) == (row.figure.limit is None), row
            assert each.limit is None or each.limit > 0, row
    assert sum(report.row(key).measured for key in ("share_idempotency", "share_auth")) > 0
    page = (tmp_path / "bench.html").read_text()
    for figure in FIGURES:
        assert figure.title.replace("'", "&#x27;") in page
        assert figure.title[:12] in done.stdout
