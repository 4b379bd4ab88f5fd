"""An account on the write side: what must be known to decide, and the two pure functions.

``decide`` chooses the event that a command becomes, or refuses it; ``evolve`` folds an event in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from saldo.domain.commands import (
    Command,
    Kind,
    RecordTransaction,
    ReverseTransaction,
    SetOverdraftLimit,
)
from saldo.domain.errors import (
    BalanceOutOfRange,
    CurrencyMismatch,
    InsufficientFunds,
    NotReversible,
)
from saldo.domain.events import (
    Event,
    OverdraftLimitSet,
    TransactionRecorded,
    genesis_hash,
)
from saldo.domain.money import MINOR_UNITS_MAX

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one stream after its event at ``position``; position 0 is a new account."""

    account_id: str
    currency: str | None
    position: int
    balance_minor: int
    overdraft_limit_minor: int | None
    hash: bytes
    recorded_at: datetime | None


def new_account(account_id: str) -> Account:
    """Return an account before its first event."""
    return Account(
        account_id=account_id,
        currency=None,
        position=0,
        balance_minor=0,
        overdraft_limit_minor=None,
        hash=genesis_hash(account_id),
        recorded_at=None,
    )


def decide(  # noqa: PLR0913 - the caller's clock, ids and settings are arguments: nothing is read here
    account: Account,
    command: Command,
    *,
    now: datetime,
    event_id: UUID,
    default_currency: str,
    private_hash: str,
    request_hash: str | None = None,
) -> Event:
    """Return the event that ``command`` becomes on ``account``; raises a Refused.

    ``now`` is the event store's clock. The recorded time never goes back within an account,
    whatever that clock does; what the client does not date has occurred now.
    """
    stated = None if isinstance(command, ReverseTransaction) else command.currency
    shared: dict[str, Any] = {
        "account_id": account.account_id,
        "position": account.position + 1,
        "event_id": event_id,
        "currency": _currency(account, stated, default_currency),
        "recorded_at": now if account.recorded_at is None else max(now, account.recorded_at),
        "private_hash": private_hash,
        "request_hash": request_hash,
    }
    if isinstance(command, SetOverdraftLimit):
        return _set_limit(command, shared)
    shared["occurred_at"] = command.occurred_at or now
    if isinstance(command, ReverseTransaction):
        return _allowed(account, _reverse(command, shared))
    return _allowed(account, _record(command, shared))


def _set_limit(command: SetOverdraftLimit, shared: dict[str, Any]) -> OverdraftLimitSet:
    limit = command.limit
    return OverdraftLimitSet(
        limit_minor=None if limit is None else limit.to_minor(shared["currency"]), **shared
    )


def _reverse(command: ReverseTransaction, shared: dict[str, Any]) -> TransactionRecorded:
    if command.original_reverses is not None:
        raise NotReversible
    return TransactionRecorded(
        kind=command.original_kind.opposite,
        amount_minor=command.original_amount_minor,
        reverses=command.original_id,
        **shared,
    )


def _record(command: RecordTransaction, shared: dict[str, Any]) -> TransactionRecorded:
    return TransactionRecorded(
        kind=command.kind,
        amount_minor=command.value.to_minor(shared["currency"]),
        reverses=None,
        **shared,
    )


def _allowed(account: Account, event: TransactionRecorded) -> TransactionRecorded:
    """Return ``event`` unless the balance after it is out of range or below the limit."""
    balance_minor = account.balance_minor + event.signed_minor
    if not -MINOR_UNITS_MAX <= balance_minor <= MINOR_UNITS_MAX:
        raise BalanceOutOfRange(position=account.position)
    limit_minor = account.overdraft_limit_minor
    if event.kind is Kind.EXPENSE and limit_minor is not None and balance_minor < -limit_minor:
        raise InsufficientFunds(
            balance_minor=account.balance_minor,
            limit_minor=limit_minor,
            currency=event.currency,
            position=account.position,
        )
    return event


def _currency(account: Account, stated: str | None, default_currency: str) -> str:
    held = account.currency
    if held is None:
        return stated or default_currency
    if stated is not None and stated != held:
        raise CurrencyMismatch(stated=stated, held=held)
    return held


def evolve(account: Account, event: Event, event_hash: bytes) -> Account:
    """Return the account after ``event``, whose chain hash is ``event_hash``."""
    balance_minor, limit_minor = account.balance_minor, account.overdraft_limit_minor
    if isinstance(event, OverdraftLimitSet):
        limit_minor = event.limit_minor
    else:
        balance_minor += event.signed_minor
    return Account(
        account_id=account.account_id,
        currency=event.currency,
        position=event.position,
        balance_minor=balance_minor,
        overdraft_limit_minor=limit_minor,
        hash=event_hash,
        recorded_at=event.recorded_at,
    )
