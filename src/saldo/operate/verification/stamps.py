"""The times that the event store stamps on an event: when it was appended, restored and erased."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from saldo.operate.verification.findings import (
    CLOCK_AHEAD_MAX,
    Fault,
    FaultError,
    event_fault,
    shown,
)

if TYPE_CHECKING:
    from datetime import datetime

    from saldo.domain.events import Event
    from saldo.operate.verification.findings import Row

# The recorder's database transaction ends within 15 s of the moment that it records, and an append
# without locks follows its look within milliseconds. The rest is for a process or a machine that
# was stopped in between, and for clocks that were set.
STAMPS_APART_MAX = timedelta(minutes=5)


@dataclass(slots=True)
class Stamps:
    """Checks the stamps of one account's events, and notes those whose recordedAt was ahead.

    A clock ran ahead when they were recorded. They are in the chain and cannot be put right: they
    are no fault, and are named once for each account.
    """

    now: datetime
    # The latest time that the store's clock is known to have shown: now, or what it has dated.
    latest: datetime
    appended_at: datetime | None = None
    ahead: int = 0
    first: int = 0
    furthest: timedelta = timedelta(0)

    def check(
        self, row: Row, fact: Event, erasure: Row | None, *, previous: datetime | None
    ) -> None:
        """Check the stamps against recordedAt, the erasure and the clock; raise FaultError.

        ``previous`` is the recorded time of the event before.
        """
        appended_at, restored_at = row["appended_at"], row["restored_at"]
        before, self.appended_at = self.appended_at, appended_at
        if appended_at > self.latest + CLOCK_AHEAD_MAX:
            raise event_fault("appended_at", "it is in the future")
        if restored_at is not None:
            if restored_at != appended_at:
                raise event_fault("restored_at", "it is not when the event was appended again")
        else:
            late = appended_at - fact.recorded_at
            # A recorded time that was held back to the event before it is later than the clock was.
            # One that was ahead by itself is stored after the event before it all the same.
            out_of_order = before is not None and appended_at < before - STAMPS_APART_MAX
            early = late < -STAMPS_APART_MAX and fact.recorded_at != previous and out_of_order
            if late > STAMPS_APART_MAX or early:
                raise event_fault("appended_at", f"recordedAt is {shown(fact.recorded_at)}")
        ahead = fact.recorded_at - min(appended_at, self.now)
        if ahead > CLOCK_AHEAD_MAX:
            self.first = self.first or fact.position
            self.furthest = max(self.furthest, ahead)
            self.ahead += 1
        _check_erasure(row["erased_at"], erasure, self.latest)

    def finding(self, account_id: str) -> Fault | None:
        """Name the events that were ahead, if there are any."""
        if not self.ahead:
            return None
        return Fault(
            kind="ahead",
            account_id=account_id,
            position=self.first,
            table="event",
            column="public_text",
            reason=f"recordedAt of {self.ahead} events from here on is up to {self.furthest} ahead "
            "of when they were stored: see docs/how-to/verify.md, Events from the future",
        )


def _check_erasure(erased_at: datetime | None, erasure: Row | None, latest: datetime) -> None:
    """Check that an erased private part has its row in ``erasure``, and nothing else has one."""
    if erasure is None:
        if erased_at is not None:
            raise event_fault("erased_at", "the private part is gone, and no erasure was traced")
    elif erased_at is None:
        raise FaultError("erasure", "position", "the private part is still there")
    elif erased_at != erasure["erased_at"]:
        raise event_fault("erased_at", f"the erasure was at {shown(erasure['erased_at'])}")
    elif erased_at > latest + CLOCK_AHEAD_MAX:
        raise event_fault("erased_at", "it is in the future")
