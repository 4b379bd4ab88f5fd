"""What the read side needs of its two databases.

`postgres.py` implements it, and the simulation does with its own store. All methods raise
ReadModelBusy, ReadModelRefused or ReadModelUnavailable, or an error of the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from saldo.project.fold import Balance, Folded, StreamEvent

# By account: a position, and the hash there. A balance before its first event has none.
States: TypeAlias = "dict[str, tuple[int, bytes | None]]"


class Lag(NamedTuple):
    """How far the read model was behind the events that a sweep has read."""

    positions: int = 0
    seconds: float = 0.0


class Appended(NamedTuple):
    """An event of the event store, as the lag sweep sees it."""

    account_id: str
    position: int
    hash: bytes
    appended_at: datetime


class ReadModelTransaction(Protocol):
    """One database transaction of a catch-up round."""

    async def lock(self, account_ids: Sequence[str]) -> list[Balance]:
        """Create the missing balances, lock all in the order of account ids, and read them."""

    async def clear(self, account_ids: Sequence[str]) -> None:
        """Delete the accounts' statement lines and totals, to fold them again from position 0."""

    async def write(self, folded: Folded) -> None:
        """Write the lines, their totals and reversal marks, the balances and the dead letters."""


class Databases(Protocol):
    """The event store, and the read model."""

    def begin(self) -> AbstractAsyncContextManager[ReadModelTransaction]:
        """Begin a database transaction; commit it at the end, or roll it back after an error.

        If the outcome of a commit is unknown, the next round learns it from the positions.
        """

    async def read_from(
        self, positions: Sequence[tuple[str, int]], events_max: int
    ) -> dict[str, list[StreamEvent]]:
        """For each (account, position): the event at that position, and up to `events_max` after.

        Of the first only the hash is read. A position of 0 has no event of its own.
        """

    async def watermark(self) -> datetime | None:
        """Return how far an earlier sweep has come; before the first, where the events begin."""

    async def store_now(self) -> datetime:
        """Return the event store's time."""

    async def walk(self, since: datetime, until: datetime, limit: int) -> list[Appended]:
        """Return the first `limit` events stamped in that time, in the order of their stamps."""

    async def standing(self, account_ids: Sequence[str]) -> States:
        """Return where the balances of these accounts stand, of those that have one."""

    async def note(self, watermark: datetime, found: int, lag: Lag) -> None:
        """Store the result of a finished sweep."""

    async def erase_copies(self, now: datetime) -> None:
        """Erase the statement's copies of what was erased in the event store up to `now`.

        It reads from a watermark that only erasures move, less OVERLAP: an erasure may commit
        late, and a round may write a copy late that it read before. It does not depend on the
        sweep of the events, which may have been held up or have gone far ahead.
        """

    async def erase_copy(self, account_id: str, position: int) -> None:
        """Erase the statement's copy of a private part, if the event store says it is erased."""

    async def park(self, attributes: Mapping[str, str], public_text: str | None) -> None:
        """Park an event that KafkaSource gave up on; parking it twice keeps one."""

    async def given_up(self) -> tuple[int, int]:
        """Return the number of waiting dead letters and of suspended accounts."""

    async def close(self) -> None:
        """Close the connections."""
