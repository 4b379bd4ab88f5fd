"""An account on the write side: what must be known to decide, and the two pure functions.

``decide`` chooses the event that a command becomes, or refuses it; ``evolve`` folds an event in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from saldo.domain.commands import (
    Command,
    Kind,
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
    """An account before its first event."""
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
    """The event that ``command`` becomes on ``account``; raises a Refused.

    ``now`` is the event store's clock. The recorded time never goes back within an account,
    whatever that clock does; what the client does not date has occurred now.
    """
    recorded_at = now if account.recorded_at is None else max(now, account.recorded_at)
    if isinstance(command, SetOverdraftLimit):
        currency = _currency(account, command.currency, default_currency)
        limit_minor = None if command.limit is None else command.limit.to_minor(currency)
        return OverdraftLimitSet(
            account_id=account.account_id,
            position=account.position + 1,
            event_id=event_id,
            limit_minor=limit_minor,
            currency=currency,
            recorded_at=recorded_at,
            private_hash=private_hash,
            request_hash=request_hash,
        )
    if isinstance(command, ReverseTransaction):
        if command.original_reverses is not None:
            raise NotReversible
        currency = _currency(account, None, default_currency)
        kind = command.original_kind.opposite
        amount_minor = command.original_amount_minor
        reverses = command.original_id
    else:
        currency = _currency(account, command.currency, default_currency)
        kind = command.kind
        amount_minor = command.value.to_minor(currency)
        reverses = None
    occurred_at = command.occurred_at or now
    balance_minor = account.balance_minor + (amount_minor if kind is Kind.INCOME else -amount_minor)
    if not -MINOR_UNITS_MAX <= balance_minor <= MINOR_UNITS_MAX:
        raise BalanceOutOfRange(position=account.position)
    limit_minor = account.overdraft_limit_minor
    if kind is Kind.EXPENSE and limit_minor is not None and balance_minor < -limit_minor:
        raise InsufficientFunds(
            balance_minor=account.balance_minor,
            limit_minor=limit_minor,
            currency=currency,
            position=account.position,
        )
    return TransactionRecorded(
        account_id=account.account_id,
        position=account.position + 1,
        event_id=event_id,
        kind=kind,
        amount_minor=amount_minor,
        currency=currency,
        occurred_at=occurred_at,
        recorded_at=recorded_at,
        reverses=reverses,
        private_hash=private_hash,
        request_hash=request_hash,
    )


def _currency(account: Account, stated: str | None, default_currency: str) -> str:
    held = account.currency
    if held is None:
        return stated or default_currency
    if stated is not None and stated != held:
        raise CurrencyMismatch(stated=stated, held=held)
    return held


def evolve(account: Account, event: Event, event_hash: bytes) -> Account:
    """The account after ``event``, whose place in the chain is ``event_hash``."""
    if isinstance(event, OverdraftLimitSet):
        return msgspec.structs.replace(
            account,
            currency=event.currency,
            position=event.position,
            overdraft_limit_minor=event.limit_minor,
            hash=event_hash,
            recorded_at=event.recorded_at,
        )
    return Account(
        account_id=account.account_id,
        currency=event.currency,
        position=event.position,
        balance_minor=account.balance_minor + event.signed_minor,
        overdraft_limit_minor=account.overdraft_limit_minor,
        hash=event_hash,
        recorded_at=event.recorded_at,
    )
