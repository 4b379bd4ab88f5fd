"""Facts: past tense, frozen; and the one text in which each is stored, hashed and published.

The public text is written here and read here, nowhere else. An older text is brought to the newest
form by UPCASTERS, one step a version; the stored text itself never changes.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from saldo.domain.commands import ACCOUNT_ID, Kind
from saldo.domain.errors import Unreadable
from saldo.domain.money import CURRENCY_DIGITS, MINOR_UNITS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA_NEWEST = 2
# Of a value that is not understood, so much is repeated in the reason.
SHOWN_CHARACTERS_MAX = 200


def _from_1(members: dict[str, Any]) -> dict[str, Any]:
    """Version 1 said nothing of the request: what is stored of its idempotency key is unproven."""
    return {**members, "requestHash": None}


UPCASTERS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}


class TransactionRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """Money came in or went out; ``reverses`` names the transaction that this one undoes.

    ``request_hash`` proves what is stored of the request's idempotency key; None without a key.
    """

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
    request_hash: str | None = None

    @property
    def signed_minor(self) -> int:
        """What it adds to the balance."""
        return self.amount_minor if self.kind is Kind.INCOME else -self.amount_minor


class OverdraftLimitSet(msgspec.Struct, frozen=True, kw_only=True):
    """The balance may from now on go ``limit_minor`` below zero; None: without limit."""

    account_id: str
    position: int
    event_id: UUID
    limit_minor: int | None
    currency: str
    recorded_at: datetime
    private_hash: str
    request_hash: str | None = None


Event = TransactionRecorded | OverdraftLimitSet


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits of the second, always the same length."""
    # A quarter of strftime's time.
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def genesis_hash(account_id: str) -> bytes:
    """Where an account's chain starts."""
    return hashlib.sha256(account_id.encode()).digest()


def chain_hash(previous: bytes, public_text: str) -> bytes:
    """Return the hash of an event: SHA-256(previous hash || public text in UTF-8)."""
    return hashlib.sha256(previous + public_text.encode()).digest()


def private_hash(salt: bytes, private_text: str) -> str:
    """Return the proof of the private text: SHA-256(salt || private text), in hex."""
    return hashlib.sha256(salt + private_text.encode()).hexdigest()


def request_hash(key_hash: bytes, key_line: int, fingerprint: bytes) -> str:
    """Return the proof of the idempotency columns, in hex.

    They outlive the private part, so its hash could not prove them once it was erased.
    """
    line = key_line.to_bytes(4, "big")
    return hashlib.sha256(key_hash + line + fingerprint).hexdigest()


def public_text(event: Event) -> str:
    """Return the exact JSON text of an event.

    Written by hand, not by a JSON encoder: every member is of an alphabet that needs no escape
    (account ids by their pattern), and the order of members must never change.
    """
    recorded_at = format_time(event.recorded_at)
    request = "null" if event.request_hash is None else f'"{event.request_hash}"'
    if isinstance(event, OverdraftLimitSet):
        limit = "null" if event.limit_minor is None else event.limit_minor
        return (
            f'{{"schema":{SCHEMA_NEWEST},"account":"{event.account_id}",'
            f'"position":{event.position},"id":"{event.event_id!s}","type":"limit-set",'
            f'"limitMinor":{limit},"currency":"{event.currency}",'
            f'"recordedAt":"{recorded_at}","privateHash":"{event.private_hash}",'
            f'"requestHash":{request}}}'
        )
    reverses = "null" if event.reverses is None else f'"{event.reverses}"'
    occurred_at = recorded_at
    if event.occurred_at != event.recorded_at:
        occurred_at = format_time(event.occurred_at)
    return (
        f'{{"schema":{SCHEMA_NEWEST},"account":"{event.account_id}",'
        f'"position":{event.position},"id":"{event.event_id!s}","type":"transaction-recorded",'
        f'"kind":"{event.kind.value}","amountMinor":{event.amount_minor},'
        f'"currency":"{event.currency}","occurredAt":"{occurred_at}",'
        f'"recordedAt":"{recorded_at}","reverses":{reverses},'
        f'"privateHash":"{event.private_hash}","requestHash":{request}}}'
    )


# What Python raises for a member that is missing, of another type or out of its range.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def read_event(text: str) -> Event:
    """Read the event of a public text; raise Unreadable with the reason."""
    try:
        members = json.loads(text)
        schema = members["schema"]
    except _MALFORMED as error:
        raise Unreadable("the text is not an event") from error
    if not isinstance(schema, int) or not 1 <= schema <= SCHEMA_NEWEST:
        shown = str(schema)[:SHOWN_CHARACTERS_MAX] if isinstance(schema, int) else "of no number"
        raise Unreadable(f"schema {shown} is not known, the newest is {SCHEMA_NEWEST}")
    while schema < SCHEMA_NEWEST:
        members = UPCASTERS[schema](members)
        schema += 1
    try:
        return _event_of(members)
    except _MALFORMED as error:
        reason = f"a member is missing or malformed: {error}"
        raise Unreadable(reason[:SHOWN_CHARACTERS_MAX]) from error


def _event_of(members: dict[str, Any]) -> Event:
    # What is not checked here, fromisoformat, UUID and Kind check by themselves. One account's
    # malformed text must not pass for an event: the sums and statements behind it serve others too.
    kind = members["type"]
    if kind not in ("transaction-recorded", "limit-set"):
        raise Unreadable(f"the event type {kind!r:.200} is not known")
    shared: dict[str, Any] = {
        "account_id": _account(members["account"]),
        "position": _whole(members["position"]),
        "event_id": UUID(members["id"]),
        "currency": _currency(members["currency"]),
        "recorded_at": _moment(members["recordedAt"]),
        "private_hash": members["privateHash"],
        "request_hash": members["requestHash"],
    }
    if kind == "limit-set":
        limit_minor = members["limitMinor"]
        limit_minor = None if limit_minor is None else _whole(limit_minor)
        return OverdraftLimitSet(limit_minor=limit_minor, **shared)
    reverses = members["reverses"]
    return TransactionRecorded(
        kind=Kind(members["kind"]),
        amount_minor=_whole(members["amountMinor"]),
        occurred_at=_moment(members["occurredAt"]),
        reverses=None if reverses is None else UUID(reverses),
        **shared,
    )


def _moment(text: str) -> datetime:
    """Read a moment in UTC; a day, or a time without its zone, is refused."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} does not name its time zone")
    return moment.astimezone(UTC)


def _account(text: object) -> str:
    if not isinstance(text, str) or not ACCOUNT_ID.fullmatch(text):
        raise ValueError("the account is not an account id")
    return text


def _whole(number: object) -> int:
    if not isinstance(number, int) or not 0 <= number <= MINOR_UNITS_MAX:
        raise ValueError(f"{number!r} is not a whole number that the ledger holds")
    return number


def _currency(code: object) -> str:
    if not isinstance(code, str) or code not in CURRENCY_DIGITS:
        raise ValueError(f"{code!r} is not a currency")
    return code
