"""The tables of docs/reliability.md, compared with the kept runs."""

from __future__ import annotations

from dataclasses import replace

from tests.reliability.faults.cells import CELLS
from tests.reliability.faults.matrix import DOCUMENT, Run, document, kept_runs, table

RUN = Run(
    cell="record-killed",
    seed=7,
    form="long",
    at="2026-11-24T12:00:00+00:00",
    machine="2 cores, Linux, load 1",
    operations=1_200,
    hits=3,
    recovery_s=4.5,
    lost=0,
    doubled=0,
    stale=0,
    wrong=0,
    notes={},
)


def test_the_document_matches_the_kept_runs() -> None:
    assert DOCUMENT.read_text() == document(kept_runs())


def test_a_row_sums_up_its_runs_and_counts_failures() -> None:
    worse = replace(RUN, lost=2, recovery_s=9.0, failure="acknowledged-lost")
    row = next(line for line in table([RUN, worse, RUN]).splitlines() if "SIGKILL" in line)
    fault = "record_transaction, one of two: SIGKILL"
    assert row == (
        f"| {fault} | 3 (1 failed) | 3,600 | 2 | 0 | 0 | 0 | 4.5 (9.0) | 9 requests cut off |"
    )


def test_a_cell_without_a_run_says_so() -> None:
    assert table([]).count("| 0 | | | | | | | |") == len(CELLS)
