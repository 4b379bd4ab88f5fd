"""The times that the event store stamps on an event: when it was appended, restored and erased."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from saldo.operate.verification.findings import CLOCK_AHEAD_MAX, Wrong, shown

if TYPE_CHECKING:
    from datetime import datetime

    from saldo.domain.events import Event
    from saldo.operate.verification.findings import Row

# The recorder's database transaction ends within 15 s of the moment that it records, and an append
# without locks follows its look within milliseconds. The rest is for a process or a machine that
# was stopped in between, and for clocks that were set.
STAMPS_APART_MAX = timedelta(minutes=5)


def check_stamps(
    row: Row, fact: Event, erasure: Row | None, *, previous: datetime | None, now: datetime
) -> None:
    """Check the stamps against recordedAt, the erasure's trace and the clock; raises Wrong.

    ``previous`` is the recorded time of the event before.
    """
    appended_at, restored_at = row["appended_at"], row["restored_at"]
    if appended_at > now + CLOCK_AHEAD_MAX:
        raise Wrong("event", "appended_at", "it is in the future")
    late = appended_at - fact.recorded_at
    # A recorded time that was held back to the event before it is later than the clock was.
    held_back = fact.recorded_at == previous
    if restored_at is not None:
        if restored_at != appended_at:
            raise Wrong("event", "restored_at", "it is not when the event was appended again")
    elif late > STAMPS_APART_MAX or (late < -STAMPS_APART_MAX and not held_back):
        raise Wrong("event", "appended_at", f"recordedAt is {shown(fact.recorded_at)}")
    _check_erasure(row["erased_at"], erasure, now)


def _check_erasure(erased_at: datetime | None, erasure: Row | None, now: datetime) -> None:
    """Check that an erased private part has its row in ``erasure``, and nothing else has one."""
    if erasure is None:
        if erased_at is not None:
            reason = "the private part is gone, and no erasure was traced"
            raise Wrong("event", "erased_at", reason)
    elif erased_at is None:
        raise Wrong("erasure", "position", "the private part is still there")
    elif erased_at != erasure["erased_at"]:
        raise Wrong("event", "erased_at", f"the erasure was at {shown(erasure['erased_at'])}")
    elif erased_at > now + CLOCK_AHEAD_MAX:
        raise Wrong("event", "erased_at", "it is in the future")
