"""Sample values that all tests share: commands, intents, accounts and streams made of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from msgspec.structs import replace

from saldo.domain.account import Account, new_account
from saldo.domain.commands import Kind, RecordTransaction, ReverseTransaction, SetOverdraftLimit
from saldo.domain.tag import Tag
from saldo.domain.value import parse_value
from saldo.project.fold import StreamEvent
from saldo.record.decision import Ledger, decide_batch
from saldo.record.intent import Intent, Origin, StoredEvent, prepare_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from saldo.domain.commands import Command
    from saldo.record.decision import Outcome
    from saldo.record.intent import Key

ACCOUNT = "wesley"
NOW = datetime(2026, 11, 24, 6, 30, 15, 123456, tzinfo=UTC)
SECRET = bytes.fromhex("5a" * 32)
BRL = "BRL"


def uuid(number: int) -> UUID:
    """Return the number-th id."""
    return UUID(int=number)


def income(  # noqa: PLR0913 - a transaction has so many parts
    value: str = "1000",
    account_id: str = ACCOUNT,
    *,
    currency: str | None = None,
    description: str | None = None,
    metadata: Mapping[str, str] | None = None,
    occurred_at: datetime | None = None,
) -> RecordTransaction:
    """Return a command for an income."""
    return RecordTransaction(
        account_id=account_id,
        kind=Kind.INCOME,
        value=parse_value(value),
        currency=currency,
        description=description,
        metadata=metadata or {},
        occurred_at=occurred_at,
    )


def expense(
    value: str = "10", account_id: str = ACCOUNT, *, occurred_at: datetime | None = None
) -> RecordTransaction:
    """Return a command for an expense."""
    return RecordTransaction(
        account_id=account_id, kind=Kind.EXPENSE, value=parse_value(value), occurred_at=occurred_at
    )


def limit(value: str | None, account_id: str = ACCOUNT) -> SetOverdraftLimit:
    """Return a command that sets the overdraft limit, or removes it for None."""
    parsed = None if value is None else parse_value(value, zero_allowed=True)
    return SetOverdraftLimit(account_id=account_id, limit=parsed)


def reversal(stored: StoredEvent, kind: Kind, amount_minor: int) -> ReverseTransaction:
    """Return a reversal of a stored transaction of that kind and amount."""
    return ReverseTransaction(
        account_id=stored.account_id,
        original_id=stored.event_id,
        original_kind=kind,
        original_amount_minor=amount_minor,
        original_reverses=stored.reverses,
    )


def intent(
    *commands: Command, key: Key | None = None, expected: int | None = None, ids: int | None = None
) -> Intent:
    """Return a request of these commands; ``ids`` is the number of its first event's id."""
    origin = Origin(
        secret=SECRET,
        issuer="https://issuer.example",
        subject="subject",
        idempotency_key=key,
    )
    lines = tuple(prepare_line(command, origin) for command in commands)
    if ids is not None:
        lines = tuple(replace(line, event_id=uuid(ids + n)) for n, line in enumerate(lines))
    return Intent(
        lines=lines,
        is_bulk=len(lines) > 1,
        expected=None if expected is None else Tag(expected),
    )


def ledger(*accounts: Account) -> Ledger:
    """Return what is known under the locks of these accounts."""
    return Ledger({account.account_id: account for account in accounts}, [])


def stored_stream(*commands: Command) -> list[StoredEvent]:
    """Return the events of the commands, one a second, on new streams of their accounts."""
    known = ledger(*(new_account(command.account_id) for command in commands))
    stored: list[StoredEvent] = []
    for second, command in enumerate(commands):
        decided = decide_batch([intent(command)], known, NOW + timedelta(seconds=second), BRL)
        stored += events_of(decided.outcomes[0])
    return stored


def events_of(outcome: Outcome) -> list[StoredEvent]:
    """Return the events of an intent's outcome; raise its refusal."""
    if isinstance(outcome, Exception):
        raise outcome
    return [recorded.stored for recorded in outcome]


def stream_events(stored: list[StoredEvent]) -> list[StreamEvent]:
    """Return stored events as the projector reads them."""
    return [
        StreamEvent(
            account_id=event.account_id,
            position=event.position,
            event_id=event.event_id,
            public_text=event.public_text,
            private_text=event.private_text,
            hash=event.hash,
        )
        for event in stored
    ]


@dataclass(slots=True)
class Clock:
    """A clock that moves only when somebody waits by it, and then at once."""

    seconds: float = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
