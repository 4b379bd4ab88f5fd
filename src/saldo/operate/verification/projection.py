"""One account's part of the read model: its balance, statement lines, reversal marks and days.

It does no I/O. Each row is compared with the account's chain at the same position.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from saldo.domain.events import SCHEMA_NEWEST, OverdraftLimitSet
from saldo.operate.verification.findings import CLOCK_AHEAD_MAX, FaultError, compare

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
BLOCKED = ("blocked_at", "blocked_reason", "blocked_schema")
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
        self, row: Row, fact: Event, private: dict[str, Any] | None, line: Row | None
    ) -> None:
        """Check the line of the event that the chain has just taken in; raise FaultError."""
        if self.chain.position > self.projected:
            if line is not None:
                raise FaultError("statement", "position", f"the balance is at {self.projected}")
            return
        if line is None:
            raise FaultError("statement", "position", "the line is missing")
        self.counts.lines += 1
        self._check_line(fact, line)
        if line["reversed_by"] is not None:
            self.claimed[fact.event_id] = (self.chain.position, line["reversed_by"])
        self._check_copy(row, private, line)
        if self.chain.position == self.projected and self.balance is not None:
            standing = {
                "hash": self.chain.hash,
                "balance_minor": self.chain.balance_minor,
                "currency": self.chain.currency,
                "recorded_at": self.chain.recorded_at,
            }
            compare("balance", self.balance, standing)

    def finish(self, totals: Sequence[Row]) -> None:
        """Check what is stored of the account as a whole; raise FaultError."""
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
        # In the order of LINE_COLUMNS.
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
        if _line_values(line) != expected:
            columns = dict(zip(LINE_COLUMNS, expected, strict=True))
            compare("statement", line, columns, "the event says")

    def _check_copy(self, row: Row, private: dict[str, Any] | None, line: Row) -> None:
        description, metadata = line["description"], line["metadata"]
        if private is None:
            if description is None and metadata is None:
                return
            if row["erased_at"] < self.now - ERASURE_PENDING_MAX:
                column = "metadata" if description is None else "description"
                raise FaultError("statement", column, "the private part was erased")
            self.counts.erasures_pending += 1
            return
        if description != private.get("description"):
            raise FaultError("statement", "description", "it is not the private part's")
        members = None if metadata is None else msgspec.json.decode(metadata)
        if members != (private.get("metadata") or None):
            raise FaultError("statement", "metadata", "it is not the private part's")

    def _check_balance(self) -> None:
        balance, lag = self.balance, self.chain.position - self.projected
        if lag < 0:
            raise FaultError(
                "balance",
                "position",
                f"it is {self.projected}, the store ends at {self.chain.position}",
            )
        blocked = [] if balance is None else [n for n in BLOCKED if balance[n] is not None]
        if balance is not None and blocked:
            self._check_block(balance, blocked)
            self.counts.blocked_accounts += 1
        elif balance is not None and self.projected == 0:
            raise FaultError("balance", "position", "a balance at position 0")
        elif lag:
            self.counts.lagging_accounts += 1
            self.counts.lagging_positions += lag

    def _check_block(self, balance: Row, blocked: list[str]) -> None:
        if len(blocked) < len(BLOCKED):
            raise FaultError("balance", blocked[0], "a block has a time, a reason and a schema")
        schema, reason = balance["blocked_schema"], balance["blocked_reason"]
        if not 1 <= schema <= SCHEMA_NEWEST:
            raise FaultError(
                "balance", "blocked_schema", f"this version knows schemas up to {SCHEMA_NEWEST}"
            )
        if balance["blocked_at"] > self.now + CLOCK_AHEAD_MAX:
            raise FaultError("balance", "blocked_at", "it is in the future")
        if schema < SCHEMA_NEWEST:
            return  # the next delivery tries again
        if self.chain.unreadable is None:
            raise FaultError(
                "balance",
                "blocked_reason",
                f"the account is suspended, though its events can be read: {reason}. Redrive it",
            )
        if reason != self.chain.unreadable:
            raise FaultError(
                "balance",
                "blocked_reason",
                f"the event at which the account stands says: {self.chain.unreadable}",
            )

    def _check_reversals(self) -> None:
        for event_id, (position, reversal) in self.claimed.items():
            if self.reversed_by.get(event_id) != reversal:
                raise FaultError(
                    "statement",
                    "reversed_by",
                    f"no event that is projected reverses it (position {position})",
                )
        for event_id in self.reversed_by:
            if event_id not in self.claimed:
                raise FaultError(
                    "statement",
                    "reversed_by",
                    f"the line of {event_id} does not say that it was reversed",
                )

    def _check_days(self, totals: Sequence[Row]) -> None:
        found = {row["day"]: row for row in totals}
        for day in sorted(found.keys() | self.days.keys()):
            row, expected = found.get(day), self.days.get(day)
            if row is None:
                raise FaultError("daily_total", "day", f"the row of {day} is missing")
            if expected is None:
                raise FaultError("daily_total", "day", f"nothing occurred on {day}")
            compare("daily_total", row, asdict(expected), f"the events of {day} come to")
