"""The parsed expressions of the dashboards and alerts, and the metrics that they use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

INFRA = Path(__file__).parents[2] / "infra_pulumi"
# Grafana's own, put in before Prometheus sees them.
GRAFANA = {"$__rate_interval": "1m"}
SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One expression, and where it stands."""

    where: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A series that an expression selects: its name, and the labels that it is matched by."""

    name: str
    labels: frozenset[str]
    values: frozenset[tuple[str, str]]


def alerts() -> list[dict[str, Any]]:
    """Return all alert rules."""
    return [
        rule
        for file in sorted((INFRA / "alerts").glob("*.yaml"))
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    """Return all panels with a query, of all dashboards."""
    return [
        panel
        for file in sorted((INFRA / "dashboards").glob("*.json"))
        for panel in json.loads(file.read_text())["panels"]
        if panel["type"] != "row"
    ]


def expressions() -> list[Expression]:
    """Return every expression of every dashboard and alert, as Prometheus receives it."""
    found = [Expression(where=rule["alert"], text=rule["expr"]) for rule in alerts()]
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"]
            for variable, value in GRAFANA.items():
                text = text.replace(variable, value)
            found.append(Expression(where=panel["title"], text=text))
    return found


def asked(text: str) -> tuple[list[Asked], set[str]]:
    """Return what an expression selects, and the labels that it groups or matches by."""
    selected: list[Asked] = []
    grouped: set[str] = set()
    _walk(promql.parse(text), selected, grouped)
    return selected, grouped


def _walk(node: Any, selected: list[Asked], grouped: set[str]) -> None:
    match node:
        case promql.VectorSelector():
            assert node.name is not None
            matchers = node.matchers.matchers
            selected.append(
                Asked(
                    name=node.name,
                    labels=frozenset(each.name for each in matchers),
                    values=frozenset((each.name, each.value) for each in matchers),
                )
            )
        case promql.MatrixSelector():
            _walk(node.vector_selector, selected, grouped)
        case promql.AggregateExpr():
            grouped |= set(node.modifier.labels if node.modifier else [])
            _walk(node.expr, selected, grouped)
        case promql.Call():
            for argument in node.args:
                _walk(argument, selected, grouped)
        case promql.BinaryExpr():
            if node.modifier is not None and node.modifier.matching is not None:
                grouped |= set(node.modifier.matching.labels)
            _walk(node.lhs, selected, grouped)
            _walk(node.rhs, selected, grouped)
        case promql.ParenExpr() | promql.UnaryExpr():
            _walk(node.expr, selected, grouped)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise AssertionError(f"not known here: {type(node).__name__}")


def base(name: str) -> str:
    """Return the metric of a series: a histogram has several series."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
