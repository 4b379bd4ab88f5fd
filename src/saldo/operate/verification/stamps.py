"""The times that the event store's clock stamps on an event."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from saldo.operate.verification.findings import Wrong

if TYPE_CHECKING:
    from datetime import datetime

    from saldo.domain.events import Event
    from saldo.operate.verification.findings import Row

# The clocks of the recorder, which stamps recorded_at, and of the database, which stamps
# appended_at, may differ by so much. An event is stamped by the database last.
CLOCK_SKEW_MAX = timedelta(hours=1)


def check_stamps(row: Row, fact: Event, now: datetime) -> None:
    """Check when the event was appended and erased; raises Wrong."""
    for column in ("appended_at", "erased_at"):
        stamp = row[column]
        if stamp is not None and not (
            fact.recorded_at - CLOCK_SKEW_MAX <= stamp <= now + CLOCK_SKEW_MAX
        ):
            raise Wrong("event", column, "it is before recordedAt, or in the future")
