"""Every refusal of the domain: why a command does not become an event.

They know no HTTP: ``saldo.record.routes`` maps them to statuses. An error without values of its
own says the first line of its docstring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saldo.domain.money import format_minor
from saldo.domain.tag import tag_of

if TYPE_CHECKING:
    from uuid import UUID

    from saldo.domain.tag import Tag


def detail_of(error: Exception) -> str:
    """Return the sentence that a person reads: the error's own, or its docstring's first line."""
    return str(error) or (type(error).__doc__ or "").partition("\n")[0]


class Refused(Exception):
    """The command was refused."""


class CurrencyMismatch(Refused):
    """The account holds another currency than the transaction names."""

    def __init__(self, *, stated: str, held: str) -> None:
        super().__init__(f"The account holds {held}, not {stated}.")
        self.stated = stated
        self.held = held


class TooManyDigits(Refused):
    """The value has more digits after the point than the currency has."""

    field = "value"

    def __init__(self, *, currency: str, digits: int) -> None:
        super().__init__(
            f"The amount has more digits after the point than {currency} has: at most {digits}."
        )
        self.currency = currency
        self.digits = digits


class AmountOutOfRange(Refused):
    """The value is larger than the ledger's integer can hold."""

    field = "value"


class BalanceOutOfRange(Refused):
    """The balance would pass the ledger's integer."""

    def __init__(self, *, position: int) -> None:
        super().__init__(
            f"The balance would pass the ledger's integer; the account is at position {position}."
        )
        self.position = position


class InsufficientFunds(Refused):
    """The expense would take the balance below the account's overdraft limit."""

    def __init__(
        self, *, balance_minor: int, limit_minor: int, currency: str, position: int
    ) -> None:
        super().__init__(
            f"The expense would take the balance of {format_minor(balance_minor, currency)} "
            f"{currency} at position {position} below the overdraft limit of "
            f"{format_minor(limit_minor, currency)} {currency}."
        )
        self.balance_minor = balance_minor
        self.limit_minor = limit_minor
        self.currency = currency
        self.position = position


class PositionConflict(Refused):
    """The account is not in the expected state: it has moved on, or was restored."""

    def __init__(self, *, expected: Tag, position: int, state_hash: bytes) -> None:
        self.actual_tag = tag_of(position, state_hash)
        super().__init__(f"The account is at {self.actual_tag}, not at {expected}.")
        self.expected = expected.position
        self.actual = position


class IdempotencyKeyReused(Refused):
    """The idempotency key was already used for another request."""


class AlreadyReversed(Refused):
    """The transaction has already been reversed."""

    def __init__(self, *, reversed_by: UUID) -> None:
        super().__init__(f"The transaction has already been reversed, by {reversed_by}.")
        self.reversed_by = reversed_by


class NotReversible(Refused):
    """The event cannot be reversed: only a transaction that is not a reversal itself can."""


class Unreadable(Exception):
    """The stored event cannot be read by this version; the message is the reason."""
