"""The times that the event store stamps on an event: when it was appended, restored and erased."""

from __future__ import annotations

from dataclasses import dataclass, field
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
# without locks follows its read within milliseconds. The rest is for a process or a machine that
# was stopped in between, and for clocks that were set.
STAMPS_APART_MAX = timedelta(minutes=5)


@dataclass(slots=True)
class Apart:
    """Events whose recordedAt and appended_at are further apart than clocks in time explain."""

    events: int = 0
    first: int = 0
    furthest: timedelta = timedelta(0)

    def note(self, position: int, by: timedelta) -> None:
        """Count the event at `position`."""
        self.events += 1
        self.first = self.first or position
        self.furthest = max(self.furthest, by)


@dataclass(slots=True)
class Stamps:
    """Checks the stamps of one account's events, and notes those that a wrong clock explains.

    Such events are in the chain and cannot be put right: they are no fault.
    """

    now: datetime
    # The latest time that the store's clock is known to have shown: now, or what it has dated.
    latest: datetime
    ahead: Apart = field(default_factory=Apart)
    late: Apart = field(default_factory=Apart)

    def check(self, row: Row, fact: Event) -> None:
        """Check against recordedAt, the erasure's trace and the clock; raise FaultError."""
        appended_at, restored_at = row["appended_at"], row["restored_at"]
        if appended_at > self.latest + CLOCK_AHEAD_MAX:
            raise event_fault("appended_at", "it is in the future")
        if restored_at not in {None, appended_at}:
            raise event_fault("restored_at", "it is not when the event was appended again")
        late = appended_at - fact.recorded_at
        if late > STAMPS_APART_MAX and restored_at is None:
            self.late.note(fact.position, late)
        ahead = fact.recorded_at - min(appended_at, self.now)
        if ahead > CLOCK_AHEAD_MAX:
            self.ahead.note(fact.position, ahead)
        erased_at, traced_at = row["erased_at"], row["traced_at"]
        if erased_at is not None and traced_at is None:
            raise event_fault("erased_at", "the private part is gone, and no erasure was traced")
        if erased_at is None and traced_at is not None:
            raise FaultError("erasure", "position", "the private part is still there")
        if erased_at != traced_at:
            raise event_fault("erased_at", f"the erasure was at {shown(traced_at)}")
        if erased_at is not None and erased_at > self.latest + CLOCK_AHEAD_MAX:
            raise event_fault("erased_at", "it is in the future")

    def findings(self, account_id: str) -> list[Fault]:
        """Name the events at a wrong time, once for all of the account."""
        return [
            Fault(
                kind="clock",
                account_id=account_id,
                position=apart.first,
                table="event",
                column="appended_at",
                reason=f"recordedAt of {apart.events} events from here on is up to "
                f"{apart.furthest} {how} they were stored: see docs/how-to/verify.md, "
                "Events at a wrong time",
            )
            for how, apart in (("after", self.ahead), ("before", self.late))
            if apart.events
        ]
