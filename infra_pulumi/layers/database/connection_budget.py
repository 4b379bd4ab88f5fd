"""How many connections the functions may open, against what the database admits.

Pure arithmetic over the configuration, so that a stack that could run the database out of
connections fails in the preview and not on the first busy day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra_pulumi.parts import FUNCTIONS

if TYPE_CHECKING:
    from infra_pulumi.layers.functions.scaling import FunctionsConfig

# While a new revision takes over, the old one's pods still drain: both may be at podsMax.
REVISIONS_AT_ONCE = 2
# The migrations Job, a rebuild or verification, and an operator with psql.
OPERATORS = 12
# superuser_reserved_connections (3) and rds.rds_superuser_reserved_connections (2), plus RDS's own.
RESERVED = 8


def connections_needed(functions: FunctionsConfig) -> int:
    """Return the most connections that all functions can hold at once: pods x pools x size."""
    return REVISIONS_AT_ONCE * sum(
        functions.of(f.name).pods_max * len(f.sides) * functions.of(f.name).pool_size
        for f in FUNCTIONS
    )


def connections_usable(connections_max: int) -> int:
    """Return what ``max_connections`` leaves for the functions."""
    return connections_max - RESERVED - OPERATORS
