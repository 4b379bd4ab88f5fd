"""What waits to be recorded: a request's commands, prepared outside of any lock.

An Intent is all or nothing. Its lines carry everything that can be computed before the account is
locked: the event's id, its private text and that text's hash, the keyed hashes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from asyncpg.pgproto import pgproto

from saldo.domain.commands import (
    Command,
    RecordTransaction,
    ReverseTransaction,
    SetOverdraftLimit,
)
from saldo.domain.events import private_hash, request_hash

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from saldo.domain.tag import Tag

# A salt makes the private hash of a short, guessable text unguessable.
SALT_BYTES = 16
ID_RANDOM_BYTES = 10
RANDOM_BYTES = SALT_BYTES + ID_RANDOM_BYTES
# Version and variant of a UUIDv7, and what they leave to chance.
_ID_VERSION = 0x7 << 76 | 0x2 << 62
_ID_RANDOM_MASK = (1 << 80) - 1 & ~(0xF << 76 | 0x3 << 62)
KEYED_HASH_BYTES = 16
# Made once: json.dumps with options of its own makes an encoder at every call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class EventKey(NamedTuple):
    """A CloudEvent's identity, which makes a repeated one one intent."""

    source: str
    id: str


# A client's own text, or an event's identity.
Key = str | EventKey


