"""Shares of the recorder's profile, from a sampling profiler (py-spy) under load.

The product cannot switch features off for comparison, so each share is counted in the
profile: the samples in which one of the named functions is on the stack, of all samples in which
a thread held the interpreter (one that waits does no work). The functions are named as objects: one
that is renamed or merged into another stops the benchmark, and does not become a share of nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.wrk import PATIENCE_S, NoFigure
from saldo.domain import events
from saldo.record import batch, intent, recorder
from saldo.serve.http import auth
from saldo.serve.http import request as http

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType

    from benchmarks.stack import Stack

RATE_HZ = 250
SAMPLES_MIN = 10


def _codes(*functions: Any) -> frozenset[tuple[str, str]]:
    """Return (file, name) of each function, as py-spy names a frame."""
    found: set[tuple[str, str]] = set()
    for function in functions:
        code: CodeType = function.__code__
        found.add((code.co_filename, code.co_name))
    return frozenset(found)


NAMED: dict[str, frozenset[tuple[str, str]]] = {
    "share_idempotency": _codes(
        http.idempotency_key_of,
        http.read_idempotency_key,
        intent.keyed_hash,
        intent.canonical,
        events.request_hash,
        # Not the look: it reads the accounts, and would be made without a key, too.
        batch._lookup_of,  # noqa: SLF001
    ),
    "share_chain": _codes(events.chain_hash, events.private_hash, events.genesis_hash),
    "share_auth": _codes(
        recorder.Recorder.caller,
        auth.caller_of,
        auth.Authenticator.authenticate,
    ),
    "share_tracing": frozenset(),
}
# All of OpenTelemetry, and what calls it, is tracing.
TRACING_FILES = (
    "/opentelemetry/",
    "/saldo/serve/telemetry/tracing.py",
    "/saldo/serve/telemetry/otlp.py",
)


def profile(stack: Stack, name: str, seconds: float) -> dict[str, float]:
    """Return each share in percent of the samples; NoFigure if no profile can be taken."""
    output = stack.folder / f"{name}.profile"
    command: list[str | Path] = [Path(sys.executable).with_name("py-spy"), "record"]
    command += ["--pid", str(stack.children[name].pid), "--duration", str(max(1, round(seconds)))]
    command += ["--rate", str(RATE_HZ), "--format", "raw", "--full-filenames", "--gil"]
    command += ["--output", output]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds + PATIENCE_S,
        check=False,
    )
    if done.returncode != 0 or not output.exists():
        raise NoFigure(
            f"py-spy could not look into the process (it needs root, or ptrace of one's own"
            f" processes): {done.stderr.strip()[-300:]}"
        )
    return shares_of(output.read_text().splitlines())


def shares_of(lines: Iterable[str]) -> dict[str, float]:
    """Return the shares in percent of a raw profile of py-spy: frames by ``;``, then a count."""
    samples = 0
    counts: Counter[str] = Counter()
    for line in lines:
        stack_text, _, count_text = line.rpartition(" ")
        count = int(count_text)
        samples += count
        frames = {frame_of(text) for text in stack_text.split(";")}
        for key, named in NAMED.items():
            if frames & named:
                counts[key] += count
        if any(part in file for file, _ in frames for part in TRACING_FILES):
            counts["share_tracing"] += count
    if samples < SAMPLES_MIN:
        raise NoFigure(f"the profile has {samples} samples only")
    return {key: 100 * counts[key] / samples for key in NAMED}


def frame_of(text: str) -> tuple[str, str]:
    """Return (file, function) of a frame such as ``decide (/src/saldo/domain/account.py:12)``."""
    name, _, place = text.partition(" (")
    return place.rpartition(":")[0], name.rpartition(".")[2]
