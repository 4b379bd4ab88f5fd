"""Errors of recording. One without a message of its own says the first line of its docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saldo.domain.errors import Refused

if TYPE_CHECKING:
    from uuid import UUID


class TransactionNotFound(Exception):
    """There is no such transaction."""


class AccountNotFound(Exception):
    """There is no such account."""


class LinesRefused(Refused):
    """Nothing was recorded: at least one line of the request was refused."""

    def __init__(self, refusals: list[tuple[int, Refused]]) -> None:
        first, _ = refusals[0]
        super().__init__(
            f"Nothing was recorded: {len(refusals)} lines were refused, the first is line {first}."
        )
        self.refusals = refusals


class StoreBusy(Exception):
    """Nothing was committed: a deadlock, a serialization failure or a timeout. Run it again."""


class StoreUnavailable(Exception):
    """Nothing was committed: the event store cannot be reached."""


class StoreRefused(StoreUnavailable):
    """Nothing was committed: the event store is read-only, full or otherwise refuses."""


class Contradicted(Exception):
    """Nothing was committed: the store is not as the batch read it, or the batch is too old."""

    def __init__(self, constraint: str) -> None:
        super().__init__(f"Nothing was committed: {constraint} no longer holds.")
        self.constraint = constraint


# The constraint that Contradicted names for an account that has moved on.
STREAM_POSITION = "stream_position"


class Unusable(Exception):
    """Nothing was committed: what is stored of an account cannot be read or written."""


class CommitUnknown(Exception):
    """The connection was lost during COMMIT: it may or may not have been carried out."""


class OutcomeUnknown(Exception):
    """Whether the transaction was recorded could not be found out in time."""

    def __init__(self, *, transaction_id: UUID) -> None:
        super().__init__(
            f"Whether transaction {transaction_id} was recorded could not be found out in time: "
            "ask for it, or repeat the request with the same idempotency key."
        )
        self.transaction_id = transaction_id
