"""The PostgreSQL of the local stack: it starts from whatever state the last run left."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from local import postgres, processes
from local.postgres import PostgresError, run_sql, start_postgres
from local.services import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from local.postgres import Postgres
    from tests.conftest import OwnPostgres


TABLE = "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1), (2)"
COUNT = "SELECT count(*) FROM kept"


@pytest.fixture
def start() -> Iterator[Callable[[Path], Postgres]]:
    """Yield a function that starts a server on ``folder / "postgres"``, and stop all of them."""
    with contextlib.ExitStack() as stack:

        def start_in(folder: Path) -> Postgres:
            server = start_postgres(folder / "postgres", folder / "postgres.log", durable=False)
            stack.callback(server.stop)
            return server

        yield start_in


def test_committed_data_outlive_a_kill(
    own_postgres: OwnPostgres, start: Callable[[Path], Postgres]
) -> None:
    run_sql(own_postgres.server.dsn(), TABLE)
    own_postgres.server.kill()
    server = start(own_postgres.server.data_dir.parent)
    assert run_sql(server.dsn(), COUNT) == "2"


def test_it_starts_while_old_backends_still_run(
    tmp_path: Path, start: Callable[[Path], Postgres]
) -> None:
    """They hold the shared memory until they see that they are orphans."""
    first = start(tmp_path)
    sleeper = subprocess.Popen(
        [postgres.binary("psql"), "-d", first.dsn(), "-c", "SELECT pg_sleep(30)"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    processes.wait_until(
        sleeper.poll, lambda: run_sql(first.dsn(), sleeping) == "1", name="psql", timeout_s=120
    )
    first.child.kill()
    second = start(tmp_path)
    assert run_sql(second.dsn(), "SELECT 1") == "1"
    sleeper.kill()
    sleeper.wait()


def test_a_server_left_running_is_stopped_by_the_next_start(
    tmp_path: Path, start: Callable[[Path], Postgres]
) -> None:
    first = start(tmp_path)
    run_sql(first.dsn(), TABLE)
    second = start(tmp_path)
    assert first.child.ended() == 0
    assert run_sql(second.dsn(), COUNT) == "2"


def test_a_pid_file_naming_another_program_is_ignored(
    tmp_path: Path, start: Callable[[Path], Postgres]
) -> None:
    """In a container pids start again: another process soon has the dead server's pid."""
    first = start(tmp_path)
    first.kill()
    pid_file = tmp_path / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:], ""]))
    second = start(tmp_path)
    assert run_sql(second.dsn(), "SELECT 1") == "1"


def test_an_interrupted_initdb_is_repeated(
    tmp_path: Path, start: Callable[[Path], Postgres]
) -> None:
    half_made = tmp_path / "postgres.new"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18\n")
    server = start(tmp_path)
    assert run_sql(server.dsn(), "SELECT 1") == "1"
    assert not half_made.exists()


def test_it_starts_below_a_path_too_long_for_a_socket(
    tmp_path: Path, start: Callable[[Path], Postgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a folder for temporary files whose path is as long."""
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    server = start(folder)
    assert run_sql(server.dsn(), "SELECT 1") == "1"
    server.stop()
    assert not postgres.socket_dir(server.data_dir).exists()


def test_a_socket_folder_open_to_others_is_refused(
    tmp_path: Path, start: Callable[[Path], Postgres]
) -> None:
    folder = postgres.socket_dir(tmp_path / "postgres")
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PostgresError, match="is another user's"):
        start(tmp_path)


def test_a_failed_start_shows_the_servers_own_words(
    tmp_path: Path, start: Callable[[Path], Postgres]
) -> None:
    start(tmp_path).stop()
    (tmp_path / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match="initialized by PostgreSQL version 9"):
        start(tmp_path)


def test_permissions_of_parent_folders_stay_unchanged(
    tmp_path: Path, start: Callable[[Path], Postgres]
) -> None:
    """Not even where root starts the server, which then runs as another user."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    before = [(folder, folder.stat().st_mode) for folder in home.parents]
    server = start(home)
    assert run_sql(server.dsn(), "SELECT 1") == "1"
    assert [(folder, folder.stat().st_mode) for folder in home.parents] == before
    assert home.stat().st_mode & 0o777 == 0o700


def test_it_never_runs_as_root(tmp_path: Path, start: Callable[[Path], Postgres]) -> None:
    assert psutil.Process(start(tmp_path).child.pid).uids().effective != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_any_user_can_start_it(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    shutil.chown(folder, postgres.UNPRIVILEGED_USER)
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path; from local.postgres import *\n"
        f"folder = Path({str(folder)!r})\n"
        "server = start_postgres(folder / 'postgres', folder / 'log', durable=False)\n"
        "print(run_sql(server.dsn('saldo_query'), 'SELECT current_user')); server.stop()\n"
    )
    # The clone may be in a folder that only root may enter: drop_root passes through.
    drop_root: list[str | Path] = [
        sys.executable,
        "-I",
        ROOT / "local" / "drop_root.py",
        postgres.UNPRIVILEGED_USER,
    ]
    done = subprocess.run(
        [*drop_root, sys.executable, "-c", script],
        capture_output=True, text=True, check=False, env={"TMPDIR": str(folder)},
    )  # fmt: skip
    assert done.stdout == "saldo_query\n", done.stderr


@pytest.mark.parametrize("role", postgres.ROLES)
def test_each_role_can_log_in(postgres_data_dir: Path, role: str) -> None:
    assert run_sql(postgres.dsn(postgres_data_dir, role), "SELECT current_user") == role
