"""One account's part of the read model: its balance, statement lines, reversal marks and days.

It does no I/O. Each row is compared with the account's chain at the same position.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from saldo.domain.events import SCHEMA_NEWEST, OverdraftLimitSet
from saldo.operate.verification.findings import (
    CLOCK_AHEAD_MAX,
    FaultError,
    balance_fault,
    compare,
    line_fault,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime
    from uuid import UUID

    from saldo.domain.events import Event
    from saldo.operate.verification.chain import Chain
    from saldo.operate.verification.findings import Counts, Row

# The projector erases its copy by the record's second delivery, or by the next sweep.
ERASURE_PENDING_MAX = timedelta(minutes=10)
BLOCKED = ("blocked_at", "blocked_reason", "blocked_schema")


class Projection:
    """What the read model must hold of an account, as far as its chain was checked."""

    def __init__(self, chain: Chain, balance: Row | None, counts: Counts, now: datetime) -> None:
        self._chain = chain
        self._balance = balance
        self._counts = counts
        self._now = now
        self._projected: int = 0 if balance is None else balance["position"]
        self._days: dict[date, dict[str, int]] = {}
        # What must be reversed by which event, and what the lines say of it, with their positions.
        self._reversed_by: dict[UUID, UUID] = {}
        self._claimed: dict[UUID, tuple[int, UUID]] = {}

    def check(
        self, row: Row, fact: Event, private: dict[str, Any] | None, line: Row | None
    ) -> None:
        """Check the line of the event that the chain has just taken in; raise FaultError."""
        account = self._chain.account
        if account.position > self._projected:
            if line is not None:
                raise line_fault("position", f"the balance is at {self._projected}")
            return
        if line is None:
            raise line_fault("position", "the line is missing")
        self._counts.lines += 1
        # The balance after the event: what the line and, at its end, the balance's row must have.
        standing: dict[str, object] = {
            "currency": account.currency,
            "balance_minor": account.balance_minor,
            "recorded_at": account.recorded_at,
            "hash": account.hash,
        }
        compare("statement", line, self._expected(fact) | standing, "the event says")
        if line["reversed_by"] is not None:
            self._claimed[fact.event_id] = (account.position, line["reversed_by"])
        self._check_copy(row, private, line)
        if account.position == self._projected and self._balance is not None:
            compare("balance", self._balance, standing)

    def finish(self, totals: Sequence[Row]) -> None:
        """Check what is stored of the account as a whole; raise FaultError."""
        self._check_balance()
        self._check_reversals()
        found = {row["day"]: row for row in totals}
        for day in sorted(found.keys() | self._days.keys()):
            if day not in found:
                raise FaultError("daily_total", "day", f"the row of {day} is missing")
            if day not in self._days:
                raise FaultError("daily_total", "day", f"nothing occurred on {day}")
            compare("daily_total", found[day], self._days[day], f"the events of {day} come to")

    def _expected(self, fact: Event) -> dict[str, object]:
        """Return what the line of `fact` must have of its own, and add it to its day."""
        own = {"event_id": fact.event_id}
        if isinstance(fact, OverdraftLimitSet):
            limit = {"kind": "LIMIT", "amount_minor": None, "reverses": None}
            return own | limit | {"occurred_at": fact.recorded_at}
        new = {"income_minor": 0, "expense_minor": 0, "transactions": 0}
        day = self._days.setdefault(fact.occurred_at.date(), new)
        day[f"{fact.kind.value.lower()}_minor"] += fact.amount_minor
        day["transactions"] += 1
        if fact.reverses is not None:
            self._reversed_by[fact.reverses] = fact.event_id
        same = ("amount_minor", "occurred_at", "reverses")
        return own | {"kind": fact.kind.value} | {name: getattr(fact, name) for name in same}

    def _check_copy(self, row: Row, private: dict[str, Any] | None, line: Row) -> None:
        description, metadata = line["description"], line["metadata"]
        if private is not None:
            members = None if metadata is None else msgspec.json.decode(metadata)
            if description != private.get("description"):
                raise line_fault("description", "it is not the private part's")
            if members != (private.get("metadata") or None):
                raise line_fault("metadata", "it is not the private part's")
        elif description is not None or metadata is not None:
            if row["erased_at"] < self._now - ERASURE_PENDING_MAX:
                column = "metadata" if description is None else "description"
                raise line_fault(column, "the private part was erased")
            self._counts.erasures_pending += 1

    def _check_balance(self) -> None:
        position, balance = self._chain.account.position, self._balance
        lag = position - self._projected
        if lag < 0:
            raise balance_fault(
                "position", f"it is {self._projected}, the store ends at {position}"
            )
        blocked = [] if balance is None else [n for n in BLOCKED if balance[n] is not None]
        if balance is not None and blocked:
            self._check_block(balance, blocked)
            self._counts.blocked_accounts += 1
        elif balance is not None and self._projected == 0:
            raise balance_fault("position", "a balance at position 0")
        elif lag:
            self._counts.lagging_accounts += 1
            self._counts.lagging_positions += lag

    def _check_block(self, balance: Row, blocked: list[str]) -> None:
        if len(blocked) < len(BLOCKED):
            raise balance_fault(blocked[0], "a block has a time, a reason and a schema")
        schema, reason = balance["blocked_schema"], balance["blocked_reason"]
        unreadable = self._chain.unreadable
        if not 1 <= schema <= SCHEMA_NEWEST:
            known = f"this version knows schemas up to {SCHEMA_NEWEST}"
            raise balance_fault("blocked_schema", known)
        if balance["blocked_at"] > self._now + CLOCK_AHEAD_MAX:
            raise balance_fault("blocked_at", "it is in the future")
        if schema == SCHEMA_NEWEST and unreadable is None:
            readable = "the account is suspended, though its events can be read"
            raise balance_fault("blocked_reason", f"{readable}: {reason}. Redrive it")
        if schema == SCHEMA_NEWEST and reason != unreadable:
            stands = "the event at which the account stands says"
            raise balance_fault("blocked_reason", f"{stands}: {unreadable}")

    def _check_reversals(self) -> None:
        for event_id, (position, reversal) in self._claimed.items():
            if self._reversed_by.get(event_id) != reversal:
                unfounded = f"no event that is projected reverses it (position {position})"
                raise line_fault("reversed_by", unfounded)
        for event_id in self._reversed_by.keys() - self._claimed.keys():
            unsaid = f"the line of {event_id} does not say that it was reversed"
            raise line_fault("reversed_by", unsaid)
