"""PostgreSQL in a stack file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from infra_pulumi.layers.database.connection_budget import connections_needed, connections_usable
from infra_pulumi.section import Problem, Section, between, only_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


BACKUP_DAYS_MAX = 35


class DatabaseConfig(Section):
    """PostgreSQL: RDS in the shape aws, one pod in the shape cluster."""

    storage_gib: int
    connections_max: int
    # RDS only.
    instance_class: str | None = None
    storage_gib_max: int | None = None
    multi_az: bool | None = None
    backup_days: Annotated[int, between(1, BACKUP_DAYS_MAX)] | None = None

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        of_rds = {
            "instanceClass": self.instance_class,
            "storageGibMax": self.storage_gib_max,
            "multiAz": self.multi_az,
            "backupDays": self.backup_days,
        }
        yield from only_in("aws", stack, of_rds)
        if self.storage_gib_max is not None and self.storage_gib_max <= self.storage_gib:
            yield "storageGibMax", "must be above storageGib, to grow into"
        if stack.get("protected") and self.multi_az is False:
            yield "multiAz", "must be true in a protected stack"
        functions = stack.get("functions")
        needed = 0 if functions is None else connections_needed(functions)
        usable = connections_usable(self.connections_max)
        if needed > usable:
            leave = f"{self.connections_max} leave {usable} for the functions, which may open"
            yield "connectionsMax", f"{leave} {needed}: raise it, or lower podsMax or poolSize"
