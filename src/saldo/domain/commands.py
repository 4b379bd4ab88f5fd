"""What a client asks for: imperative, frozen, and already free of any wire format.

The domain's values are msgspec's structs, and nothing else of msgspec is used here: one is made in
a tenth of a frozen dataclass's time, and a recorded transaction is four of them.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from saldo.domain.value import Value

# Account ids travel in CloudEvent attributes and Kafka headers, so ASCII only, case-sensitive.
ACCOUNT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{0,127}", re.ASCII)
DESCRIPTION_CHARACTERS_MAX = 500
METADATA_KEYS_MAX = 20
METADATA_CHARACTERS_MAX = 500


class Kind(Enum):
    """Which way the money goes, with the wire's own words."""

    INCOME = "INCOME"
    EXPENSE = "EXPENSE"

    @property
    def opposite(self) -> Kind:
        """The kind that undoes this one."""
        return Kind.EXPENSE if self is Kind.INCOME else Kind.INCOME


class RecordTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """Record an income or an expense; no currency means the account's own."""

    account_id: str
    kind: Kind
    value: Value
    currency: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    occurred_at: datetime | None = None


class ReverseTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """Record the transaction that undoes ``original``, an event of the same account."""

    account_id: str
    original_id: UUID
    original_kind: Kind
    original_amount_minor: int
    original_reverses: UUID | None
    description: str | None = None
    occurred_at: datetime | None = None


class SetOverdraftLimit(msgspec.Struct, frozen=True, kw_only=True):
    """Set how far below zero the balance may go: zero keeps it above, None lifts the limit."""

    account_id: str
    limit: Value | None
    currency: str | None = None


Command = RecordTransaction | ReverseTransaction | SetOverdraftLimit
