"""Dashboards, alerts, runbook and table of metrics: they name exactly what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from local.tasks import metrics_page
from local.tasks.metrics_page import DEFINITIONS, FUNCTIONS
from tests.support.promql import Expression, alerts, asked, base, expressions, panels

ROOT = Path(__file__).parents[3]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
SEVERITIES = {"page", "ticket"}

SECTION = re.compile(r"^## (Saldo\w+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)

EACH = pytest.mark.parametrize("expression", expressions(), ids=lambda e: f"{e.where}: {e.text}")


@EACH
def test_an_expression_uses_defined_metrics_and_labels(expression: Expression) -> None:
    selected, grouped = asked(expression.text)
    assert selected
    labels: set[str] = {"function"}
    for each in selected:
        metric = DEFINITIONS[base(each.name)]
        # A histogram is asked for by its buckets, sums or counts, anything else by its own name.
        assert (each.name != metric.name) == (metric.kind == "histogram")
        has = {"function", *metric.labels} | ({"le"} if each.name.endswith("_bucket") else set())
        assert each.labels <= has
        labels |= has
    assert grouped <= labels


@EACH
def test_a_label_is_compared_with_a_possible_value(expression: Expression) -> None:
    selected, _ = asked(expression.text)
    for each in selected:
        metric = DEFINITIONS[base(each.name)]
        for label, value in each.values:
            if label == "function":
                assert value in FUNCTIONS[metric.name]
            elif label not in {"status", "route"}:
                # The definition's meaning lists the values that matter.
                assert set(value.split("|")) <= set(re.findall(r"`([a-z-]+)`", metric.meaning))


def test_a_counter_is_only_used_as_a_rate() -> None:
    """Its height says when the process began."""
    for expression in expressions():
        for name in re.findall(r"saldo_\w+_total", expression.text):
            metric = re.escape(name)
            grown = re.findall(rf"(?:rate|increase)\({metric}(?:{{[^}}]*}})?\[", expression.text)
            assert len(grown) == len(re.findall(metric, expression.text)), expression


def test_no_two_panels_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_alert_has_a_severity_and_a_runbook() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in SEVERITIES
        assert {"summary", "description", "runbook"} <= alert["annotations"].keys()
        anchor = alert["alert"].lower()
        assert alert["annotations"]["runbook"] == f"docs/runbook.md#{anchor}"


def test_the_runbook_covers_exactly_the_alerts() -> None:
    sections = dict(SECTION.findall(RUNBOOK))
    assert set(sections) == {alert["alert"] for alert in alerts()}
    for name, text in sections.items():
        for answer in ("**It means**", "**Look at**", "**Do**"):
            assert answer in text, (name, answer)


def test_panels_name_only_existing_alerts() -> None:
    names = {alert["alert"] for alert in alerts()}
    for panel in panels():
        assert set(re.findall(r"Saldo[A-Z]\w+", panel["description"])) <= names


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {base(each.name) for e in expressions() for each in asked(e.text)[0]}
    assert set(DEFINITIONS) - shown == set()


def test_the_table_of_metrics_is_current() -> None:
    """`python -m local.tasks.metrics_page` makes it."""
    assert metrics_page.FILE.read_text() == metrics_page.page()
