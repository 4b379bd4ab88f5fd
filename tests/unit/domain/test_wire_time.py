"""Times on the wire: one form for every fraction of a second and every zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from saldo.domain.events import format_time

ZONES = st.integers(-720, 840).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1900, 1, 2), datetime(2200, 1, 1), timezones=ZONES | st.just(UTC)))  # noqa: DTZ001 - the strategy adds the zone
def test_every_time_is_written_with_all_its_digits(moment: datetime) -> None:
    assert format_time(moment) == f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
