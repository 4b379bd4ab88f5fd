"""The fault matrix in its quick form: every cell once, on one rig; the seed is printed.

`make faults` plays the long form. Seeds that failed there are played again here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.reliability.faults import matrix, rig
from tests.reliability.faults.cells import CELLS
from tests.reliability.faults.scene import play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.reliability.faults.scene import Cell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.asyncio(loop_scope="module"),
]
CI_SEED = 20_261
PLAYED = [
    pytest.param(cell, seed, id=f"{cell.name}{'' if seed is None else f'-{seed}'}")
    for cell in CELLS
    for seed in (None, *matrix.seeds_kept().get(cell.name, ()))
]


class Rigs:
    """The rig that runs; a new one after a cell that failed."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._open = contextlib.AsyncExitStack()
        self._rig: rig.Rig | None = None

    async def get(self, cell: Cell) -> rig.Rig:
        if self._rig is not None and not self._rig.can_play(cell.name):
            await self.close()
        if self._rig is None:
            self._rig = await self._open.enter_async_context(rig.opened())
            # Two replicas are two processes: these.
            self.say(self._rig.pids())
        return self._rig

    async def close(self) -> None:
        self._rig = None
        await self._open.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rigs(request: pytest.FixtureRequest) -> AsyncIterator[Rigs]:
    capturing = request.config.pluginmanager.get_plugin("capturemanager")
    assert capturing is not None

    def say(line: str) -> None:
        # Seen also of a cell that passes.
        with capturing.global_and_fixture_disabled():
            sys.stdout.write(f"\n{line} ")
            sys.stdout.flush()

    held = Rigs(say)
    yield held
    await held.close()


def drawn_seed() -> int:
    """Return a random seed; in CI always the same, so that runs are repeatable.

    And not by the `random` module, which the tests seed alike.
    """
    return CI_SEED if "CI" in os.environ else secrets.randbelow(1_000_000)


@pytest.mark.parametrize(("cell", "kept_seed"), PLAYED)
async def test_nothing_is_lost_doubled_or_stale(
    cell: Cell, kept_seed: int | None, rigs: Rigs
) -> None:
    seed = drawn_seed() if kept_seed is None else kept_seed
    rigs.say(f"cell {cell.name}, seed {seed}")
    try:
        result = await play(cell, await rigs.get(cell), seed=seed, form="quick")
        assert result.violations == []
        assert result.hits > 0, f"nothing was hit: {cell.window}"
    except BaseException:
        await rigs.close()
        raise
