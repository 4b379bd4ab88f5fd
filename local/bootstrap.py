"""The virtual environment .venv: `python3 -m local.bootstrap local`, `dev` or `uv`.

`local` installs what running needs, `dev` everything, `uv` only the installer. This runs with the
machine's own Python, so it needs only the standard library, and its syntax is kept plain enough for
an older Python to report that it is too old.

Every package comes from a lock file with hashes. A stamp in .venv names what was installed last, by
the hash of everything that decides it. While an installation goes on, another file is there: an
interrupted run leaves packages that the installer cannot repair, so if that file is found, .venv is
created again. A run with nothing to do costs nothing.
"""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from local.preconditions import NotPossible, check_disk, held

TYPE_CHECKING = False  # as typing's, whose import costs more than all the rest of this file's
if TYPE_CHECKING:
    from collections.abc import Mapping

PYTHON_MIN = (3, 11)
ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
UNFINISHED = VENV / "saldo-unfinished"
# uv itself, and what builds this package.
TOOLS_LOCK = ROOT / "locks" / "tools.txt"
INSTALL_LOCK = ROOT / ".saldo" / "bootstrap.lock"
# pip's settings for the machine's registry and certificates, and uv's names of the same.
PIP_SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}


def main() -> int:
    """Prepare what the one argument names; the exit status."""
    wanted = sys.argv[1]
    try:
        check_python()
        if not is_ready(wanted):
            with held(INSTALL_LOCK):
                prepare(wanted)
    except NotPossible as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next run goes on from here.", file=sys.stderr)
        return 130
    return 0


def check_python() -> None:
    """Raise NotPossible if this Python is too old."""
    if sys.version_info < PYTHON_MIN:
        found = ".".join(str(part) for part in sys.version_info[:2])
        raise NotPossible(
            f"Saldo needs Python 3.11 or newer, and this is {found}. "
            "Name another: make up PYTHON=/path/to/python3.11"
        )


def is_ready(wanted: str) -> bool:
    """Return whether .venv holds it already. What dev installs has all that local does."""
    if wanted == "uv":
        return uv_is_installed()
    return not UNFINISHED.exists() and any(
        stamp(name).exists() and stamp(name).read_text() == digest(name) for name in {wanted, "dev"}
    )


def stamp(name: str) -> Path:
    """Return the file that says which ``name`` was installed last, and completely."""
    return VENV / f"saldo-{name}.stamp"


def digest(name: str) -> str:
    """Return a hash of all inputs of an installation into .venv."""
    parts = [ROOT / "locks" / f"{name}.txt", TOOLS_LOCK, ROOT / "pyproject.toml"]
    text = b"\0".join(part.read_bytes() for part in parts)
    # A folder that was moved or copied has scripts that still name the old place.
    return hashlib.sha256(text + f"\0{ROOT}\0{sys.version}".encode()).hexdigest()


def prepare(wanted: str) -> None:
    """Bring .venv from the state that an earlier run left to what ``wanted`` needs."""
    check_disk(ROOT)
    if UNFINISHED.exists() or not venv_is_whole():
        say("creating the virtual environment .venv")
        create_venv()
    environ = registry_environ()
    if not uv_is_installed():
        say("installing uv, the package installer")
        pip: list[str | Path] = [
            VENV_PYTHON,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--force-reinstall",
        ]
        run([*pip, "--no-deps", "--require-hashes", "--requirement", TOOLS_LOCK], os.environ)
    if wanted == "uv" or is_ready(wanted):
        return
    UNFINISHED.touch()
    for name in ("local", "dev"):
        stamp(name).unlink(missing_ok=True)
    say(f"installing the packages of locks/{wanted}.txt (the first run downloads them)")
    install: list[str | Path] = [UV, "pip", "install", "--python", VENV_PYTHON]
    install += [] if sys.stderr.isatty() else ["--quiet"]
    # Compiled now, once: a function's start takes a third of the time with the bytecode there.
    locked = ["--compile-bytecode", "--require-hashes", "--requirement"]
    run([*install, *locked, ROOT / "locks" / f"{wanted}.txt"], environ)
    run([*install, "--no-deps", "--build-constraints", TOOLS_LOCK, "--editable", ROOT], environ)
    stamp(wanted).write_text(digest(wanted))
    UNFINISHED.unlink()


def venv_is_whole() -> bool:
    """Return whether .venv's scripts run, and here: it may be half made, or moved."""
    return succeeds([VENV / "bin" / "pip", "--version"], prints=f" from {VENV}/")


def create_venv() -> None:
    """Create .venv from this Python, replacing an existing one."""
    try:
        import ensurepip  # noqa: F401, PLC0415 - some distributions ship it apart from Python
    except ImportError:
        raise NotPossible(
            "This Python cannot create virtual environments (ensurepip is missing): "
            "install the package python3-venv, or name another: make up PYTHON=/path/to/python3"
        ) from None
    run([sys.executable, "-m", "venv", "--clear", VENV], os.environ)


def uv_is_installed() -> bool:
    """Return whether the uv that is locked is there and runs."""
    locked = TOOLS_LOCK.read_text().split("uv==", 1)[1].split(maxsplit=1)[0]
    return succeeds([UV, "--version"], prints=f"uv {locked} ")


def registry_environ() -> dict[str, str]:
    """Return the environment for uv, with the registry settings of this machine's pip."""
    environ = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    listed = subprocess.run(
        [VENV_PYTHON, "-m", "pip", "config", "list"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        variable = PIP_SETTINGS.get(name.rpartition(".")[2])
        if variable is not None:
            environ.setdefault(variable, str(ast.literal_eval(value)))
    return environ


def succeeds(command: list[str | Path], *, prints: str = "") -> bool:
    """Return whether ``command`` runs and ``prints`` is part of what it says."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError:
        return False
    return done.returncode == 0 and prints in done.stdout


def run(command: list[str | Path], environ: Mapping[str, str]) -> None:
    """Run a step; NotPossible when it fails, below what it printed itself."""
    done = subprocess.run(command, check=False, env=environ, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        step = " ".join(Path(part).name for part in command[:3])
        raise NotPossible(
            f"'{step} ...' failed with exit status {done.returncode} (its words are above). "
            "Once that is mended, the same command goes on from here."
        )


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"saldo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