# The values below are msgspec's structs: made in a tenth of a frozen dataclass's time, which at one
# of each for a request had come to 6 us.
class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One command with all that is computed before the lock.

    ``old_key_hash`` is where an earlier version would have recorded the key, if not here.
    """

    command: Command
    event_id: UUID
    private_text: str
    private_hash: str
    key_hash: bytes | None
    key_line: int
    fingerprint: bytes | None
    request_hash: str | None = None
    old_key_hash: bytes | None = None


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of one request: recorded together or not at all.

    The refusal of a bulk request names its refused lines.
    """

    lines: tuple[Line, ...]
    is_bulk: bool = False
    expected: Tag | None = None  # the state that the account must be in
    traceparent: str | None = None

    def account_ids(self) -> frozenset[str]:
        """The accounts that it touches."""
        return frozenset(line.command.account_id for line in self.lines)


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the event table: what is written for a line, and what a repeated one finds.

    `traceparent` is kept in the outbox only.
    """

    account_id: str
    position: int
    event_id: UUID
    public_text: str
    private_text: str | None
    hash: bytes
    balance_minor: int
    key_hash: bytes | None
    key_line: int | None
    fingerprint: bytes | None
    reverses: UUID | None
    traceparent: str | None = None


class Recorded(msgspec.Struct, frozen=True):
    """The answer to a line: its stored event, and whether an earlier request had recorded it."""

    stored: StoredEvent
    replayed: bool


def new_event_id(random: bytes | None = None) -> UUID:
    """A UUIDv7: 48 bits of milliseconds, then random bits; ids sort roughly by time."""
    # After RFC 9562, section 5.7; Python has no uuid7 before 3.14.
    number = int.from_bytes(random or os.urandom(ID_RANDOM_BYTES), "big") & _ID_RANDOM_MASK
    number |= (time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80 | _ID_VERSION
    # The driver's own class, as in rows that are read: written and shown in a tenth of the time.
    return pgproto.UUID(number.to_bytes(16, "big"))


@functools.lru_cache(maxsize=8)
def _keyed(secret: bytes) -> hashlib.blake2b:
    """A hash that has taken the key; copies of it are half the price of new ones."""
    return hashlib.blake2b(key=secret[:64], digest_size=KEYED_HASH_BYTES)


def keyed_hash(secret: bytes, *parts: str) -> bytes:
    """BLAKE2b keyed with ``secret`` over the parts, which may not contain U+0000."""
    keyed = _keyed(secret).copy()
    keyed.update("\0".join(parts).encode())
    return keyed.digest()


def key_hashes(secret: bytes, account_id: str, key: Key) -> tuple[bytes, bytes | None]:
    """Return the hash of a key on an account, and the one that earlier versions gave it if another.

    They took an event's `source id` for a client's key. A key without a space was never an event's,
    so its hash is what it was.
    """
    if isinstance(key, EventKey):
        named, old = f"event\0{key.source}\0{key.id}", f"{key.source} {key.id}"
    elif " " in key:
        named, old = f"key\0{key}", key
    else:
        return keyed_hash(secret, account_id, key), None
    return keyed_hash(secret, account_id, named), keyed_hash(secret, account_id, old)


def canonical(command: Command) -> str:
    """A text that is equal for equal commands however they were written (1 and 1.00)."""
    if isinstance(command, RecordTransaction):
        if not command.metadata and command.occurred_at is None:
            # What nearly all are, written out: the encoder takes 3 us for the same text.
            currency = "null" if command.currency is None else f'"{command.currency}"'
            return (
                f'["record","{command.account_id}","{command.kind.text}",'
                f'"{command.value.text()}",{currency},{_quoted(command.description)},{{}},null]'
            )
        occurred_at = command.occurred_at and command.occurred_at.timestamp()
        members: list[object] = [
            "record",
            command.account_id,
            command.kind.value,
            command.value.text(),
            command.currency,
            command.description,
            dict(sorted(command.metadata.items())),
            occurred_at,
        ]
    elif isinstance(command, ReverseTransaction):
        members = [
            "reverse",
            command.account_id,
            str(command.original_id),
            command.description,
        ]
        if command.occurred_at is not None:  # absent in what earlier versions have recorded
            members.append(command.occurred_at.timestamp())
    else:
        limit = command.limit and command.limit.text()
        members = ["limit", command.account_id, limit, command.currency]
    return _encode(members)


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring(text)


class _Request:
    """What all lines of one request share, in the form in which each needs it."""

    __slots__ = ("_caller", "_key_hashes", "_key_text", "_secret", "key")

    def __init__(
        self, *, secret: bytes, issuer: str, subject: str, idempotency_key: Key | None
    ) -> None:
        self._secret = secret
        self._caller = _caller_text(issuer, subject)
        self._key_hashes: dict[str, tuple[bytes, bytes | None]] = {}
        self.key = idempotency_key
        self._key_text = _key_text(idempotency_key)

    def key_hashes(self, account_id: str, key: Key) -> tuple[bytes, bytes | None]:
        """Return key_hashes of an account and a key."""
        if key is not self.key:
            return key_hashes(self._secret, account_id, key)
        found = self._key_hashes.get(account_id)
        if found is None:
            found = self._key_hashes[account_id] = key_hashes(self._secret, account_id, key)
        return found

    def line(  # noqa: PLR0913 - called once a line, by place
        self,
        command: Command,
        key: Key | None,
        key_line: int,
        fingerprint: bytes | None,
        random: bytes,
        event_id: UUID,
    ) -> Line:
        """A line for ``command``; ``random`` are SALT_BYTES that nobody can guess."""
        metadata = command.metadata if isinstance(command, RecordTransaction) else None
        description = None if isinstance(command, SetOverdraftLimit) else command.description
        if key is None:
            key_hash = old_key_hash = fingerprint = proof = None
            key_text = fingerprint_text = "null"
        else:
            key_hash, old_key_hash = self.key_hashes(command.account_id, key)
            if fingerprint is None:
                fingerprint = keyed_hash(self._secret, canonical(command))
            proof = request_hash(key_hash, key_line, fingerprint)
            key_text = self._key_text if key is self.key else _key_text(key)
            fingerprint_text = f'"{fingerprint.hex()}"'
        # As the encoder would write it, a third of its time; the order of members must never
        # change.
        private_text = (
            f'{{"description":{_quoted(description)},'
            f'"metadata":{_encode(metadata) if metadata else "{}"},{self._caller}'
            f'"idempotencyKey":{key_text},'
            f'"fingerprint":{fingerprint_text},"salt":"{random.hex()}"}}'
        )
        return Line(
            command=command,
            event_id=event_id,
            private_text=private_text,
            private_hash=private_hash(random, private_text),
            key_hash=key_hash,
            key_line=key_line,
            fingerprint=fingerprint,
            request_hash=proof,
            old_key_hash=old_key_hash,
        )


def _key_text(key: Key | None) -> str:
    return _quoted(" ".join(key) if isinstance(key, EventKey) else key)


@functools.lru_cache(maxsize=256)
def _caller_text(issuer: str, subject: str) -> str:
    return f'"issuer":{_quoted(issuer)},"subject":{_quoted(subject)},'


def prepare_line(  # noqa: PLR0913 - one keyword for each part of the private text
    command: Command,
    *,
    secret: bytes,
    issuer: str,
    subject: str,
    idempotency_key: Key | None = None,
    event_id: UUID | None = None,
    random: bytes | None = None,
) -> Line:
    """The line of a request that has one command.

    ``random`` are RANDOM_BYTES that nobody can guess; by default the kernel's.
    """
    request = _Request(
        secret=secret, issuer=issuer, subject=subject, idempotency_key=idempotency_key
    )
    if random is None:
        random = os.urandom(RANDOM_BYTES)  # in one go: each is a call of the kernel
    event_id = event_id or new_event_id(random[SALT_BYTES:])
    return request.line(command, idempotency_key, 0, None, random[:SALT_BYTES], event_id)


def prepare_lines(  # noqa: PLR0913 - as prepare_line
    commands: Sequence[tuple[Command, str | None]],
    *,
    secret: bytes,
    issuer: str,
    subject: str,
    idempotency_key: str | None = None,
    random: bytes | None = None,
) -> tuple[Line, ...]:
    """The lines of a bulk request: its commands, each with a key of its own where it has one.

    An ``idempotency_key`` of the whole request stands for all of them: then the lines are numbered
    from 1, and their fingerprint is the whole request's. ``random`` as for one line, for each.
    """
    request = _Request(
        secret=secret, issuer=issuer, subject=subject, idempotency_key=idempotency_key
    )
    fingerprint = None
    if idempotency_key is not None:
        # With a word of its own: a list of one is another request than its transaction alone.
        fingerprint = keyed_hash(secret, "bulk", *(canonical(command) for command, _ in commands))
    if random is None:
        random = os.urandom(RANDOM_BYTES * len(commands))
    lines: list[Line] = []
    for number, (command, own_key) in enumerate(commands):
        start = number * RANDOM_BYTES
        middle = start + SALT_BYTES
        lines.append(
            request.line(
                command,
                idempotency_key or own_key,
                0 if idempotency_key is None else number + 1,
                fingerprint,
                random[start:middle],
                new_event_id(random[middle : start + RANDOM_BYTES]),
            )
        )
    return tuple(lines)
