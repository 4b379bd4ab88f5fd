"""The scale curves as data: medians, tables, and a report that holds curves of several runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Self

import pytest

from benchmarks import long
from benchmarks.capacity import REPORTS
from benchmarks.curves import (
    COLUMNS_MAX,
    LABELS,
    Curve,
    LongReport,
    Point,
    as_markdown,
    read_long,
    shown,
    thinned,
    write_long,
)
from benchmarks.long import CURVES, WHOLE_EXTENT, take
from benchmarks.wrk import NoFigure

if TYPE_CHECKING:
    from pathlib import Path

ORDER = list(CURVES)


def curve(name: str, *values: float, early: str = "") -> Curve:
    """Return a curve of throughputs at 1, 2, 3 and so on."""
    made = CURVES[name][0]()
    made.ended_early = early
    for x, value in enumerate(values, 1):
        made.note(x, {"post_per_s": value})
    return made


def test_point_is_the_median_of_its_rounds() -> None:
    taken = Curve(name="connections", title="t", axis="connections")
    for value in (10.0, 90.0, 20.0):
        taken.note(1, {"post_per_s": value})
        taken.note(2, {"post_per_s": value + 1})
    assert [(p.x, p.values) for p in taken.points] == [
        (1, {"post_per_s": 20.0}),
        (2, {"post_per_s": 21.0}),
    ]
    assert taken.points[1].taken("post_per_s") == [11.0, 91.0, 21.0]


def test_table_has_a_row_for_each_measured_value() -> None:
    taken = Curve(name="million", title="t", axis="requests")
    taken.note(1, {"post_per_s": 10.0, "record_mb": 60.0})
    taken.note(2, {"get_per_s": 20.0, "record_mb": 61.0})
    rows = {row[0]: row[1:] for row in taken.rows()}
    assert rows["POST, throughput (/s)"] == ["10", ""]
    assert rows["resident memory of record_transaction (MB)"] == ["60", "61"]
    assert shown(taken).row_count == 3


def test_time_series_is_shown_by_first_and_last_quarter() -> None:
    taken = Curve(name="million", title="t", axis="requests", by_quarters=True)
    for number in range(1, 9):
        taken.note(number, {"post_per_s": 1.0, "record_mb": number})
    for number in range(9, 13):
        taken.note(number, {"get_per_s": 1.0, "record_mb": number})
    columns = [(head, values["record_mb"]) for head, values in taken.columns()]
    assert columns == [
        ("POSTs, first quarter", 1.5),
        ("POSTs, last quarter", 7.5),
        ("GETs, first quarter", 9),
        ("GETs, last quarter", 12),
    ]


def test_long_curve_is_shown_by_its_ends_and_some_points() -> None:
    some = thinned([Point(x=x, rounds=[]) for x in range(95)])
    assert len(some) == COLUMNS_MAX
    assert (some[0].x, some[-1].x) == (0, 94)


def test_table_for_the_documents_has_a_cell_for_each_point() -> None:
    taken = curve("connections", 1_000, 2_000)
    taken.commit, taken.taken_at, taken.seconds = "0123456789ab", "2026-11-24T12:00:00+00:00", 60
    assert as_markdown(taken).splitlines() == [
        "**By connections.** Commit 0123456789ab, 2026-11-24, 60 s.",
        "",
        "| connections | 1 | 2 |",
        "|---|---:|---:|",
        "| POST, throughput (/s) | 1,000 | 2,000 |",
    ]


def test_report_is_read_back_unchanged(tmp_path: Path) -> None:
    report = LongReport(machine={"cores": 2}, curves=[curve("processes", 5.0, 6.0)])
    write_long(report, tmp_path)
    assert read_long(tmp_path / "long.json") == report


def test_report_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.json").write_text(json.dumps({"schema": 1, "curves": []}))
    with pytest.raises(ValueError, match="of schema 1"):
        read_long(tmp_path / "long.json")


def test_curve_replaces_its_older_one_and_no_other() -> None:
    report = LongReport(curves=[curve("connections", 1.0), curve("million", 2.0)])
    assert report.keep(curve("million", 3.0), ORDER)
    assert report.keep(curve("stored", 4.0), ORDER)
    assert [(c.name, c.points[0].values["post_per_s"]) for c in report.curves] == [
        ("connections", 1.0),
        ("stored", 4.0),
        ("million", 3.0),
    ]


def test_partial_curve_does_not_replace_a_complete_one() -> None:
    report = LongReport(curves=[curve("stored", 1.0, 2.0)])
    assert not report.keep(curve("stored", 9.0, early="no disk"), ORDER)
    assert report.curve("stored").points[0].values == {"post_per_s": 1.0}


def test_partial_curve_is_kept_and_marked_if_it_is_the_only_one() -> None:
    report = LongReport()
    assert report.keep(curve("stored", 9.0, early="no disk"), ORDER)
    assert "It ended early: no disk" in as_markdown(report.curve("stored"))
    assert report.keep(curve("stored", 1.0), ORDER)
    assert report.curve("stored").ended_early == ""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a report that has the curve of connections; no stack can start."""

    def measure(_long: object, taken: Curve) -> None:
        taken.note(10_000, {"post_per_s": 1.0})
        raise NoFigure("the disk is full")

    monkeypatch.setitem(CURVES, "stored", (CURVES["stored"][0], measure))
    monkeypatch.setattr(long, "running_stack", lambda *_: NoStack())
    monkeypatch.setattr(long, "settings_of", lambda _: {"PostgreSQL fsync": "on"})
    write_long(LongReport(curves=[curve("connections", 1.0)]), tmp_path)
    return tmp_path


class NoStack:
    """In the place of a stack, for a curve that asks nothing of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End nothing."""


def test_failed_curve_keeps_its_points_and_the_other_curves(out: Path, tmp_path: Path) -> None:
    said: list[str] = []
    taken = take("stored", WHOLE_EXTENT, tmp_path / "stack", out, said.append)
    assert taken.ended_early == "the disk is full"
    report = read_long(out / "long.json")
    assert [(c.name, len(c.points)) for c in report.curves] == [("connections", 1), ("stored", 1)]
    assert report.curve("stored").ended_early == "the disk is full"
    assert report.machine["PostgreSQL fsync"] == "on"


def test_unreadable_older_report_does_not_stop_a_new_one(out: Path, tmp_path: Path) -> None:
    (out / "long.json").write_text('{"schema": 1}')
    said: list[str] = []
    take("stored", WHOLE_EXTENT, tmp_path / "stack", out, said.append)
    assert [c.name for c in read_long(out / "long.json").curves] == ["stored"]
    assert any("schema 1" in line for line in said)


def test_every_value_of_the_committed_report_has_a_label() -> None:
    report = read_long(REPORTS / "long.json")
    for each in report.curves:
        assert LABELS.keys() >= set(each.names)
        assert each.points
