"""Response bodies of get_balance."""

from __future__ import annotations

import functools
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from saldo.domain.events import format_time
from saldo.domain.money import format_minor
from saldo.serve.http import members
from saldo.serve.http.members import Body, Count

if TYPE_CHECKING:
    from saldo.query.balances import Standing

# The original's ``id`` of a balance: stable, and not the client's to choose.
BALANCE_IDS_MAX = 10_000
BALANCE_NAMESPACE = UUID("5a1d0000-5a1d-5a1d-85a1-d05a1d05a1d0")


class Blocked(Body):
    """The projection of this account has stopped; an operator is needed."""

    since: members.Time


class Balance(Body, kw_only=True):
    """What an account holds, or held."""

    id: Annotated[UUID, Meta(description="UUIDv5 of the account id.")]
    account_id: members.AccountId
    value: members.Money
    value_text: members.MoneyText
    currency: members.Currency
    position: members.Position
    hash: str | UnsetType = UNSET
    recorded_at: members.Time | UnsetType | None = UNSET
    blocked: Blocked | UnsetType = UNSET
    behind: Count | UnsetType = UNSET
    effective_at: members.Time | UnsetType = UNSET
    as_of: members.Time | UnsetType = UNSET
    final: bool | UnsetType = UNSET


class NoBalance(Body, kw_only=True):
    """An account of a list that has no balance to show."""

    account_id: members.AccountId
    status: Literal["unknown", "projection-behind"]


class Balances(Body):
    """Several balances, in the order of the request."""

    balances: list[Annotated[Any, members.any_of("Balance", "NoBalance")]]


class Line(Body, kw_only=True):
    """A transaction of a statement."""

    id: members.TransactionId
    position: members.Position
    type: members.Kind
    value: members.Money
    value_text: members.MoneyText
    currency: members.Currency
    balance: members.Money
    description: str | None
    metadata: members.Metadata
    occurred_at: members.Time
    recorded_at: members.Time
    reverses: members.TransactionId | None
    reversed_by: members.TransactionId | None
    hash: members.Hash


class Statement(Body, kw_only=True):
    """A page of an account's statement, newest first."""

    account_id: members.AccountId
    transactions: list[Line]
    next: str | None


class Account(Body, kw_only=True):
    """An account of the list of accounts."""

    account_id: members.AccountId
    value: members.Money
    value_text: members.MoneyText
    currency: members.Currency
    position: members.Position
    recorded_at: members.Time


class Accounts(Body, kw_only=True):
    """A page of the accounts that the token is for, by their ids."""

    accounts: list[Account]
    next: str | None


class Day(Body, kw_only=True):
    """What a UTC day brought, and the balance at its end."""

    day: date
    income: members.Money
    expense: members.Money
    transactions: Annotated[int, Meta(ge=1)]
    balance: members.Money


class Days(Body, kw_only=True):
    """The days on which something occurred, oldest first."""

    account_id: members.AccountId
    currency: members.Currency
    days: list[Day]


class SystemStatus(Body, kw_only=True):
    """How the whole system stands."""

    measured_at: members.Time
    accounts: Count
    events: Count
    events_last_10_s: Count = msgspec.field(name="eventsLast10s")
    events_last_60_s: Count = msgspec.field(name="eventsLast60s")
    last_recorded_at: members.Time | None
    behind: Count
    outbox_rows: Count
    outbox_age_seconds: Annotated[float, Meta(ge=0)]
    outbox_swept_at: members.Time | None
    lag_seconds: Annotated[float, Meta(ge=0)]
    lag_swept_at: members.Time | None
    dead_letters: Count
    dead_letter_oldest_at: members.Time | None
    blocked_accounts: Count
    blocked_oldest_at: members.Time | None


def balance_of(standing: Standing, **further: Any) -> Balance:
    """Return the balance of an account as read; ``further`` are members that it has besides."""
    currency, recorded_at = standing.currency, standing.recorded_at
    text = "0" if currency is None else format_minor(standing.balance_minor, currency)
    if standing.blocked_at is not None:
        # The reason is the operator's to read; the client learns that there is one.
        further["blocked"] = Blocked(format_time(standing.blocked_at))
    return Balance(
        id=balance_id(standing.account_id),
        account_id=standing.account_id,
        value=Raw(text),
        value_text=text,
        currency=currency or "XXX",
        position=standing.position,
        hash=(standing.hash or b"").hex(),
        recorded_at=None if recorded_at is None else format_time(recorded_at),
        **further,
    )


@functools.lru_cache(maxsize=BALANCE_IDS_MAX)
def balance_id(account_id: str) -> UUID:
    """Return the UUIDv5 of an account id."""
    return uuid5(BALANCE_NAMESPACE, account_id)
