"""The comparison of a process's clock with the event store's, which dates everything."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from saldo.serve.clock import CLOCK_OFF_MAX_S, StoreClock
from tests.support.controls import NOW


class Clocks:
    """The clocks of a process whose wall clock is ``ahead_s`` ahead of the store's."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.ahead_s = 0.0
        self.clock = StoreClock(self.wall, lambda: self.elapsed_s)

    def wall(self) -> float:
        return NOW.timestamp() + self.elapsed_s + self.ahead_s

    async def read(self, takes_s: float = 0.2) -> None:
        """Ask a store that takes ``takes_s``, and reads its clock in the middle of that."""

        async def ask() -> object:
            self.elapsed_s += takes_s / 2
            now = NOW + timedelta(seconds=self.elapsed_s)
            self.elapsed_s += takes_s / 2
            return now

        await self.clock.read(ask)  # type: ignore[arg-type]


@pytest.mark.parametrize("ahead_s", [0.0, 600.0, 34_560_000.0, -600.0])
async def test_the_difference_is_measured_between_the_clocks(ahead_s: float) -> None:
    clocks = Clocks()
    clocks.ahead_s = ahead_s
    await clocks.read()
    assert clocks.clock.ahead_s == pytest.approx(ahead_s, abs=0.11)


async def test_a_slow_response_is_not_taken_for_a_difference() -> None:
    clocks = Clocks()
    await clocks.read(takes_s=30.0)
    assert clocks.clock.ahead_s == 0.0


async def test_the_stores_time_continues_when_the_wall_clock_jumps() -> None:
    clocks = Clocks()
    assert clocks.clock.now() is None
    await clocks.read()
    clocks.ahead_s = 86_400.0
    clocks.elapsed_s += 7.0
    now = clocks.clock.now()
    assert now is not None
    assert (now - NOW).total_seconds() == pytest.approx(7.1, abs=0.11)


async def test_a_store_clock_set_back_is_noticed() -> None:
    clocks = Clocks()
    for elapsed_s, store_s, set_back_s in ((0, 0, 0), (60, 60, 0), (61, 60, 0), (62, 5, 62)):
        clocks.elapsed_s = elapsed_s
        clocks.clock.note(clocks.wall(), NOW + timedelta(seconds=store_s))
        assert clocks.clock.set_back_s == set_back_s


async def test_a_wrong_clock_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    with caplog.at_level(logging.WARNING):
        for ahead_s in (CLOCK_OFF_MAX_S - 0.1, -60.0, -60.0, 0.0, 60.0):
            clocks.ahead_s = ahead_s
            await clocks.read(takes_s=0.0)
    assert [record.args for record in caplog.records] == [
        (pytest.approx(-60.0),),
        (pytest.approx(60.0),),
    ]
