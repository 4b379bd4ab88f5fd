"""Folding events into the read model: pure, checked against the chain, one way for every case."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from saldo.domain.commands import Kind
from saldo.domain.errors import Unreadable
from saldo.domain.events import (
    SCHEMA_NEWEST,
    OverdraftLimitSet,
    chain_hash,
    genesis_hash,
    read_event,
)
from saldo.domain.money import MINOR_UNITS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime
    from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """An account in the read model: all that the fold needs to go on from."""

    account_id: str
    currency: str | None
    balance_minor: int
    position: int
    hash: bytes
    recorded_at: datetime | None
    blocked_reason: str | None = None
    blocked_schema: int | None = None

    @property
    def blocked(self) -> bool:
        """Whether this version of the projector has given the account up.

        A version that knows newer events than the one that gave up tries again.
        """
        return self.blocked_schema is not None and self.blocked_schema >= SCHEMA_NEWEST


def new_balance(account_id: str) -> Balance:
    """The balance of an account before its first event."""
    return Balance(
        account_id=account_id,
        currency=None,
        balance_minor=0,
        position=0,
        hash=genesis_hash(account_id),
        recorded_at=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """An event as the event store holds it. At the balance's own position only the hash is read."""

    account_id: str
    position: int
    event_id: UUID
    public_text: str | None
    private_text: str | None
    hash: bytes


@dataclass(slots=True, kw_only=True)
class StatementLine:
    """One line of a statement, with the balance after it."""

    account_id: str
    position: int
    event_id: UUID
    kind: str
    amount_minor: int | None
    currency: str
    balance_minor: int
    description: str | None
    metadata: str | None
    occurred_at: datetime
    recorded_at: datetime
    reverses: UUID | None
    reversed_by: UUID | None
    hash: bytes


@dataclass(slots=True, kw_only=True)
class DailyTotal:
    """What to add to an account's totals of one UTC day."""

    income_minor: int = 0
    expense_minor: int = 0
    transactions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEvent:
    """The event at which a fold had to stop, and why."""

    account_id: str
    position: int
    event_id: UUID
    reason: str
    public_text: str


@dataclass(slots=True)
class Folded:
    """What a round comes to: everything that is to be written, for all of its accounts."""

    balances: list[Balance] = field(default_factory=list)
    lines: list[StatementLine] = field(default_factory=list)
    # (account, reversed transaction, its reversal) where the reversed line was written before
    reversals: list[tuple[str, UUID, UUID]] = field(default_factory=list)
    totals: dict[tuple[str, date], DailyTotal] = field(default_factory=dict)
    dead: list[DeadEvent] = field(default_factory=list)


class Diverged(Exception):
    """The balance does not stand on the event store's chain, as after a restore of the store."""


def fold_account(
    balance: Balance,
    events: Sequence[StreamEvent],
    folded: Folded,
    refused: str | None = None,
) -> Balance:
    """Fold ``events``, which follow on ``balance``, into ``folded``; the balance they come to.

    ``events`` starts with the event at the balance's own position, unless that is 0: its hash must
    be the balance's. Raises Diverged where it is not. An event that cannot be projected ends the
    fold there, blocked, with what came before it kept. ``refused`` says why the first event cannot
    be, where it is the read model that does not hold it.
    """
    start = 0
    if balance.position > 0:
        if not events or events[0].position != balance.position or events[0].hash != balance.hash:
            raise Diverged
        start = 1
    by_id: dict[UUID, StatementLine] = {}
    for event in events[start:]:
        try:
            line, after = _fold_event(balance, event)
        except Unreadable as unreadable:
            refused = unreadable.reason
        if refused is not None:
            folded.dead.append(
                DeadEvent(
                    account_id=event.account_id,
                    position=event.position,
                    event_id=event.event_id,
                    reason=refused,
                    public_text=event.public_text or "",
                )
            )
            return replace(balance, blocked_reason=refused, blocked_schema=SCHEMA_NEWEST)
        balance = after
        folded.lines.append(line)
        by_id[line.event_id] = line
        if line.reverses is not None:
            reversed_line = by_id.get(line.reverses)
            if reversed_line is None:
                folded.reversals.append((line.account_id, line.reverses, line.event_id))
            else:
                reversed_line.reversed_by = line.event_id
        if line.amount_minor is not None:
            _add_to_day(folded, line, line.amount_minor)
    return balance


def _fold_event(balance: Balance, event: StreamEvent) -> tuple[StatementLine, Balance]:
    text = event.public_text or ""
    if event.position != balance.position + 1:
        raise Unreadable(f"position {balance.position + 1} is missing from the stream")
    if chain_hash(balance.hash, text) != event.hash:
        raise Unreadable("the hash does not chain from the event before it")
    fact = read_event(text)
    if fact.position != event.position or fact.account_id != event.account_id:
        raise Unreadable("the text is that of another event")
    description, metadata = _private(event.private_text)
    if isinstance(fact, OverdraftLimitSet):
        kind, amount_minor, signed_minor = "LIMIT", None, 0
        occurred_at, reverses = fact.recorded_at, None
    else:
        kind, amount_minor = fact.kind.value, fact.amount_minor
        signed_minor = fact.signed_minor
        occurred_at, reverses = fact.occurred_at, fact.reverses
    balance_minor = balance.balance_minor + signed_minor
    if not -MINOR_UNITS_MAX <= balance_minor <= MINOR_UNITS_MAX:
        raise Unreadable("the balance passes the ledger's integer")
    line = StatementLine(
        account_id=event.account_id,
        position=event.position,
        event_id=event.event_id,
        kind=kind,
        amount_minor=amount_minor,
        currency=fact.currency,
        balance_minor=balance_minor,
        description=description,
        metadata=metadata,
        occurred_at=occurred_at,
        recorded_at=fact.recorded_at,
        reverses=reverses,
        reversed_by=None,
        hash=event.hash,
    )
    return line, Balance(
        account_id=balance.account_id,
        currency=fact.currency,
        balance_minor=line.balance_minor,
        position=event.position,
        hash=event.hash,
        recorded_at=fact.recorded_at,
    )


def _private(text: str | None) -> tuple[str | None, str | None]:
    """Description and metadata (as JSON text) of a private part; nothing once it was erased."""
    if text is None:
        return None, None
    try:
        members = json.loads(text)
        description, metadata = members.get("description"), members.get("metadata")
    except (ValueError, AttributeError, RecursionError) as error:
        raise Unreadable("the private part is not a JSON object") from error
    if not isinstance(description, str | None) or not isinstance(metadata, dict | None):
        raise Unreadable("the private part has a member of another type")
    return description, json.dumps(metadata) if metadata else None


def _add_to_day(folded: Folded, line: StatementLine, amount_minor: int) -> None:
    key = (line.account_id, line.occurred_at.date())
    total = folded.totals.get(key)
    if total is None:
        total = folded.totals[key] = DailyTotal()
    if line.kind == Kind.INCOME.value:
        total.income_minor += amount_minor
    else:
        total.expense_minor += amount_minor
    total.transactions += 1
