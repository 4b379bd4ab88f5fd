"""Child processes: started with a log file, awaited until they are ready, ended for certain.

A child runs in its own session, so that Ctrl-C in the terminal reaches only the process that
started it, which then ends its children in the right order. A process that another one started is
known by its Identity: a pid alone may since have become another process's.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.client
import os
import secrets
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from local.preconditions import NotPossible, port_in_use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

POLL_S = 0.05
KILL_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 10.0  # short: it is asked again
LOG_MAX_BYTES = 10_000_000
LOG_TAIL_LINES = 8
LOG_TAIL_MAX_BYTES = 16_384
# The kernel counts a start in ticks since boot, and the clock of boot is corrected now and then.
STARTED_TOLERANCE_S = 2.0
FREE_PORTS = range(20_000, 32_000)
FREE_PORT_TRIES_MAX = 100


class NotReady(Exception):
    """A child ended, or was not ready in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One process, told apart from a later one with the same pid by the time of its start."""

    pid: int
    started: float  # seconds since the epoch

    @staticmethod
    def of(pid: int) -> Identity:
        """Return the identity of the process ``pid``; raise psutil.NoSuchProcess."""
        return Identity(pid=pid, started=psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """Return the process, or None if it has ended, even as a zombie."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            same = abs(process.create_time() - self.started) < STARTED_TOLERANCE_S
        except psutil.NoSuchProcess:
            return None
        return process if same else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process that this one started, and where its output goes."""

    name: str
    log: Path
    log_start: int  # the log's size when it started: what is before it, an earlier one said
    identity: Identity
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        """Return its process id, which is the id of its group and session too."""
        return self.process.pid

    def ended(self) -> int | None:
        """Return its exit status, -N for signal N, or None while it runs."""
        return self.process.poll()

    def last_words(self) -> list[str]:
        """Return the last lines that it wrote to its log."""
        return tail(self.log, self.log_start)

    def said(self, line: str) -> bool:
        """Return whether it wrote ``line`` to its log."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            return any(written.rstrip() == line.encode() for written in log)

    def stop(self, timeout_s: float, *signals: signal.Signals) -> None:
        """Ask it to end by each of ``signals`` (SIGTERM) in turn, then make it."""
        for number in signals or (signal.SIGTERM,):
            if self.ended() is not None:
                return
            self.process.send_signal(number)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                continue
        self.kill()

    def kill(self) -> None:
        """End it as a power cut would: nothing is drained, closed or written."""
        self.process.kill()
        self.process.wait()


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Child:
    """Start ``command`` with its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
        log.replace(log.with_suffix(".log.old"))
    with log.open("ab") as output:
        log_start = output.tell()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    identity = Identity.of(process.pid)
    return Child(name=name, log=log, log_start=log_start, identity=identity, process=process)


def wait_until(
    ended: Callable[[], int | None],
    ready: Callable[[], bool],
    *,
    name: str,
    timeout_s: float,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Wait until ``ready()``; NotReady when the process ends first, on time-out or cancelled."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        status = ended()
        if status is not None:
            raise NotReady(f"{name} {how_it_ended(status)} while it started")
        if cancelled():
            raise NotReady(f"{name} was not waited for")
        if time.monotonic() > deadline:
            raise NotReady(f"{name} was not ready within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def answers(port: int, path: str = "/readyz") -> bool:
    """Return whether a server on ``port`` of this machine answers GET ``path`` with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def listens(pid: int, port: int) -> bool:
    """Return whether the process ``pid`` itself listens on ``port``, and no other."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        for connection in connections
    )


def end(identity: Identity, *, timeout_s: float, by: signal.Signals = signal.SIGTERM) -> None:
    """End a process that another one started: asked first, killed after ``timeout_s``."""
    for number, patience_s in ((by, timeout_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
        process = identity.process()
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        deadline = time.monotonic() + patience_s
        while identity.process() is not None and time.monotonic() < deadline:
            time.sleep(POLL_S)


def with_argument(argument: str) -> Iterator[Identity]:
    """Yield the processes that were started with ``argument`` on their command line."""
    for process in psutil.process_iter():
        try:
            if argument in process.cmdline():
                yield Identity(pid=process.pid, started=process.create_time())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def how_it_ended(status: int) -> str:
    """Describe an exit status in words."""
    if status >= 0:
        return f"ended with exit status {status}"
    return f"was killed by {signal.Signals(-status).name}"


def tail(log: Path, start: int = 0) -> list[str]:
    """Return the last non-empty lines of ``log`` from byte ``start`` on, oldest first."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - LOG_TAIL_MAX_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-LOG_TAIL_LINES:]


def free_port() -> int:
    """Return a free port below those that the kernel gives to connections.

    One of those may become a connection's before a server has bound it. The port stays this
    process's until it ends: others that look at the same moment get another one.
    """
    for _ in range(FREE_PORT_TRIES_MAX):
        # Not by the `random` module, which tests seed alike.
        port = FREE_PORTS.start + secrets.randbelow(len(FREE_PORTS))
        if claim(port) and not port_in_use(port):
            return port
    raise NotPossible(f"No port from {FREE_PORTS.start} to {FREE_PORTS.stop} is free.")


def claim(port: int) -> bool:
    """Claim the port for this process by locking a byte of a file; return whether it is free."""
    if port in _claimed:
        return False
    try:
        fcntl.lockf(_claims_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _claimed.add(port)
    return True


_claimed: set[int] = set()


@functools.cache
def _claims_file() -> int:
    """Open for the process's life: closing it anywhere would let go of all that it locked."""
    path = Path(tempfile.gettempdir()) / f"saldo-ports-{os.geteuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
