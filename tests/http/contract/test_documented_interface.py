"""The tables of docs/http-api.md, compared with the tables in the code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from local.services import ROOT
from saldo.serve.http.problems import HTTP_RULES
from tests.http.contract.test_openapi import operations, resolved
from tests.support.route_tables import apps, projector_statuses

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs" / "http-api.md"


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def words(cell: str) -> list[str]:
    """Return the words in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_route_is_listed_with_its_scope() -> None:
    listed = {
        (row[0], route): (words(row[2]) or ["none"])[0]
        for row in table("Routes")
        for route in words(row[1])
    }
    described = {}
    for app in apps():
        for method, path, operation in operations(app.name):
            route = f"{method} {re.sub(r'{[^}]+}', '{}', path)}"
            described[app.name, route] = operation["security"][0]["bearer"][0]
    assert described.keys() == {
        (app.name, f"{route.method} {route.path}") for app in apps() for route in app.router.routes
    }
    assert listed.items() >= described.items()


def test_every_query_parameter_is_listed() -> None:
    listed = {
        (route, row[1].strip("`")) for row in table("Query parameters") for route in words(row[0])
    }
    assert listed == {
        (f"{route.method} {route.path}", name)
        for app in apps()
        for route in app.router.routes
        for name in route.query
    }


def described_headers(kind: str) -> Iterator[str]:
    for app in apps():
        for _, _, operation in operations(app.name):
            if kind == "request":
                for each in operation["parameters"]:
                    parameter = resolved(app.name, each)
                    if parameter["in"] == "header":
                        yield parameter["name"]
            else:
                for each in operation["responses"].values():
                    yield from resolved(app.name, each).get("headers", {})


@pytest.mark.parametrize("kind", ["request", "response"])
def test_every_header_is_listed(kind: str) -> None:
    listed = {name for row in table(f"{kind.title()} headers") for name in words(row[0])}
    assert listed >= set(described_headers(kind))


def test_every_status_is_listed() -> None:
    listed = {int(row[0]) for row in table("Statuses")}
    described = {
        int(status)
        for app in apps()
        for _, _, operation in operations(app.name)
        for status in operation["responses"]
    }
    own = {rule.status for app in apps() for rule in (*app.router.rules.values(), *HTTP_RULES)}
    assert listed == described | own | set(projector_statuses().values())


def test_every_problem_is_listed_with_its_status() -> None:
    listed = {(words(row[0])[0], int(row[1])) for row in table("Problems")}
    assert listed == {
        (rule.name, rule.status)
        for app in apps()
        for rule in (*app.router.rules.values(), *HTTP_RULES)
    }


def test_every_row_names_an_existing_test() -> None:
    headings = re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)
    rows = [row for heading in headings for row in table(heading)]
    assert len(rows) > 90
    for row in rows:
        file, name = words(row[-1])[-1].split("::")
        text = next((ROOT / "tests" / "http").rglob(file)).read_text()
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), row


def test_projector_statuses_match_the_retry_policy() -> None:
    """Of the statuses that KafkaSource judges by: tried again, or straight to the dead letters."""
    for error, status in projector_statuses().items():
        tried_again = status >= 500 or status in {404, 408, 409, 429}
        given_up = {"BadDelivery", "GivenUp", "Unauthenticated", "Forbidden"}
        assert tried_again == (error.__name__ not in given_up)
