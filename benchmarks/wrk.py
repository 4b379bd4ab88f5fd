"""The load generator: wrk, compiled, from Debian's packages."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local.tasks import apt_packages

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.placement import Placement

SCRIPTS = Path(__file__).with_name("scripts")
# A run that does not end by itself is ended this long after it should have.
PATIENCE_S = 60.0
ANSWER_TIMEOUT_S = 30


class NoFigure(Exception):
    """A figure could not be taken; the message says why and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run of wrk counted. Latencies are of a closed loop: see open_loop for others.

    A run that ends by itself, when its requests are used up, has none.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def ensure_wrk() -> None:
    """Install wrk where it is missing and that can be done; NoFigure otherwise."""
    if shutil.which("wrk") is not None:
        return
    fault = apt_packages.install("wrk")
    if fault is not None:
        raise NoFigure(
            f"wrk is not installed: {fault}. On Debian and Ubuntu: sudo apt-get install wrk"
        )


def run_wrk(  # noqa: PLR0913 - each is one of wrk's options
    placement: Placement,
    script: str,
    *arguments: object,
    port: int,
    connections: int,
    seconds: float,
    meanwhile: Callable[[], None] | None = None,
) -> Load:
    """Send requests as ``script`` makes them; NoFigure when one was not answered with a 2xx.

    ``meanwhile`` runs while the requests are sent.
    """
    command = placement.words("wrk", "--threads", "1", "--connections", str(connections))
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", f"{ANSWER_TIMEOUT_S}s"]
    command += ["--script", str(SCRIPTS / f"{script}.lua"), f"http://127.0.0.1:{port}/"]
    command += ["--", *map(str, arguments)]
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            if meanwhile is not None:
                meanwhile()
            output, _ = process.communicate(timeout=seconds + PATIENCE_S)
        except BaseException:
            process.kill()
            raise
    took_s = time.perf_counter() - began
    said = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if process.returncode != 0 or not said:
        raise NoFigure(f"wrk failed: {output.strip()[-300:]}")
    counted = json.loads(said[0].removeprefix("RESULT "))
    if counted["not_answered"] or counted["not_2xx"] or not counted["requests"]:
        raise NoFigure(f"{script}: not every request was answered well: {counted}")
    return Load(
        requests=counted["requests"],
        seconds=counted.get("seconds", took_s),
        p50_ms=counted.get("p50_ms", 0.0),
        p99_ms=counted.get("p99_ms", 0.0),
    )
