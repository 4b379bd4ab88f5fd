"""Metrics: the counted values, in Prometheus' format."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from saldo.serve.telemetry import metrics
from saldo.serve.telemetry.metrics import ALL, INSTRUMENTS, Counter, Definition, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def instruments() -> Iterator[list[Counter | Gauge | Histogram]]:
    """Yield a list for the test's own metrics; restore those of the functions afterwards."""
    kept = list(INSTRUMENTS)
    INSTRUMENTS.clear()
    yield INSTRUMENTS
    INSTRUMENTS[:] = kept


def told(function: str = "get_balance") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of the text, as Prometheus' own client reads it."""
    text = metrics.prometheus_text(function).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def named(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted({"function": "get_balance", **labels}.items()))


@pytest.mark.usefixtures("instruments")
def test_a_counter_is_exposed_per_combination_of_labels() -> None:
    asked = Counter("asked_total", "Questions.", ("who", "status"))
    asked.add(("ana", 200))
    asked.add(("ana", 200), 2)
    asked.add(("bo", 500))
    assert told() == {
        named("asked_total", who="ana", status="200"): 3,
        named("asked_total", who="bo", status="500"): 1,
    }


@pytest.mark.usefixtures("instruments")
def test_a_counter_without_labels_is_exposed_from_the_start() -> None:
    """A rate needs the zero before the first."""
    Counter("asked_total", "Questions.")
    assert told() == {named("asked_total"): 0}


@pytest.mark.usefixtures("instruments")
def test_an_unset_gauge_is_not_exposed() -> None:
    depth: list[float | None] = [None]
    Gauge("depth", "How deep.").observe_one(lambda: depth[0])
    assert told() == {}
    depth[0] = 4.5
    assert told() == {named("depth"): 4.5}


@pytest.mark.usefixtures("instruments")
def test_a_metric_is_exposed_only_by_its_functions() -> None:
    Counter("recorded_total", "Events.", (), ("record_transaction",))
    assert told("get_balance") == {}
    assert [name for name, _ in told("record_transaction")] == ["recorded_total"]


@given(st.lists(st.floats(0, 20)))
def test_a_histogram_counts_a_value_in_all_higher_buckets(
    values: list[float],
) -> None:
    kept = list(INSTRUMENTS)
    INSTRUMENTS.clear()
    try:
        histogram = Histogram("took_seconds", "Time.", (0.5, 1, 10))
        for value in values:
            histogram.record(value)
        samples = told()
    finally:
        INSTRUMENTS[:] = kept
    for bound in ("0.5", "1.0", "10.0", "+Inf"):
        expected = sum(value <= float(bound) for value in values)
        assert samples[named("took_seconds_bucket", le=bound)] == expected
    assert samples[named("took_seconds_count")] == len(values)
    assert samples[named("took_seconds_sum")] == pytest.approx(sum(values))


DEFINITIONS = [each.definition for each in INSTRUMENTS]


@pytest.mark.parametrize("metric", DEFINITIONS, ids=lambda metric: metric.name)
def test_metric_names_follow_the_prometheus_rules(metric: Definition) -> None:
    assert re.fullmatch(r"saldo_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.meaning.endswith(".")
    assert set(metric.functions) <= set(ALL)
    assert list(metric.bounds) == sorted(metric.bounds)
    # Nothing of a person: no label is an account's, a caller's or a transaction's.
    known = {"method", "route", "status", "problem", "batch", "database", "state", "sweep"}
    assert set(metric.labels) <= known | {"outcome"}


def test_metric_names_are_unique() -> None:
    assert len({metric.name for metric in DEFINITIONS}) == len(DEFINITIONS)
