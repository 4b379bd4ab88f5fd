"""Errors of reading balances."""

from __future__ import annotations

from saldo.serve.database import Failure


class ReadModelUnavailable(Exception):
    """The balances cannot be read right now."""


class AccountNotFound(Exception):
    """There is no such account."""


class PositionNotFound(Exception):
    """The account has no such position."""


class TooManyWaiters(Exception):
    """The process holds as many waiting readers as it can."""


class ProjectionBehind(Exception):
    """The balance has not reached the requested position yet."""

    def __init__(
        self, *, position: int, wanted: int | None = None, wait_s: int | None = None
    ) -> None:
        goal = "its first event" if wanted is None else f"position {wanted}"
        super().__init__(f"The balance is at position {position}: it has not reached {goal} yet.")
        self.position = position
        self.wanted = wanted
        self._wait_s = wait_s

    def headers(self) -> dict[str, str]:
        """Return the response's headers, which name the wait that was applied."""
        return {} if self._wait_s is None else {"preference-applied": f"wait={self._wait_s}"}


UNAVAILABLE = dict.fromkeys(set(Failure) - {Failure.VALUE}, ReadModelUnavailable)
