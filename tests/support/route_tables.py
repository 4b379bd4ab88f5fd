"""The route and error tables of the functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saldo.project import routes as project
from saldo.query import routes as query
from saldo.record import routes as record

if TYPE_CHECKING:
    from saldo.serve.server import FunctionApp


def apps() -> list[FunctionApp[Any, Any]]:
    """Return the two functions that serve callers."""
    return [record.app, query.app]


def projector_statuses() -> dict[type[Exception], int]:
    """Return the status of each error of the projector."""
    return {error: rule.status for error, rule in project.RULES.items()}
