"""One account's part of the read model: its balance, statement lines, reversal marks and days.

Pure: rows come in, Wrong is raised. Each is compared with the account's chain at the same position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from saldo.domain.events import SCHEMA_NEWEST, OverdraftLimitSet
from saldo.operate.verification.findings import CLOCK_AHEAD_MAX, Wrong, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime
    from uuid import UUID

    from saldo.domain.events import Event
    from saldo.operate.verification.chain import Chain
    from saldo.operate.verification.findings import Counts, Row

# The projector erases its copy by the record's second delivery, or by the next sweep.
ERASURE_PENDING_MAX = timedelta(minutes=10)
LINE_COLUMNS = (
    "event_id",
    "kind",
    "amount_minor",
    "currency",
    "balance_minor",
    "occurred_at",
    "recorded_at",
    "reverses",
    "hash",
)
_line_values = itemgetter(*LINE_COLUMNS)


@dataclass(slots=True)
class _Day:
    income_minor: int = 0
    expense_minor: int = 0
    transactions: int = 0


@dataclass(slots=True)
class Projection:
    """What the read model must hold of an account, as far as its chain was walked."""

    chain: Chain
    balance: Row | None
    counts: Counts
    now: datetime
    # Where the balance stands, and what the rows claim and must claim of reversals.
    projected: int = 0
    days: dict[date, _Day] = field(default_factory=dict)
    reversed_by: dict[UUID, UUID] = field(default_factory=dict)
    claimed: dict[UUID, tuple[int, UUID]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.projected = 0 if self.balance is None else self.balance["position"]

    def check(
        self,
        row: Row,
        fact: Event,
        private: dict[str, Any] | None,
        line: Row | None,
    ) -> None:
        """Check the line of the event that the chain has just taken in; raises Wrong."""
        if self.chain.position > self.projected:
            if line is not None:
                reason = f"the balance stands at {self.projected}"
                raise Wrong("statement", "position", reason)
            return
        if line is None:
            raise Wrong("statement", "position", "the line is missing")
        self.counts.lines += 1
        self._check_line(fact, line)
        if line["reversed_by"] is not None:
            self.claimed[fact.event_id] = (self.chain.position, line["reversed_by"])
        self._check_copy(row, private, line)
        if self.chain.position == self.projected and self.balance is not None:
            self._check_standing(self.balance)

    def finish(self, totals: Sequence[Row]) -> None:
        """Check what is stored of the account as a whole; raises Wrong."""
        self._check_balance()
        self._check_reversals()
        self._check_days(totals)

    def _check_line(self, fact: Event, line: Row) -> None:
        if isinstance(fact, OverdraftLimitSet):
            kind, amount_minor = "LIMIT", None
            occurred_at, reverses = fact.recorded_at, None
        else:
            kind, amount_minor = fact.kind.value, fact.amount_minor
            occurred_at, reverses = fact.occurred_at, fact.reverses
            day = self.days.setdefault(occurred_at.date(), _Day())
            day.transactions += 1
            if kind == "INCOME":
                day.income_minor += amount_minor
            else:
                day.expense_minor += amount_minor
            if reverses is not None:
                self.reversed_by[reverses] = fact.event_id
        # In the order of the columns that LINES selects.
        expected: tuple[object, ...] = (
            fact.event_id,
            kind,
            amount_minor,
            fact.currency,
            self.chain.balance_minor,
            occurred_at,
            fact.recorded_at,
            reverses,
            self.chain.hash,
        )
        found = _line_values(line)
        if found != expected:
            for column, is_, must in zip(LINE_COLUMNS, found, expected, strict=True):
                if is_ != must:
                    reason = f"it is {shown(is_)}, the event says {shown(must)}"
                    raise Wrong("statement", column, reason)

    def _check_copy(
        self,
        row: Row,
        private: dict[str, Any] | None,
        line: Row,
    ) -> None:
        description, metadata = line["description"], line["metadata"]
        if private is None:
            if description is None and metadata is None:
                return
            if row["erased_at"] < self.now - ERASURE_PENDING_MAX:
                column = "metadata" if description is None else "description"
                raise Wrong("statement", column, "the private part was erased")
            self.counts.erasures_pending += 1
            return
        if description != private.get("description"):
            raise Wrong("statement", "description", "it is not the private part's")
        if (None if metadata is None else msgspec.json.decode(metadata)) != (
            private.get("metadata") or None
        ):
            raise Wrong("statement", "metadata", "it is not the private part's")

    def _check_standing(self, balance: Row) -> None:
        """The balance, at the position where it stands."""
        expected = {
            "hash": self.chain.hash,
            "balance_minor": self.chain.balance_minor,
            "currency": self.chain.currency,
            "recorded_at": self.chain.recorded_at,
        }
        for column, value in expected.items():
            if balance[column] != value:
                reason = f"it is {shown(balance[column])}, the events come to {shown(value)}"
                raise Wrong("balance", column, reason)

    def _check_balance(self) -> None:
        balance = self.balance
        if self.projected > self.chain.position:
            reason = f"it is {self.projected}, the store ends at {self.chain.position}"
            raise Wrong("balance", "position", reason)
        if balance is None:
            if self.chain.position:
                self.counts.lagging_accounts += 1
                self.counts.lagging_positions += self.chain.position
            return
        blocked = [
            name
            for name in ("blocked_at", "blocked_reason", "blocked_schema")
            if balance[name] is not None
        ]
        if blocked:
            self._check_block(balance, blocked)
            self.counts.blocked_accounts += 1
        elif self.projected == 0:
            raise Wrong("balance", "position", "a balance at position 0")
        elif self.projected < self.chain.position:
            self.counts.lagging_accounts += 1
            self.counts.lagging_positions += self.chain.position - self.projected

    def _check_block(self, balance: Row, blocked: list[str]) -> None:
        if len(blocked) < 3:  # noqa: PLR2004 - the three columns
            raise Wrong("balance", blocked[0], "a block has a time, a reason and a schema")
        if not 1 <= balance["blocked_schema"] <= SCHEMA_NEWEST:
            reason = f"this version knows schemas up to {SCHEMA_NEWEST}"
            raise Wrong("balance", "blocked_schema", reason)
        if balance["blocked_at"] > self.now + CLOCK_AHEAD_MAX:
            raise Wrong("balance", "blocked_at", "it is in the future")
        if balance["blocked_schema"] < SCHEMA_NEWEST:
            return  # the next delivery tries again
        if self.chain.unreadable is None:
            said = balance["blocked_reason"]
            reason = f"the account is suspended, though its events can be read: {said}. Redrive it"
            raise Wrong("balance", "blocked_reason", reason)
        if balance["blocked_reason"] != self.chain.unreadable:
            reason = f"the event at which the account stands says: {self.chain.unreadable}"
            raise Wrong("balance", "blocked_reason", reason)

    def _check_reversals(self) -> None:
        for event_id, (position, reversal) in self.claimed.items():
            if self.reversed_by.get(event_id) != reversal:
                reason = f"no event that is projected reverses it (position {position})"
                raise Wrong("statement", "reversed_by", reason)
        for event_id in self.reversed_by:
            if event_id not in self.claimed:
                reason = f"the line of {event_id} does not say that it was reversed"
                raise Wrong("statement", "reversed_by", reason)

    def _check_days(self, totals: Sequence[Row]) -> None:
        found = {row["day"]: row for row in totals}
        for day in sorted(found.keys() | self.days.keys()):
            row, expected = found.get(day), self.days.get(day)
            if row is None:
                raise Wrong("daily_total", "day", f"the row of {day} is missing")
            if expected is None:
                raise Wrong("daily_total", "day", f"nothing occurred on {day}")
            for column in ("income_minor", "expense_minor", "transactions"):
                if row[column] != getattr(expected, column):
                    reason = (
                        f"on {day} it is {row[column]}, "
                        f"the events come to {getattr(expected, column)}"
                    )
                    raise Wrong("daily_total", column, reason)
