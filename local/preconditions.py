"""What must hold before anything starts, each told in one line when it does not.

Standard library only: the bootstrap runs this with the machine's own Python.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The packages, Kafka's jars and an empty database take about 0.6 GB; the rest is for data.
DISK_FREE_MIN_BYTES = 1_000_000_000


class NotPossible(Exception):
    """It cannot go on; the message says why and what helps."""


def check_disk(folder: Path, *, free_min_bytes: int = DISK_FREE_MIN_BYTES) -> None:
    """Raise NotPossible if the disk of ``folder`` is nearly full."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < free_min_bytes:
        raise NotPossible(
            f"The disk that holds {folder} is nearly full: {free_bytes / 1e9:.1f} GB are free, "
            f"Saldo needs {free_min_bytes / 1e9:.1f} GB."
        )


def check_port(port: int, *, function: str, setting: str) -> None:
    """Raise NotPossible if ``port`` is in use, naming the setting of another one."""
    if port_in_use(port):
        raise NotPossible(
            f"Port {port}, for {function}, is in use. Stop what listens there, "
            f"or choose another: make up {setting}={port + 1000}"
        )


def port_in_use(port: int) -> bool:
    """Return whether a server could not bind ``port`` here, on any address or on loopback."""
    for address in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - bound for a moment, never listening
        with socket.socket() as probe:
            # As servers do: a port whose last connections are in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return True
    return False


@contextlib.contextmanager
def held(path: Path, *, otherwise: str | None = None) -> Iterator[None]:
    """Hold the lock file ``path``; the kernel lets go of it when the process ends, however it ends.

    With ``otherwise``, NotPossible with that text when another process holds it; without, wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if otherwise else 0))
        except BlockingIOError:
            raise NotPossible(otherwise or "") from None
        yield
