"""The pure decision of a batch: which events its commands become, and which are refused."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from saldo.domain.account import Account, decide, evolve
from saldo.domain.commands import ReverseTransaction
from saldo.domain.errors import (
    AlreadyReversed,
    IdempotencyKeyReused,
    PositionConflict,
    Refused,
)
from saldo.domain.events import TransactionRecorded, chain_hash, public_text
from saldo.record.errors import LinesRefused
from saldo.record.intent import Intent, Line, Recorded, StoredEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

log = logging.getLogger(__name__)

Outcome = list[Recorded] | Exception
# The events under each idempotency key of an account, by their lines.
ByKey = dict[tuple[str, bytes], dict[int, StoredEvent]]


class Ledger:
    """The accounts of a batch and what was recorded before, as far as the batch was decided."""

    def __init__(self, accounts: dict[str, Account], repeated: Iterable[StoredEvent]) -> None:
        self.accounts = accounts
        self.by_key: ByKey = {}
        self.reversed_by: dict[UUID, UUID] = {}
        for stored in repeated:
            self.remember(stored)

    def remember(self, stored: StoredEvent) -> None:
        """Let later commands of the batch find `stored` as they would find a committed event."""
        _remember_key(self.by_key, stored)
        if stored.reverses is not None:
            self.reversed_by[stored.reverses] = stored.event_id


@dataclass(slots=True, kw_only=True)
class Decided:
    """A batch that was decided and is not written yet."""

    read: dict[str, Account]  # all its accounts as they were read
    decided_at: datetime  # the store's time then
    outcomes: list[Outcome] = field(default_factory=list)
    events: list[StoredEvent] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)  # those that it changes

    def fits(self, accounts: Mapping[str, Account]) -> bool:
        """Return whether the accounts that it changes are still as they were read."""
        return all(accounts[each].hash == self.read[each].hash for each in self.accounts)


def decide_batch(
    intents: Sequence[Intent], ledger: Ledger, now: datetime, default_currency: str
) -> Decided:
    """Decide the intents in arrival order. The refusal of one does not touch the others."""
    decided = Decided(read=dict(ledger.accounts), decided_at=now)
    for intent in intents:
        try:
            recorded, accounts = _decide_intent(intent, ledger, now, default_currency)
        except Refused as refusal:
            decided.outcomes.append(refusal)
            continue
        except Exception as error:
            # What is stored of an account makes no state: only its own requests fail.
            log.exception("an account's stored state cannot be used")
            decided.outcomes.append(error)
            continue
        decided.outcomes.append(recorded)
        ledger.accounts |= accounts
        decided.accounts |= accounts
        for each in recorded:
            if not each.replayed:
                ledger.remember(each.stored)
                decided.events.append(each.stored)
    return decided


def _decide_intent(
    intent: Intent, ledger: Ledger, now: datetime, default_currency: str
) -> tuple[list[Recorded], dict[str, Account]]:
    """Decide all lines or none; return what is recorded, and the accounts after it."""
    accounts: dict[str, Account] = {}
    recorded: list[Recorded] = []
    refusals: list[tuple[int, Refused]] = []
    own: ByKey = {}  # what earlier lines of this request record
    for number, line in enumerate(intent.lines, start=1):
        account_id = line.command.account_id
        try:
            replay = _find_replay(line, ledger.by_key) or _find_replay(line, own)
            if replay is not None:
                recorded.append(Recorded(replay, replayed=True))
                continue
            account = accounts.get(account_id) or ledger.accounts[account_id]
            _check(intent, line, account, ledger)
            stored, accounts[account_id] = _decide_line(
                line, account, now, default_currency, intent.traceparent
            )
        except Refused as refusal:
            if not intent.is_bulk or (line.key_line and isinstance(refusal, IdempotencyKeyReused)):
                raise  # the key is the whole request's
            refusals.append((number, refusal))
            continue
        recorded.append(Recorded(stored, replayed=False))
        _remember_key(own, stored)
    if refusals:
        raise LinesRefused(refusals)
    return recorded, accounts


def _check(intent: Intent, line: Line, account: Account, ledger: Ledger) -> None:
    """Refuse an account that is not in the expected state, and a second reversal."""
    expected, position = intent.expected, account.position
    if expected is not None and not expected.names(position, account.hash):
        raise PositionConflict(expected=expected, position=position, state_hash=account.hash)
    if isinstance(line.command, ReverseTransaction):
        reversed_by = ledger.reversed_by.get(line.command.original_id)
        if reversed_by is not None:
            raise AlreadyReversed(reversed_by=reversed_by)


def _remember_key(by_key: ByKey, stored: StoredEvent) -> None:
    if stored.key_hash is not None:
        lines = by_key.setdefault((stored.account_id, stored.key_hash), {})
        lines[stored.key_line or 0] = stored


def _find_replay(line: Line, by_key: ByKey) -> StoredEvent | None:
    """Return the event that an earlier request of the same key recorded for this line.

    All events under one key have the fingerprint of the request that first used it. Another
    fingerprint means another request, whichever line of it this is.
    """
    if line.key_hash is None:
        return None
    account_id = line.command.account_id
    lines = by_key.get((account_id, line.key_hash))
    if lines is None and line.old_key_hash is not None:
        lines = by_key.get((account_id, line.old_key_hash))
    if lines is None:
        return None
    if next(iter(lines.values())).fingerprint != line.fingerprint:
        raise IdempotencyKeyReused
    return lines.get(line.key_line)


def _decide_line(
    line: Line, account: Account, now: datetime, default_currency: str, traceparent: str | None
) -> tuple[StoredEvent, Account]:
    event = decide(
        account,
        line.command,
        now=now,
        event_id=line.event_id,
        default_currency=default_currency,
        private_hash=line.private_hash,
        request_hash=line.request_hash,
    )
    text = public_text(event)
    account = evolve(account, event, chain_hash(account.hash, text))
    stored = StoredEvent(
        account_id=event.account_id,
        position=event.position,
        event_id=event.event_id,
        public_text=text,
        private_text=line.private_text,
        hash=account.hash,
        balance_minor=account.balance_minor,
        key_hash=line.key_hash,
        key_line=None if line.key_hash is None else line.key_line,
        fingerprint=line.fingerprint,
        reverses=event.reverses if isinstance(event, TransactionRecorded) else None,
        traceparent=traceparent,
    )
    return stored, account
