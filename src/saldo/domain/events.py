"""Facts: past tense, frozen; and the one text in which each is stored, hashed and published.

The public text is written here and read here, nowhere else. An older text is brought to the newest
form by UPCASTERS, one step a version; the stored text itself never changes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from saldo.domain.commands import Kind
from saldo.domain.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA_NEWEST = 1
UPCASTERS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionRecorded:
    """Money came in or went out; ``reverses`` names the transaction that this one undoes."""

    account_id: str
    position: int
    event_id: UUID
    kind: Kind
    amount_minor: int
    currency: str
    occurred_at: datetime
    recorded_at: datetime
    reverses: UUID | None
    private_hash: str

    @property
    def signed_minor(self) -> int:
        """What it adds to the balance."""
        return self.amount_minor if self.kind is Kind.INCOME else -self.amount_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class OverdraftLimitSet:
    """The balance may from now on go ``limit_minor`` below zero; None: without limit."""

    account_id: str
    position: int
    event_id: UUID
    limit_minor: int | None
    currency: str
    recorded_at: datetime
    private_hash: str


Event = TransactionRecorded | OverdraftLimitSet


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits of the second, always the same length."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def genesis_hash(account_id: str) -> bytes:
    """Where an account's chain starts."""
    return hashlib.sha256(account_id.encode("ascii")).digest()


def chain_hash(previous: bytes, public_text: str) -> bytes:
    """The hash of an event: SHA-256(previous hash || public text in UTF-8)."""
    return hashlib.sha256(previous + public_text.encode()).digest()


def private_hash(salt: bytes, private_text: str) -> str:
    """What the public text says of the private one: SHA-256(salt || private text), in hex."""
    return hashlib.sha256(salt + private_text.encode()).hexdigest()


def public_text(event: Event, *, occurred_at: str, recorded_at: str) -> str:
    """The exact JSON text of an event.

    Written by hand, not by a JSON encoder: every member is of an alphabet that needs no escape
    (account ids by their pattern), and the order of members must never change. The two times come
    in as text since a batch shares them.
    """
    if isinstance(event, OverdraftLimitSet):
        limit = "null" if event.limit_minor is None else event.limit_minor
        return (
            f'{{"schema":{SCHEMA_NEWEST},"account":"{event.account_id}",'
            f'"position":{event.position},"id":"{event.event_id}","type":"limit-set",'
            f'"limitMinor":{limit},"currency":"{event.currency}",'
            f'"recordedAt":"{recorded_at}","privateHash":"{event.private_hash}"}}'
        )
    reverses = "null" if event.reverses is None else f'"{event.reverses}"'
    return (
        f'{{"schema":{SCHEMA_NEWEST},"account":"{event.account_id}",'
        f'"position":{event.position},"id":"{event.event_id}","type":"transaction-recorded",'
        f'"kind":"{event.kind.value}","amountMinor":{event.amount_minor},'
        f'"currency":"{event.currency}","occurredAt":"{occurred_at}",'
        f'"recordedAt":"{recorded_at}","reverses":{reverses},'
        f'"privateHash":"{event.private_hash}"}}'
    )


def read_event(text: str) -> Event:
    """The event that a public text tells of; raises Unreadable with the reason."""
    try:
        members = json.loads(text)
        schema = members["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable("the text is not an event") from error
    if not isinstance(schema, int) or schema > SCHEMA_NEWEST or schema < 1:
        raise Unreadable(
            f"schema {schema!r} is not known, the newest is {SCHEMA_NEWEST}"
        )
    while schema < SCHEMA_NEWEST:
        members = UPCASTERS[schema](members)
        schema += 1
    try:
        return _event_of(members)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"a member is missing or malformed: {error}") from error


def _event_of(members: dict[str, Any]) -> Event:
    # Only what fromisoformat and UUID check by themselves is left unchecked: the text is our own,
    # and its hash is verified before it is read.
    recorded_at = datetime.fromisoformat(members["recordedAt"])
    match members["type"]:
        case "transaction-recorded":
            reverses = members["reverses"]
            return TransactionRecorded(
                account_id=members["account"],
                position=members["position"],
                event_id=UUID(members["id"]),
                kind=Kind(members["kind"]),
                amount_minor=members["amountMinor"],
                currency=members["currency"],
                occurred_at=datetime.fromisoformat(members["occurredAt"]),
                recorded_at=recorded_at,
                reverses=None if reverses is None else UUID(reverses),
                private_hash=members["privateHash"],
            )
        case "limit-set":
            return OverdraftLimitSet(
                account_id=members["account"],
                position=members["position"],
                event_id=UUID(members["id"]),
                limit_minor=members["limitMinor"],
                currency=members["currency"],
                recorded_at=recorded_at,
                private_hash=members["privateHash"],
            )
        case unknown:
            raise Unreadable(f"the event type {unknown!r} is not known")
