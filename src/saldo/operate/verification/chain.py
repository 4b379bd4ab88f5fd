"""One account's chain in the event store: each event must follow from the one before it.

It does no I/O. The sums are the recorder's, by the domain's `evolve`, and not those of the
projector's fold, so that a mistake of one is seen by the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import asdict

from saldo.domain.account import evolve, new_account
from saldo.domain.errors import Unreadable
from saldo.domain.events import (
    TransactionRecorded,
    chain_hash,
    private_hash,
    read_event,
    request_hash,
)
from saldo.operate.verification.findings import FaultError, compare, event_fault

if TYPE_CHECKING:
    from saldo.domain.events import Event
    from saldo.operate.verification.findings import Row

# Version 1 did not bind the idempotency columns; see the upcaster.
UNBOUND_SCHEMA = '{"schema":1,'


class Chain:
    """An account as its checked events leave it. `unreadable` says why the last one is not read."""

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        # The id may be anything that a file holds; then no event chains from its hash.
        self.account = new_account(account_id if account_id.isascii() else "")
        self.unreadable: str | None = None

    def check(self, row: Row) -> tuple[Event, dict[str, Any] | None]:
        """Check the next event; return it with its private part. Raise FaultError."""
        fact = self._read(row)
        if fact.event_id != row["event_id"]:
            raise event_fault("event_id", "it is not the id in public_text")
        reverses = fact.reverses if isinstance(fact, TransactionRecorded) else None
        if reverses != row["reverses"]:
            raise event_fault("reverses", "it is not what public_text reverses")
        self._check_course(row, fact)
        private = _check_private(row, fact)
        _check_request(row, fact, private)
        return fact, private

    def evolve(self, fact: Event, event_hash: bytes) -> None:
        """Fold in an event that was checked."""
        self.account = evolve(self.account, fact, event_hash)

    def check_stream(self, stream: Row | None) -> None:
        """Check the stream's row against the events; raise FaultError."""
        if stream is None:
            raise FaultError("stream", "account_id", "the account has no row")
        end = {"position": self.account.position} | asdict(self.account)
        del end["account_id"]
        if not self.account.position:
            end["hash"] = None
        compare("stream", stream, end)

    def _read(self, row: Row) -> Event:
        position, text = row["position"], row["public_text"]
        if position != self.account.position + 1:
            missing = self.account.position + 1
            raise event_fault("position", f"{missing} is missing, the next is {position}")
        if chain_hash(self.account.hash, text) != row["hash"]:
            raise event_fault("hash", "it does not follow from the one before it and public_text")
        try:
            fact = read_event(text)
        except Unreadable as unreadable:
            self.unreadable = str(unreadable)
            raise event_fault("public_text", self.unreadable) from unreadable
        if fact.account_id != self.account_id:
            raise event_fault("account_id", "public_text is of another account")
        if fact.position != position:
            raise event_fault("position", "public_text is of another position")
        return fact

    def _check_course(self, row: Row, fact: Event) -> None:
        """Check what must follow from the event before; raise FaultError."""
        account = self.account
        if account.recorded_at is not None and fact.recorded_at < account.recorded_at:
            raise event_fault("public_text", "recordedAt goes back")
        if account.currency is not None and fact.currency != account.currency:
            raise event_fault("public_text", "the currency changes")
        signed_minor = fact.signed_minor if isinstance(fact, TransactionRecorded) else 0
        balance_minor = account.balance_minor + signed_minor
        if row["balance_minor"] != balance_minor:
            raise event_fault("balance_minor", f"the events come to {balance_minor}")


def _check_private(row: Row, fact: Event) -> dict[str, Any] | None:
    text, erased_at = row["private_text"], row["erased_at"]
    if text is None:
        if erased_at is None:
            raise event_fault("private_text", "the private part is gone, and was not erased")
        return None
    if erased_at is not None:
        raise event_fault("erased_at", "it says erased, and the private part is there")
    try:
        members: dict[str, Any] = msgspec.json.decode(text)
        proof = private_hash(bytes.fromhex(members["salt"]), text)
    except (LookupError, RecursionError, ValueError, TypeError, AttributeError):
        proof = ""
        members = {}
    if proof != fact.private_hash:
        raise event_fault("private_text", "its hash is not privateHash of public_text")
    return members


def _check_request(row: Row, fact: Event, private: dict[str, Any] | None) -> None:
    """Check the idempotency columns, which public_text proves since version 2."""
    key_hash, key_line, fingerprint = row["key_hash"], row["key_line"], row["fingerprint"]
    given = [v is not None for v in (key_hash, key_line, fingerprint)]
    if any(given) and not all(given):
        raise event_fault("key_hash", "key_hash, key_line and fingerprint belong together")
    if row["public_text"].startswith(UNBOUND_SCHEMA):
        stated = None if private is None else private.get("fingerprint")
        if stated is not None and stated != (fingerprint or b"").hex():
            raise event_fault("fingerprint", "it is not the private part's")
        return
    proof = None
    if key_hash is not None:
        if not 0 <= key_line < 2**31:
            raise event_fault("key_line", "it is not a line's number")
        proof = request_hash(key_hash, key_line, fingerprint)
    if proof != fact.request_hash:
        raise event_fault("key_hash", "with key_line and fingerprint it is not requestHash")
