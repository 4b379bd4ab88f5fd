"""Response bodies of record_transaction, made of the stored texts.

A first response and a repeated one are made by the same function from the same row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from saldo.domain.money import format_minor
from saldo.serve.http import members
from saldo.serve.http.members import Body, money

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from saldo.domain.account import Account
    from saldo.record.intent import Recorded, StoredEvent

NULL = Raw(b"null")


class Transaction(Body, kw_only=True):
    """A recorded transaction."""

    id: members.TransactionId
    account_id: members.AccountId
    type: members.Kind
    value: members.Money
    value_text: members.MoneyText
    description: members.TextOrNull
    metadata: members.Metadata
    currency: members.Currency
    position: members.Position
    balance: members.Money
    hash: members.Hash
    recorded_at: members.Time
    occurred_at: members.Time
    reverses: members.TransactionId | UnsetType = UNSET
    replayed: bool | UnsetType = UNSET


class LimitSet(Body, kw_only=True):
    """The event that set or lifted an overdraft limit."""

    id: members.TransactionId
    account_id: members.AccountId
    overdraft_limit: members.MoneyOrNull
    currency: members.Currency
    position: members.Position
    balance: members.Money
    hash: members.Hash
    recorded_at: members.Time


class FoundTransaction(Transaction, kw_only=True):
    """A transaction read by its id, with what proves it."""

    reversed_by: members.TransactionId | None
    erased: bool
    previous_hash: members.Hash
    event: str


class FoundLimit(LimitSet, kw_only=True):
    """The event of a limit, read by its id, with what proves it."""

    reversed_by: members.TransactionId | None
    erased: bool
    previous_hash: members.Hash
    event: str


class Transactions(Body, kw_only=True):
    """The transactions of a bulk request, in the order of its lines."""

    transactions: list[Transaction]


class Limit(Body, kw_only=True):
    """The overdraft limit in force."""

    account_id: members.AccountId
    overdraft_limit: members.MoneyOrNull
    currency: members.Currency
    position: members.Position
    balance: members.Money


class Event(Body, kw_only=True):
    """An event's exact text, and the hash that it must come to."""

    position: members.Position
    id: members.TransactionId
    hash: members.Hash
    event: str


class Events(Body, kw_only=True):
    """A page of an account's chain."""

    previous_hash: members.Hash | None
    events: list[Event]


class _Public(msgspec.Struct, rename="camel"):
    type: Literal["transaction-recorded", "limit-set"]
    currency: str
    recorded_at: str
    kind: str = ""
    amount_minor: int = 0
    limit_minor: int | None = None
    occurred_at: str = ""


class _Private(msgspec.Struct):
    description: Raw = NULL
    metadata: Raw = Raw(b"{}")


_read_public = msgspec.json.Decoder(_Public).decode
_read_private = msgspec.json.Decoder(_Private).decode
_ERASED = _Private()
_json = msgspec.json.Encoder().encode


def transaction_json(stored: StoredEvent) -> bytes:
    """Return one recorded event as a JSON object."""
    return _json(_recorded(stored))


def bulk_json(recorded: Sequence[Recorded]) -> bytes:
    """Return the transactions of a bulk request, in the order of its lines."""
    transactions = [_recorded(each.stored, replayed=each.replayed or UNSET) for each in recorded]
    return _json({"transactions": transactions})


def found_json(stored: StoredEvent, previous_hash: str | None, reversed_by: UUID | None) -> bytes:
    """Return an event that was read by its id, with what proves it."""
    return _json(
        _recorded(
            stored,
            FoundTransaction,
            FoundLimit,
            reversed_by=reversed_by,
            erased=stored.private_text is None,
            previous_hash=previous_hash,
            event=stored.public_text,
        )
    )


def limit_json(account: Account, currency: str) -> bytes:
    """Return the overdraft limit of an account as it stands."""
    return _json(
        Limit(
            account_id=account.account_id,
            overdraft_limit=_limit(account.overdraft_limit_minor, currency),
            currency=currency,
            position=account.position,
            balance=money(account.balance_minor, currency),
        )
    )


def events_json(events: Sequence[StoredEvent], previous_hash: str | None) -> bytes:
    """Return a page of an account's chain.

    No ``previous_hash``: the requested position is beyond the end of the chain.
    """
    page = [
        Event(position=e.position, id=e.event_id, hash=e.hash.hex(), event=e.public_text)
        for e in events
    ]
    return _json(Events(previous_hash=previous_hash, events=page))


def _recorded(
    stored: StoredEvent,
    transaction: type[Transaction] = Transaction,
    limit_set: type[LimitSet] = LimitSet,
    **further: Any,
) -> Transaction | LimitSet:
    public = _read_public(stored.public_text)
    currency = public.currency
    further |= {
        "id": stored.event_id,
        "account_id": stored.account_id,
        "currency": currency,
        "position": stored.position,
        "balance": money(stored.balance_minor, currency),
        "hash": stored.hash.hex(),
        "recorded_at": public.recorded_at,
    }
    if public.type == "limit-set":
        return limit_set(overdraft_limit=_limit(public.limit_minor, currency), **further)
    private = _ERASED if stored.private_text is None else _read_private(stored.private_text)
    value_text = format_minor(public.amount_minor, currency)
    return transaction(
        type=public.kind,
        value=Raw(value_text),
        value_text=value_text,
        description=private.description,
        metadata=private.metadata,
        occurred_at=public.occurred_at,
        reverses=UNSET if stored.reverses is None else stored.reverses,
        **further,
    )


def _limit(limit_minor: int | None, currency: str) -> Raw:
    return NULL if limit_minor is None else money(limit_minor, currency)
