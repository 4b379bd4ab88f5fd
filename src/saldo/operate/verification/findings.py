"""Findings: what is wrong with a stored row, and the bounds by which clocks may differ."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

# The databases' clocks may differ by so much; nothing is stamped later than this.
CLOCK_AHEAD_MAX = timedelta(seconds=60)
NO_EVENT = "the store has no such event"


# A row by the names of its columns: the database's, or one read from a file.
Row: TypeAlias = "Mapping[str, Any] | asyncpg.Record"


@dataclass(frozen=True, slots=True)
class Fault:
    """A stored value that is wrong.

    Of the kind "clock": events at a time that a wrong clock explains. They cannot be put right.
    """

    table: str
    column: str
    reason: str
    account_id: str | None = None
    position: int | None = None
    kind: Literal["wrong", "clock"] = "wrong"

    def text(self) -> str:
        """Return one line for a person."""
        where = self.account_id or ""
        if self.position is not None:
            where += f" position {self.position}"
        return f"{where or '-'}: {self.table}.{self.column}: {self.reason}"


@dataclass(slots=True)
class Counts:
    """What was walked, and what is worth knowing without being a fault."""

    accounts: int = 0
    events: int = 0
    lines: int = 0
    erased: int = 0
    lagging_accounts: int = 0
    lagging_positions: int = 0
    blocked_accounts: int = 0
    erasures_pending: int = 0

    def add(self, other: Counts) -> None:
        """Add another range's counts."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class FaultError(Exception):
    """A row is wrong."""

    def __init__(self, table: str, column: str, reason: str) -> None:
        super().__init__(f"{table}.{column}: {reason}")
        self._found = (table, column, reason)

    def fault(self, account_id: str, position: int | None) -> Fault:
        """Return the fault at a place in a stream."""
        return Fault(*self._found, account_id, position)


event_fault = partial(FaultError, "event")
line_fault = partial(FaultError, "statement")
balance_fault = partial(FaultError, "balance")


def compare(
    table: str, row: Row, expected: Mapping[str, object], says: str = "the events come to"
) -> None:
    """Raise FaultError for the first column that is not as expected."""
    for column, value in expected.items():
        if row[column] != value:
            raise FaultError(table, column, f"it is {shown(row[column])}, {says} {shown(value)}")


def shown(value: object) -> str:
    """Return a value as the report shows it."""
    if isinstance(value, bytes):
        return value.hex()[:16] + "..."
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value)
