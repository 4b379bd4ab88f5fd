"""The event streams that are open in a process, bounded per caller and in all."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from saldo.query.errors import TooManyWaiters

if TYPE_CHECKING:
    from saldo.serve.http.auth import Caller

STREAMS_MAX = 500
STREAMS_A_CALLER_MAX = 50


class OpenStreams:
    """The event streams that are open in this process, by caller."""

    def __init__(self) -> None:
        self._by_caller: Counter[tuple[str, str]] = Counter()

    @property
    def count(self) -> int:
        """How many are open."""
        return self._by_caller.total()

    def require_room(self, caller: Caller) -> None:
        """Raise TooManyWaiters unless ``caller`` may open one more."""
        if self._by_caller[caller.issuer, caller.subject] >= STREAMS_A_CALLER_MAX:
            raise TooManyWaiters(
                f"A caller may have {STREAMS_A_CALLER_MAX} event streams open: close one first."
            )
        if self.count >= STREAMS_MAX:
            raise TooManyWaiters

    def add(self, caller: Caller, streams: int) -> None:
        """Count streams of ``caller`` that open, or by a negative number close."""
        self._by_caller[caller.issuer, caller.subject] += streams
        self._by_caller += Counter()  # drop those at zero
