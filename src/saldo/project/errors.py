"""The errors of the read side.

No message repeats a stored value: it may be private.
"""

from __future__ import annotations


class BadDelivery(Exception):
    """The event is not one that this function takes, and no retry will change that."""


class BeyondStore(Exception):
    """The event store does not hold this event yet."""


class GivenUp(Exception):
    """The event store has not held this event for too long."""


class Diverged(Exception):
    """The balance is not on the event store's chain, as after a restore of the store."""


class ReadModelBusy(Exception):
    """Nothing was written: a deadlock, a lock wait or a timeout. Run it again."""


class ReadModelUnavailable(Exception):
    """The read model or the event store cannot be reached, or refuses."""


class ReadModelRefused(Exception):
    """Nothing was written: the read model does not hold one of the round's values."""

    def __init__(self, named: str | None) -> None:
        self.reason = f"the read model does not hold it: {named or 'a value'}"
        super().__init__(self.reason)


class RebuildRefused(Exception):
    """The rebuild did not finish; the message says why. The old read model stays in use."""
