"""The rules by which an event was decided: each is decided again, by the domain's own `decide`.

A chain only shows that an event is as it was written. Here the event is turned back into the
command that it must have come from, and that command is decided on the account as it stood then:
its balance, currency and limit after the events before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saldo.domain.account import decide
from saldo.domain.commands import RecordTransaction, ReverseTransaction, SetOverdraftLimit
from saldo.domain.errors import AlreadyReversed, Refused, detail_of
from saldo.domain.events import OverdraftLimitSet, TransactionRecorded
from saldo.domain.money import CURRENCY_DIGITS
from saldo.domain.value import Value
from saldo.operate.verification.findings import event_fault, shown

if TYPE_CHECKING:
    from collections.abc import Container
    from uuid import UUID

    from saldo.domain.account import Account
    from saldo.domain.commands import Command
    from saldo.domain.events import Event


class Rules:
    """Decides one account's events again, in their order.

    `reversed_ids` are the ids that reversals name, so that only those events are kept.
    """

    __slots__ = ("_originals", "_reversed_by", "_reversed_ids")

    def __init__(self, reversed_ids: Container[UUID]) -> None:
        self._reversed_ids = reversed_ids
        self._originals: dict[UUID, TransactionRecorded] = {}
        self._reversed_by: dict[UUID, UUID] = {}

    def check(self, account: Account, fact: Event) -> None:
        """Decide `fact` again on the account before it; raise FaultError."""
        if isinstance(fact, TransactionRecorded) and fact.event_id in self._reversed_ids:
            self._originals[fact.event_id] = fact
        try:
            decided = decide(
                account,
                self._command(fact),
                now=fact.recorded_at,
                event_id=fact.event_id,
                default_currency=fact.currency,
                private_hash=fact.private_hash,
                request_hash=fact.request_hash,
            )
        except Refused as refused:
            reason = f"it must have been refused: {detail_of(refused)}"
            raise event_fault("public_text", reason) from refused
        for name in fact.__struct_fields__ if decided != fact else ():
            must, is_ = getattr(decided, name), getattr(fact, name)
            # When something occurred is the client's choice, within bounds that no event keeps.
            if is_ != must and name != "occurred_at":
                reason = f"{name} is {shown(is_)}, the rules come to {shown(must)}"
                raise event_fault("public_text", reason)

    def _command(self, fact: Event) -> Command:
        if isinstance(fact, OverdraftLimitSet):
            limit = None if fact.limit_minor is None else _value(fact.limit_minor, fact.currency)
            return SetOverdraftLimit(
                account_id=fact.account_id, limit=limit, currency=fact.currency
            )
        if fact.reverses is not None:
            return self._reversal(fact, fact.reverses)
        return RecordTransaction(
            account_id=fact.account_id,
            kind=fact.kind,
            value=_value(fact.amount_minor, fact.currency),
            currency=fact.currency,
            occurred_at=fact.occurred_at,
        )

    def _reversal(self, fact: TransactionRecorded, original_id: UUID) -> ReverseTransaction:
        original = self._originals.get(original_id)
        if original is None or original is fact:
            raise event_fault("reverses", "it reverses no earlier transaction of the account")
        if original_id in self._reversed_by:
            raise AlreadyReversed(reversed_by=self._reversed_by[original_id])
        self._reversed_by[original_id] = fact.event_id
        return ReverseTransaction(
            account_id=fact.account_id,
            original_id=original_id,
            original_kind=original.kind,
            original_amount_minor=original.amount_minor,
            original_reverses=original.reverses,
        )


def _value(amount_minor: int, currency: str) -> Value:
    return Value(coefficient=amount_minor, scale=CURRENCY_DIGITS[currency])
