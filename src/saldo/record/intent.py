"""What waits to be recorded: a request's commands, prepared before any lock is taken.

An Intent is all or nothing. Its lines carry everything that can be computed before the account is
locked: the event's id, its private text and that text's hash, the keyed hashes.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from asyncpg.pgproto import pgproto
from msgspec.structs import replace

from saldo.domain.commands import (
    Command,
    RecordTransaction,
    ReverseTransaction,
    SetOverdraftLimit,
)
from saldo.domain.events import private_hash, request_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    from saldo.domain.tag import Tag

# A salt makes the private hash of a short, guessable text unguessable.
SALT_BYTES = 16
ID_RANDOM_BYTES = 10
# Version and variant of a UUIDv7, and its random bits.
_ID_VERSION = 0x7 << 76 | 0x2 << 62
_ID_RANDOM_MASK = (1 << 80) - 1 & ~(0xF << 76 | 0x3 << 62)
KEYED_HASH_BYTES = 16


class EventKey(NamedTuple):
    """The identity of a CloudEvent: a repeated event has the same."""

    source: str
    id: str


# A client's own text, or an event's identity.
Key = str | EventKey


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request, and its idempotency key."""

    secret: bytes  # of all hashes of keys and fingerprints
    issuer: str
    subject: str
    idempotency_key: Key | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One command with all that is computed before the lock.

    `old_key_hash` is where an earlier version would have recorded the key, if not here.
    """

    command: Command
    event_id: UUID
    private_text: str
    private_hash: str
    key_line: int
    key_hash: bytes | None = None
    old_key_hash: bytes | None = None
    fingerprint: bytes | None = None
    request_hash: str | None = None


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of one request: recorded together or not at all.

    The refusal of a bulk request names its refused lines.
    """

    lines: tuple[Line, ...]
    is_bulk: bool = False
    expected: Tag | None = None  # the state that the account must be in
    traceparent: str | None = None

    def account_ids(self) -> frozenset[str]:
        """Return the accounts that it touches."""
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
    """The result of a line: its event, and whether an earlier request had recorded it."""

    stored: StoredEvent
    replayed: bool


def new_event_id(random: bytes) -> UUID:
    """Return a UUIDv7: 48 bits of milliseconds, then bits of `random`; ids sort roughly by time."""
    # After RFC 9562, section 5.7; Python has no uuid7 before 3.14.
    number = int.from_bytes(random, "big") & _ID_RANDOM_MASK
    number |= (time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80 | _ID_VERSION
    # The driver's own class, as in rows that are read: written and shown in a tenth of the time.
    return pgproto.UUID(number.to_bytes(16, "big"))


def keyed_hash(secret: bytes, *parts: str) -> bytes:
    """Return BLAKE2b keyed with `secret` over the parts, which may not contain U+0000."""
    text = "\0".join(parts).encode()
    return hashlib.blake2b(text, key=secret[:64], digest_size=KEYED_HASH_BYTES).digest()


def key_hashes(secret: bytes, account_id: str, key: Key) -> tuple[bytes, bytes | None]:
    """Return the hash of a key on an account, and the one of earlier versions if it differs.

    They took an event's `source id` for a client's key. A key without a space was never an event's,
    so its hash is the same.
    """
    if isinstance(key, EventKey):
        named, old = f"event\0{key.source}\0{key.id}", f"{key.source} {key.id}"
    elif " " in key:
        named, old = f"key\0{key}", key
    else:
        return keyed_hash(secret, account_id, key), None
    return keyed_hash(secret, account_id, named), keyed_hash(secret, account_id, old)


def canonical(command: Command) -> str:
    """Return a text that is equal for equal commands however they were written (1 and 1.00)."""
    members: list[object]
    if isinstance(command, RecordTransaction):
        members = [
            "record",
            command.account_id,
            command.kind.value,
            command.value.text(),
            command.currency,
            command.description,
            dict(sorted(command.metadata.items())),
            command.occurred_at and _seconds(command.occurred_at),
        ]
    elif isinstance(command, ReverseTransaction):
        members = ["reverse", command.account_id, command.original_id, command.description]
        if command.occurred_at is not None:  # absent in what earlier versions have recorded
            members.append(_seconds(command.occurred_at))
    else:
        limit = command.limit and command.limit.text()
        members = ["limit", command.account_id, limit, command.currency]
    return msgspec.json.encode(members).decode()


def _seconds(moment: datetime) -> msgspec.Raw:
    # As Python writes a float: fingerprints are compared with those of every earlier version.
    return msgspec.Raw(repr(moment.timestamp()).encode())


def prepare_line(
    command: Command,
    origin: Origin,
    *,
    key_line: int = 0,
    fingerprint: bytes | None = None,
    random: Callable[[int], bytes] = os.urandom,
) -> Line:
    """Return the line of a command.

    A bulk request with one key for all its lines numbers them by `key_line` and has a
    `fingerprint`. By default the fingerprint is the command's own.
    """
    chance = random(SALT_BYTES + ID_RANDOM_BYTES)  # in one go: each is a call of the kernel
    salt, key = chance[:SALT_BYTES], origin.idempotency_key
    key_hash = old_key_hash = proof = None
    if key is None:
        fingerprint = None
    else:
        key_hash, old_key_hash = key_hashes(origin.secret, command.account_id, key)
        fingerprint = fingerprint or keyed_hash(origin.secret, canonical(command))
        proof = request_hash(key_hash, key_line, fingerprint)
    # The order of members must never change.
    private = {
        "description": None if isinstance(command, SetOverdraftLimit) else command.description,
        "metadata": command.metadata if isinstance(command, RecordTransaction) else {},
        "issuer": origin.issuer,
        "subject": origin.subject,
        "idempotencyKey": " ".join(key) if isinstance(key, EventKey) else key,
        "fingerprint": fingerprint and fingerprint.hex(),
        "salt": salt.hex(),
    }
    private_text = msgspec.json.encode(private).decode()
    return Line(
        command=command,
        event_id=new_event_id(chance[SALT_BYTES:]),
        private_text=private_text,
        private_hash=private_hash(salt, private_text),
        key_line=key_line,
        key_hash=key_hash,
        old_key_hash=old_key_hash,
        fingerprint=fingerprint,
        request_hash=proof,
    )


def prepare_lines(
    commands: Sequence[tuple[Command, str | None]],
    origin: Origin,
    *,
    random: Callable[[int], bytes] = os.urandom,
) -> tuple[Line, ...]:
    """Return the lines of a bulk request: its commands, each with its own key if it has one.

    With a key of the whole request the lines are numbered from 1, and their fingerprint is the
    whole request's.
    """
    if origin.idempotency_key is None:
        return tuple(
            prepare_line(command, replace(origin, idempotency_key=own_key), random=random)
            for command, own_key in commands
        )
    # "bulk" because a list of one is another request than its transaction alone.
    texts = [canonical(command) for command, _ in commands]
    fingerprint = keyed_hash(origin.secret, "bulk", *texts)
    return tuple(
        prepare_line(command, origin, key_line=number, fingerprint=fingerprint, random=random)
        for number, (command, _) in enumerate(commands, start=1)
    )
