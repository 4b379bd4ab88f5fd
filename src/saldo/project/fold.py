"""Folding events into the read model: pure, checked against the chain, one path for every case."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from saldo.domain.errors import Unreadable
from saldo.domain.events import (
    SCHEMA_NEWEST,
    OverdraftLimitSet,
    chain_hash,
    genesis_hash,
    read_event,
)
from saldo.domain.money import MINOR_UNITS_MAX
from saldo.project.errors import Diverged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID


class Balance(NamedTuple):
    """An account in the read model: all that the fold continues from."""

    account_id: str
    hash: bytes
    currency: str | None = None
    balance_minor: int = 0
    position: int = 0
    recorded_at: datetime | None = None
    blocked_reason: str | None = None
    blocked_schema: int | None = None

    @property
    def blocked(self) -> bool:
        """Return whether this version of the projector has given the account up.

        A version that knows newer events than the one that gave up tries again.
        """
        return self.blocked_schema is not None and self.blocked_schema >= SCHEMA_NEWEST


def new_balance(account_id: str) -> Balance:
    """Return the balance of an account before its first event."""
    return Balance(account_id, genesis_hash(account_id))


class StreamEvent(NamedTuple):
    """An event of the event store. At the balance's own position only the hash is read."""

    account_id: str
    position: int
    event_id: UUID
    public_text: str | None
    private_text: str | None
    hash: bytes


class StatementLine(NamedTuple):
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
    hash: bytes


@dataclass(slots=True)
class Folded:
    """Everything that a round writes, of all its accounts.

    `dead` has the event at which each suspended account stopped, and why.
    """

    balances: list[Balance] = field(default_factory=list)
    lines: list[StatementLine] = field(default_factory=list)
    dead: list[tuple[StreamEvent, str]] = field(default_factory=list)


def fold_account(
    balance: Balance,
    events: Sequence[StreamEvent],
    folded: Folded,
    refused: str | None = None,
) -> Balance:
    """Fold `events`, which follow on `balance`, into `folded`; return the balance after them.

    `events` starts with the event at the balance's own position, unless that is 0: its hash must
    be the balance's. Raise Diverged if it is not. An event that cannot be projected ends the fold
    there, blocked, with what came before it kept. `refused` says why the first event cannot be
    projected, if the read model does not hold it.
    """
    start = 0
    if balance.position > 0:
        if not events or events[0].position != balance.position or events[0].hash != balance.hash:
            raise Diverged
        start = 1
    for event in events[start:]:
        try:
            line = _line_of(event, balance, refused)
        except Unreadable as unreadable:
            reason = str(unreadable)
            folded.dead.append((event, reason))
            return balance._replace(blocked_reason=reason, blocked_schema=SCHEMA_NEWEST)
        folded.lines.append(line)
        balance = Balance(
            account_id=line.account_id,
            hash=line.hash,
            currency=line.currency,
            balance_minor=line.balance_minor,
            position=line.position,
            recorded_at=line.recorded_at,
        )
    return balance


def _line_of(event: StreamEvent, balance: Balance, refused: str | None) -> StatementLine:
    """Return the line of the event after `balance`; raise Unreadable, also if it was refused."""
    if refused is not None:
        raise Unreadable(refused)
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
    return StatementLine(
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
        hash=event.hash,
    )


def _private(text: str | None) -> tuple[str | None, str | None]:
    """Return description and metadata (as JSON text) of a private part; nothing once erased."""
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
