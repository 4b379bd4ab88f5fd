"""Chromium for the console's tests: `python -m local.browser` installs it where it is missing.

From the distribution's packages, since those are what a fresh machine can have without another
registry. Where that cannot be done it says so and ends well: the tests then tell what they lack.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from local.checks import held
from local.services import ROOT

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCK = ROOT / ".saldo" / "browser.lock"
APT_TIMEOUT_S = 600
INSTALL = ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]


def find() -> str | None:
    """The browser's path, or None."""
    return next((path for path in map(shutil.which, NAMES) if path is not None), None)


def main() -> int:
    """Install it unless it is there; always 0."""
    if find() is not None:
        return 0
    with held(LOCK):
        if find() is None:
            install()
    return 0


def install() -> None:
    """By apt, as root; its words are shown where it fails."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("saldo: no Chromium is here, and only root of a Debian can install it", flush=True)
        return
    print("saldo: installing Chromium for the console's tests", flush=True)
    # A fresh machine may know of no packages yet, or of ones that have been replaced since.
    if not _ran(INSTALL) and _ran(["apt-get", "update"]) and not _ran(INSTALL):
        print("saldo: Chromium could not be installed", file=sys.stderr, flush=True)


def _ran(command: list[str]) -> bool:
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command,
        check=False,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=APT_TIMEOUT_S,
    )
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr, flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
