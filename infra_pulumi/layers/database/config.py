"""What every kind of PostgreSQL has in a stack file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra_pulumi.layers.database.connection_budget import connections_needed, connections_usable
from infra_pulumi.section import Problem, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class DatabaseConfig(Section):
    """The event store and the read model."""

    connections_max: int

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        functions = stack.get("functions")
        needed = 0 if functions is None else connections_needed(functions)
        usable = connections_usable(self.connections_max)
        if needed > usable:
            leave = f"{self.connections_max} leave {usable} for the functions, which may open"
            yield "connectionsMax", f"{leave} {needed}: raise it, or lower podsMax or poolSize"
