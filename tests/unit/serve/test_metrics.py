"""Metrics: what is counted is what is exposed, in the format that Prometheus reads."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from local.tasks.metrics_page import DEFINITIONS, METRICS
from saldo.serve.telemetry.metrics import Definition, Metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def exposed(metrics: Metrics) -> Samples:
    """Every sample that begins with ``test_``, as Prometheus' own client reads the text."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name.startswith("test_")
    }


def named(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted({"function": "get_balance", **labels}.items()))


def test_a_counter_has_a_series_for_each_combination_of_labels() -> None:
    metrics = Metrics("get_balance")
    asked = metrics.counter("test_asked_total", "Questions.", "who", "status")
    asked.labels("ana", 200).inc()
    asked.labels("ana", 200).inc(2)
    asked.labels("bo", 500).inc()
    assert exposed(metrics) == {
        named("test_asked_total", who="ana", status="200"): 3,
        named("test_asked_total", who="bo", status="500"): 1,
    }


def test_a_counter_without_labels_is_exposed_from_the_start() -> None:
    """A rate needs the zero before the first."""
    metrics = Metrics("get_balance")
    metrics.counter("test_asked_total", "Questions.")
    assert exposed(metrics) == {named("test_asked_total"): 0}


def test_a_gauge_has_no_series_while_its_value_is_unknown() -> None:
    metrics = Metrics("get_balance")
    depth: list[float | None] = [None]
    metrics.gauge("test_depth", "How deep.").observe(lambda: depth[0])
    assert exposed(metrics) == {}
    depth[0] = 4.5
    assert exposed(metrics) == {named("test_depth"): 4.5}


def test_a_counter_kept_elsewhere_is_read_at_each_scrape() -> None:
    metrics = Metrics("get_balance")
    counts = {"sent": 0, "failed": 0}
    records = metrics.observed_counter("test_records_total", "Records.", "outcome")
    records.observe(lambda: counts["sent"], "sent")
    records.observe(lambda: counts["failed"], "failed")
    counts["sent"] = 7
    assert exposed(metrics) == {
        named("test_records_total", outcome="sent"): 7,
        named("test_records_total", outcome="failed"): 0,
    }


def test_two_functions_of_one_process_share_no_metric() -> None:
    """Not even those that every function has."""
    one, other = Metrics("get_balance"), Metrics("get_balance")
    one.refusals.labels("too-busy").inc()
    assert b'problem="too-busy"' in one.text()
    assert b'problem="too-busy"' not in other.text()


@given(st.lists(st.floats(0, 20)))
def test_a_histogram_counts_each_value_in_all_buckets_above_it(values: list[float]) -> None:
    metrics = Metrics("get_balance")
    histogram = metrics.histogram("test_took_seconds", "Time.", (0.5, 1, 10))
    for value in values:
        histogram.observe(value)
    samples = exposed(metrics)
    for bound in ("0.5", "1.0", "10.0", "+Inf"):
        expected = sum(value <= float(bound) for value in values)
        assert samples[named("test_took_seconds_bucket", le=bound)] == expected
    assert samples[named("test_took_seconds_count")] == len(values)
    assert samples[named("test_took_seconds_sum")] == pytest.approx(sum(values))
    # Nothing else: no time at which the series began.
    assert len(samples) == len(("0.5", "1.0", "10.0", "+Inf")) + 2


@pytest.mark.parametrize("metric", DEFINITIONS.values(), ids=lambda metric: metric.name)
def test_each_metric_is_named_as_prometheus_advises(metric: Definition) -> None:
    assert re.fullmatch(r"saldo_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.meaning.endswith(".")
    assert list(metric.buckets) == sorted(metric.buckets)
    # Nothing of a person: no label is an account's, a caller's or a transaction's.
    known = {"method", "route", "status", "problem", "batch", "database", "state", "sweep"}
    assert set(metric.labels) <= known | {"outcome"}


@pytest.mark.parametrize("function", METRICS)
def test_no_two_metrics_of_a_function_have_one_name(function: str) -> None:
    names = [metric.name for metric in METRICS[function].definitions]
    assert len(set(names)) == len(names)


def test_a_metric_of_two_functions_is_the_same_metric() -> None:
    for metrics in METRICS.values():
        for metric in metrics.definitions:
            assert metric == DEFINITIONS[metric.name]
