"""What recording needs of the outside: a store of events, an outbox and a sender.

PostgreSQL and Kafka implement these protocols, and so does the simulation of the tests.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from saldo.domain.account import Account
    from saldo.record.cloud_events import KafkaRecord
    from saldo.record.decision import Decided
    from saldo.record.intent import StoredEvent

# An append that is carried out later than this after its decision fails: a process may be stopped
# in between for any time, and the event would say that it was recorded then.
APPEND_DELAY_MAX = timedelta(seconds=60)


class Lookup(NamedTuple):
    """What a batch reads before it is decided."""

    account_ids: Sequence[str]  # in order
    keys: Sequence[tuple[str, bytes]]  # idempotency keys: account and hash
    reversals: Sequence[tuple[str, UUID]]  # transactions to reverse: account and event id


class Looked(NamedTuple):
    """What it reads, all of one moment."""

    accounts: dict[str, Account]
    repeated: list[StoredEvent]  # recorded under the keys, or as reversals
    now: datetime  # the store's time


class Transaction(Protocol):
    """One database transaction of a batch. Its methods raise what recording's errors say."""

    async def look(self, lookup: Lookup) -> Looked:
        """Create missing streams and lock all, in the order of account ids; then read."""

    async def find_own(self, event_ids: Sequence[UUID], account_ids: Sequence[str]) -> set[bytes]:
        """Return the hashes of those events that were committed."""

    async def append(self, decided: Decided) -> None:
        """Write the events, their outbox rows and the accounts' new states.

        Contradicted where an account is not as it was read, and after APPEND_DELAY_MAX.
        """

    async def commit(self) -> None:
        """Commit; raises CommitUnknown when the connection is lost meanwhile."""

    async def roll_back(self) -> None:
        """Undo what was not committed and give the connection back; never raises."""


class EventStore(Protocol):
    """The store of events."""

    async def begin(self) -> Transaction:
        """Start a database transaction."""

    async def look(self, lookup: Lookup) -> Looked | None:
        """Read without locks; return None where an account has no stream yet."""

    async def append(self, decided: Decided) -> None:
        """Append and commit. After CommitUnknown it may still be carried out later, if it fits."""


class Outbox(Protocol):
    """The events that Kafka has not acknowledged yet."""

    async def claim(self) -> list[StoredEvent]:
        """Claim rows that are older than a few seconds and unclaimed, and return their events."""

    async def acknowledge(self, sent: Sequence[tuple[str, int, bool]]) -> None:
        """Delete what Kafka has acknowledged: account id, position, whether sent as erased.

        A row whose event was erased after that stays, to be sent again.
        """

    async def note_sweep(self, found: int) -> None:
        """Remember that a sweep came to its end, for the operator."""


class Sender(Protocol):
    """What carries records to Kafka."""

    def send(self, record: KafkaRecord) -> bool:
        """Hand `record` over; False when it does not fit now. The relay is told the outcome.

        Raises ValueError for a record that will never fit.
        """

    async def flush(self, timeout_s: float) -> None:
        """Wait for the outcome of what was handed over, up to `timeout_s`."""
