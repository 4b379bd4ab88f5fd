"""The lock files, locks/*.txt: `python -m local.tasks.lock_files [--upgrade]`.

One file for each thing that is installed, with the hash of every package and no registry's name.
The versions of all of them are those of dev.txt: what is tested is what is deployed. Without
--upgrade, versions that still fit pyproject.toml stay as they are.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "locks"
UV = Path(sys.executable).with_name("uv")

# The installer itself: pip installs it, checked by its hash, and it installs all the rest.
INSTALLER = "uv==0.13.9"
# The build backend asks for this one only once it runs.
EDITABLE_BUILD = "editables==0.5"

EXTRAS = {
    "record": ("record", "telemetry", "aws", "aws-kafka"),
    # project_balance and get_balance.
    "balance": ("project", "query", "telemetry", "aws"),
    "operate": ("operate", "imports", "aws", "aws-kafka"),
    "local": ("record", "project", "query", "operate", "imports", "telemetry", "local"),
}


def main() -> int:
    """Make all lock files; the exit status."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tools = [INSTALLER, *project["build-system"]["requires"], EDITABLE_BUILD]
    upgrade = ["--upgrade"] if "--upgrade" in sys.argv[1:] else []
    compile_lock("tools", [*upgrade, "-"], stdin="\n".join(tools))
    compile_lock("dev", [*upgrade, "--all-extras", "pyproject.toml"])
    for name, extras in EXTRAS.items():
        chosen = [word for extra in extras for word in ("--extra", extra)]
        compile_lock(name, [*chosen, "--constraints", "locks/dev.txt", "pyproject.toml"])
    return 0


def compile_lock(name: str, arguments: list[str], *, stdin: str = "") -> None:
    """Resolve ``arguments`` into locks/``name``.txt for Python 3.11 and up, on every platform."""
    print(f"locks/{name}.txt", flush=True)
    options = ["--universal", "--python-version", "3.11", "--generate-hashes"]
    options += ["--no-emit-index-url", "--no-annotate", "--custom-compile-command", "make lock"]
    options += ["--output-file", f"locks/{name}.txt"]
    command = [str(UV), "pip", "compile", "--quiet", *options, *arguments]
    subprocess.run(command, check=True, cwd=ROOT, input=stdin, text=True)


if __name__ == "__main__":
    sys.exit(main())
