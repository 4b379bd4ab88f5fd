"""The evaluation of measurements: ratios, verdicts, shares."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from benchmarks.figures import BY_KEY, FIGURES, Round, Row
from benchmarks.open_loop import percentile_ms
from benchmarks.placement import Placement
from benchmarks.report import Report, number, read_report, to_json
from benchmarks.shares import NAMED, frame_of, shares_of
from benchmarks.wrk import NoFigure

if TYPE_CHECKING:
    from pathlib import Path


def row(key: str, *ratios: float) -> Row:
    """Return a row whose limit is 10 in every round, or that has none."""
    figure = BY_KEY[key]
    limit = 10.0 if figure.limit else None
    return Row(
        figure=figure,
        rounds=[Round(measured=each * (limit or 1), limit=limit) for each in ratios],
    )


def report_of(*rows: Row) -> Report:
    """Return a report of these rows."""
    return Report(
        taken_at="2026-11-24T12:00:00+00:00",
        commit="0123456789ab",
        machine={"cores": 2},
        effort={"rounds": 3},
        rows=list(rows),
    )


def test_row_is_judged_by_the_median_ratio_of_its_rounds() -> None:
    taken = row("post_cpu", 1.5, 9.0, 1.6)
    assert (taken.median, taken.low, taken.high) == pytest.approx((1.6, 1.5, 9.0))
    assert taken.met


@pytest.mark.parametrize(
    ("key", "ratio", "met"),
    [
        ("post_cpu", 1.71, False),
        ("post_hot", 0.89, False),
        ("post_hot", 0.91, True),
        ("lag_p50", 20.1, False),
        ("lag_p50", 19.9, True),
    ],
)
def test_bound_is_a_maximum_or_minimum_as_the_row_says(
    key: str, ratio: float, *, met: bool
) -> None:
    assert row(key, ratio).met is met


def test_row_keys_are_unique_and_every_share_has_a_row() -> None:
    assert len(BY_KEY) == len(FIGURES)
    assert BY_KEY.keys() >= NAMED.keys()


def test_report_is_read_back_unchanged(tmp_path: Path) -> None:
    report = report_of(row("post_cpu", 1.5, 2.5), row("lag_p99", 80.0))
    file = tmp_path / "bench.json"
    file.write_text(to_json(report))
    assert asdict(read_report(file)) == asdict(report)


def frame(key: str) -> str:
    """Return a frame of a function counted for a share, as py-spy writes it."""
    file, name = min(NAMED[key])
    return f"{name} ({file}:7)"


def test_share_counts_samples_with_the_function_on_the_stack() -> None:
    other = "main (/src/main.py:1)"
    shares = shares_of(
        [
            f"{other};{frame('share_auth')};leaf (/lib/jwt.py:3) 20",
            f"{other};{frame('share_chain')} 5",
            f"{other};start (/lib/opentelemetry/sdk/trace.py:9) 2",
            f"{other} 73",
        ]
    )
    assert shares == {
        "share_idempotency": 0.0,
        "share_chain": 5.0,
        "share_auth": 20.0,
        "share_tracing": 2.0,
    }


def test_same_function_name_in_another_file_is_not_counted() -> None:
    name = frame("share_auth").partition(" ")[0]
    assert shares_of([f"{name} (/elsewhere.py:1) 50"])["share_auth"] == 0.0


def test_profile_of_too_few_samples_is_no_figure() -> None:
    with pytest.raises(NoFigure, match="samples"):
        shares_of(["main (/src/main.py:1) 3"])


def test_frame_of_a_method_is_named_without_its_class() -> None:
    assert frame_of("Keys.get (/a b/auth.py:12)") == ("/a b/auth.py", "get")


def test_percentiles_are_of_the_sorted_samples() -> None:
    assert percentile_ms([0.001 * n for n in range(101, 0, -1)], 50) == pytest.approx(51.0)
    assert percentile_ms([], 99) == 0.0


def test_load_generator_avoids_the_core_of_the_function() -> None:
    two = Placement(function=frozenset({0}), load=frozenset({1}), rest=frozenset({1}))
    one = Placement(function=frozenset({0}), load=frozenset({0}), rest=frozenset({0}))
    assert two.pinned
    assert not one.pinned
    assert one.words("wrk", "-t1") == ["wrk", "-t1"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.7, "x", "1.70 x"),
        (1234.5, "/s", "1,234/s"),
        (0.25, "s", "0.25 s"),
        (99.6, "us", "99.6 us"),
    ],
)
def test_numbers_are_rounded_for_display(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text
