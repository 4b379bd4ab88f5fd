"""The distribution's packages: what a fresh machine can have without another registry."""

from __future__ import annotations

import os
import shutil
import subprocess

APT_TIMEOUT_S = 600


def install(package: str) -> str | None:
    """Install ``package`` by apt, as root: None, or why it could not be done."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "only root of a Debian can install it"
    # A fresh machine may know of no packages yet, or of ones that have been replaced since.
    wanted = ["install", "--yes", "--no-install-recommends", package]
    if _fault_of(wanted) is None:
        return None
    return _fault_of(["update"]) or _fault_of(wanted)


def _fault_of(command: list[str]) -> str | None:
    done = subprocess.run(
        ["apt-get", *command],  # noqa: S607 - where the distribution has it
        check=False,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=APT_TIMEOUT_S,
    )
    return None if done.returncode == 0 else done.stderr.strip()[-300:] or "apt-get failed"
