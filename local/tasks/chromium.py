"""Chromium for the console's tests: `python -m local.tasks.chromium` installs it if missing.

From the distribution's packages, since those are what a fresh machine can have without another
registry. Where that cannot be done it says so and ends well: the tests then tell what they lack.
"""

from __future__ import annotations

import shutil
import sys

from local.preconditions import held
from local.services import ROOT
from local.tasks import apt_packages

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCK = ROOT / ".saldo" / "browser.lock"


def find() -> str | None:
    """Return the browser's path, or None."""
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
    """Install it, and say so; or say why it could not be done."""
    print("saldo: installing Chromium for the console's tests", flush=True)
    fault = apt_packages.install("chromium")
    if fault is not None:
        print(f"saldo: Chromium could not be installed: {fault}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
