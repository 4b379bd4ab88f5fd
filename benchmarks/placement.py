"""The core of each process: the function under test has one of its own.

On two cores the load generator and all servers share the other one, so that their use of caches
and the scheduler is not counted for the function. If the system has no affinity, or only one core,
nothing is pinned, and the report says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass

import psutil

PINNED_CORES_MIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The cores of the function under test, of the load generator, and of all the rest."""

    function: frozenset[int]
    load: frozenset[int]
    rest: frozenset[int]

    @property
    def pinned(self) -> bool:
        """Whether the function has a core of its own."""
        return self.function.isdisjoint(self.load | self.rest)

    def words(self, *command: str) -> list[str]:
        """Return ``command``, pinned to the load generator's cores."""
        if not self.pinned or shutil.which("taskset") is None:
            return list(command)
        return ["taskset", "--cpu-list", ",".join(map(str, sorted(self.load))), *command]


def choose_placement() -> Placement:
    """Choose the placement for this machine."""
    if not hasattr(os, "sched_setaffinity"):
        everywhere = frozenset(range(os.cpu_count() or 1))
        return Placement(function=everywhere, load=everywhere, rest=everywhere)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < PINNED_CORES_MIN:
        return Placement(function=frozenset(cores), load=frozenset(cores), rest=frozenset(cores))
    function, others = cores[0], cores[1:]
    rest = others[1:] or others
    return Placement(
        function=frozenset({function}), load=frozenset({others[0]}), rest=frozenset(rest)
    )


def pin(pid: int, cores: frozenset[int]) -> None:
    """Put a process, its children and all their threads on ``cores``."""
    if not hasattr(os, "sched_setaffinity"):
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                for thread in each.threads():
                    # A thread, or a backend, that has just ended needs no place.
                    with contextlib.suppress(ProcessLookupError):
                        os.sched_setaffinity(thread.id, cores)
