"""A command beside a container engine: `python -m local.containers.engine COMMAND...`.

An engine that runs already is taken. Where none does, but root may start one (`dockerd` is
installed), it is started for as long as the command runs, with its data in `.saldo/engine` and in a
separate network: no packet leaves it, no port of the machine is taken, and a build there
shows that it needs no network. What the stand-in bases are made of is therefore fetched before.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from local.containers.stand_in_bases import bases
from local.preconditions import NotPossible

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".saldo" / "engine"
INSIDE = "--inside"
# Tells the images' tests that no registry can be reached from here.
STAND_IN_BASES = "SALDO_STAND_IN_BASES"
# From this version on the client builds by its plugin alone; earlier ones bring BuildKit along.
PLUGIN_SINCE = 23
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 120.0
POLL_S = 0.2


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit status, or 1 when an engine cannot be started."""
    if arguments[:1] == [INSIDE]:
        return run_inside(arguments[1:])
    if answers() or shutil.which("dockerd") is None or os.geteuid() != 0:
        # Without an engine the command says itself what it cannot do.
        return subprocess.run(arguments, check=False).returncode
    try:
        building_client()
        bases.fetch()
    except NotPossible as error:
        print(error, file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "local.containers.engine", INSIDE, *arguments]
    return subprocess.run(["unshare", "--net", "--", *command], cwd=ROOT, check=False).returncode  # noqa: S607


def answers() -> bool:
    """Return whether an engine answers where DOCKER_HOST, or its default, says."""
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],  # noqa: S607
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    # A client without an engine prints an empty version, and says success.
    return done.returncode == 0 and bool(done.stdout.strip())


def building_client() -> Path:
    """Return the first client on the PATH that builds with BuildKit; NotPossible if none does.

    A machine may have two: one from its distribution, and one of somebody else's before it.
    """
    found = [Path(folder) / "docker" for folder in os.get_exec_path()]
    for client in found:
        if not os.access(client, os.X_OK):
            continue
        asked = [["buildx", "version"], ["version", "--format", "{{.Client.Version}}"]]
        plugin, version = [
            subprocess.run([client, *words], capture_output=True, text=True, check=False)
            for words in asked
        ]
        # Without an engine the second fails, once it has said its own version.
        major = version.stdout.strip().partition(".")[0]
        if plugin.returncode == 0 or (major.isdecimal() and int(major) < PLUGIN_SINCE):
            return client
    raise NotPossible("no docker on the PATH can build: install its plugin buildx")


def run_inside(command: Sequence[str]) -> int:
    """Start the engine in a separate network, run the command, stop the engine."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607
    # A Unix socket's path is short, and a clone's may not be.
    state = Path(f"/run/saldo-engine-{os.getpid()}")
    os.environ["DOCKER_HOST"] = f"unix://{state}/socket"
    os.environ[STAND_IN_BASES] = "1"
    clients = state / "bin"
    clients.mkdir(parents=True)
    (clients / "docker").symlink_to(building_client())
    os.environ["PATH"] = f"{clients}{os.pathsep}{os.environ['PATH']}"
    with (FOLDER / "dockerd.log").open("ab") as log:
        engine = subprocess.Popen(
            ["dockerd", "--data-root", str(FOLDER / "data"), "--exec-root", str(state / "exec")]
            + ["--pidfile", str(state / "pid"), "--host", os.environ["DOCKER_HOST"]],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers():
            if engine.poll() is not None or time.monotonic() > deadline:
                print(f"dockerd did not start: see {FOLDER}/dockerd.log", file=sys.stderr)
                return 1
            time.sleep(POLL_S)
        return subprocess.run(command, check=False).returncode
    finally:
        engine.send_signal(signal.SIGTERM)
        try:
            engine.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            engine.kill()
        shutil.rmtree(state, ignore_errors=True)
        # Gigabytes of layers, of which the next run would use none: its bases are new ones.
        shutil.rmtree(FOLDER / "data", ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
