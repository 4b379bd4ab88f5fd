"""The supervisor of the local stack: it keeps its processes running and ends them in order.

A process that ends unexpectedly is reported with its log's last lines and started again, after a
pause that doubles. If the others need it, it is given up after a few tries, and the stack with it.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from local import processes
from local.preconditions import NotPossible
from local.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from local.processes import Child

RESTART_PAUSE_S = 0.5
RESTART_PAUSE_MAX_S = 30.0
# After this long a process has recovered, and its next end is a first one again.
STEADY_S = 60.0
ESSENTIAL_RESTARTS_MAX = 3
STOP_TIMEOUT_S = 120.0
WORKERS_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started process."""

    identity: Identity
    ready: Callable[[], bool]
    last_words: Callable[[], list[str]]
    ended: Callable[[], int | None]
    stop: Callable[[], None]
    kill: Callable[[], None]

    @staticmethod
    def of(child: Child, ready: Callable[[], bool]) -> Running:
        """Return a plain child process, stopped by SIGTERM."""
        return Running(
            identity=child.identity,
            ready=ready,
            last_words=child.last_words,
            ended=child.ended,
            stop=lambda: child.stop(STOP_TIMEOUT_S),
            kill=child.kill,
        )


@dataclass(slots=True, kw_only=True)
class Service:
    """What keeps one process of the stack running."""

    name: str
    start: Callable[[], Running]
    # The group in which it is stopped, lowest first; a group's members are stopped together.
    stopped_in: int
    essential: bool = False
    running: Running | None = None
    started_at: float = 0.0
    failures: int = 0
    start_at: float | None = None


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """All services of the stack; ``state_file`` names their processes for a later run."""

    state_file: Path
    say: Callable[[str], None]
    services: list[Service] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, service: Service) -> None:
        """Start ``service`` and keep it from now on. Safe to call from several threads."""
        running = service.start()
        with self._lock:
            service.running = running
            service.started_at = time.monotonic()
            if service not in self.services:
                self.services.append(service)
            write_state(self.state_file, self.services)

    def look(self) -> None:
        """Restart ended processes when due; raise NotPossible if one is given up."""
        for service in self.services:
            if service.start_at is not None:
                if time.monotonic() >= service.start_at:
                    self._start_again(service)
                continue
            status = None if service.running is None else service.running.ended()
            if status is not None and service.running is not None:
                if time.monotonic() - service.started_at > STEADY_S:
                    service.failures = 0
                self._failed(
                    service,
                    f"{service.name} {processes.how_it_ended(status)}",
                    service.running.last_words(),
                )

    def stop(self) -> None:
        """End everything, group by group."""
        for group in sorted({service.stopped_in for service in self.services}):
            members = [
                service.running
                for service in self.services
                if service.stopped_in == group and service.running is not None
            ]
            with ThreadPoolExecutor(WORKERS_MAX) as pool:
                list(pool.map(lambda running: running.stop(), members))

    def kill(self) -> None:
        """End everything at once."""
        for service in self.services:
            if service.running is not None:
                service.running.kill()

    def _start_again(self, service: Service) -> None:
        service.start_at = None
        try:
            self.start(service)
        except Exception as error:  # noqa: BLE001 - it is reported, and bounded
            self._failed(service, f"{service.name} could not be started: {error}", [])
        else:
            self.say(f"{service.name} was started again.")

    def _failed(self, service: Service, what: str, log_lines: list[str]) -> None:
        told = "\n".join([f"{what}.", *(f"    {line}" for line in log_lines)])
        service.failures += 1
        if service.essential and service.failures > ESSENTIAL_RESTARTS_MAX:
            raise NotPossible(
                f"{told}\n{service.name} was started {service.failures} times: enough."
            )
        pause_s = min(RESTART_PAUSE_S * 2 ** (service.failures - 1), RESTART_PAUSE_MAX_S)
        self.say(f"{told}\n{service.name} is started again in {pause_s:.1f} s.")
        service.start_at = time.monotonic() + pause_s


def write_state(state_file: Path, services: Iterable[Service]) -> None:
    """Write which process serves what, in the order in which they are to be stopped."""
    ordered = sorted(services, key=lambda service: service.stopped_in)
    state = {
        service.name: asdict(service.running.identity)
        for service in ordered
        if service.running is not None
    }
    unfinished = state_file.with_suffix(".new")
    unfinished.write_text(json.dumps(state, indent=1))
    unfinished.replace(state_file)


def read_state(state_file: Path) -> dict[str, Identity]:
    """Read the processes that the last run recorded; empty if it recorded none."""
    try:
        state = json.loads(state_file.read_text())
    except FileNotFoundError:
        return {}
    return {name: Identity(**identity) for name, identity in state.items()}
