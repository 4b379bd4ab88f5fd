"""Backup and restore by docs/operations.md: with pg_dump, and to a point in time with the WAL."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from local import postgres
from saldo.operate.settings import open_operator_pool
from saldo.project.catch_up import CatchUp
from saldo.project.postgres import PostgresDatabases
from saldo.project.rebuild import Rebuild
from saldo.serve.functions import PROJECT
from tests.integration.operate.test_rebuild import cloud_event
from tests.support import servers
from tests.support.controls import income
from tests.support.servers import Database
from tests.support.stored import Ledger, opened, operator_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from saldo.record.intent import StoredEvent
    from tests.conftest import Serve

BIN = postgres.binary("psql").parent
ARCHIVED_TIMEOUT_S = 120.0


def run(program: str, *arguments: str | Path) -> None:
    subprocess.run([BIN / program, *arguments], check=True, capture_output=True, timeout=120)


async def test_a_restored_dump_verifies(
    database: Database, postgres_data_dir: Path, tmp_path: Path
) -> None:
    """Taken while traffic goes on: a dump is one snapshot of both schemas."""
    dump = tmp_path / "saldo.dump"
    async with opened(database) as ledger:
        await ledger.record(income("10", "ana", description="Salário"), income("1", "ana"))
        await ledger.project("ana")
        await ledger.record(income("1", "bruno"))
        run("pg_dump", "--format=custom", "--file", dump, "--dbname", database.dsn())
    restored = Database(data_dir=postgres_data_dir, name=f"{database.name}_restored")
    servers._in_cluster(postgres_data_dir, f"CREATE DATABASE {restored.name}")
    try:
        run("pg_restore", "--dbname", restored.dsn(), "--exit-on-error", dump)
        async with opened(restored) as ledger:
            report = await ledger.verify()
            await ledger.project("ana", "bruno")
            after = await ledger.verify()
            async with open_operator_pool(ledger.settings.read_model_url) as pool:
                rebuilt = await Rebuild(pool, pool, lambda _d, _t: None).run(
                    accept_differences=False
                )
    finally:
        servers._in_cluster(postgres_data_dir, f"DROP DATABASE {restored.name} WITH (FORCE)")
    assert (report.faults, report.counts.events, report.counts.lagging_accounts) == ([], 3, 1)
    assert (after.faults, after.counts.lagging_accounts) == ([], 0)
    assert rebuilt.switched


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a folder that the server's own user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="saldo-restore-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        postgres.end_leftover(folder / "data")
        postgres.end_leftover(folder / "base")
        shutil.rmtree(folder)


def give(folder: Path) -> None:
    """Give files of a backup to the server's user."""
    for path in (folder, *folder.rglob("*")):
        postgres._give_to_server(path)
    folder.chmod(0o700)


async def archived(connection: PoolConnectionProxy[asyncpg.Record]) -> None:
    """Wait until all WAL up to now is in the archive."""
    wal = await connection.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
    deadline = time.monotonic() + ARCHIVED_TIMEOUT_S
    while time.monotonic() < deadline:
        last = await connection.fetchval("SELECT last_archived_wal FROM pg_stat_archiver")
        if last is not None and last[:24] >= wal:
            return
    raise AssertionError("the WAL was not archived in time")


async def project(store: Ledger, model: Ledger, *account_ids: str) -> None:
    databases = PostgresDatabases(store.pool, model.pool)
    await CatchUp(databases, lambda _seconds: archived_never()).round(account_ids)


async def archived_never() -> None:
    raise AssertionError("nobody else works on these accounts")


@pytest.mark.slow
async def test_a_newer_read_model_follows_a_point_in_time_restore(
    database: Database, serve: Serve, place: Path
) -> None:
    """The store loses its last events; the read model follows it, even if Kafka has more."""
    data, base, archive = place / "data", place / "base", place / "archive"
    archive.mkdir()
    postgres._give_to_server(archive)
    postgres.make_data_dir(data)
    with (data / "postgresql.auto.conf").open("a") as conf:
        conf.write(f"archive_mode = on\narchive_command = 'cp %p {archive}/%f'\n")
    server = postgres.start_postgres(data, place / "log")
    store_database = Database(data_dir=data, name=postgres.DATABASE)
    servers.migrate(store_database, place / "migrate.log")
    source = ("--dbname", store_database.dsn(), "--wal-method=none", "--checkpoint=fast")
    run("pg_basebackup", "--pgdata", base, *source)
    async with opened(store_database) as store, opened(database) as model:
        await store.record(income("1", "ana"), income("2", "ana"))
        await store.record(income("7", "bruno"))
        target = await store.pool.fetchval("SELECT clock_timestamp()::text")
        [lost] = await store.record(income("4", "ana"))
        await store.record(income("8", "carla"))
        await project(store, model, "ana", "bruno", "carla")
        async with store.pool.acquire() as connection:
            await archived(connection)
    server.stop()

    with (base / "postgresql.auto.conf").open("a") as conf:
        conf.write(
            f"restore_command = 'cp {archive}/%f %p'\narchive_mode = off\n"
            f"recovery_target_time = '{target}'\nrecovery_target_action = promote\n"
        )
    (base / "recovery.signal").touch()
    give(base)
    server = postgres.start_postgres(base, place / "log")
    restored_database = Database(data_dir=base, name=postgres.DATABASE)
    try:
        await _converges(restored_database, database, serve, lost)
    finally:
        server.stop()


async def _converges(
    store_database: Database, model_database: Database, serve: Serve, lost: StoredEvent
) -> None:
    settings = replace(
        operator_settings(store_database),
        read_model_url=operator_settings(model_database).read_model_url,
    )
    async with opened(store_database) as store, opened(model_database) as model:
        both = Ledger(pool=store.pool, settings=settings)
        ahead = await both.verify()
        assert {fault.account_id for fault in ahead.faults} == {"ana", "carla"}
        async with (
            open_operator_pool(settings.event_store_url) as streams,
            open_operator_pool(settings.read_model_url) as read_model,
        ):
            rebuild = Rebuild(streams, read_model, lambda _done, _total: None)
            refused = await rebuild.run(accept_differences=False)
            assert [(d.account_id, d.table) for d in refused.differences] == [("carla", "balance")]
            assert not refused.switched
            assert (await rebuild.run(accept_differences=True)).switched
        assert (await both.verify()).faults == []
        # The topic still holds what was lost, and it may be delivered at any time.
        projector = serve(
            PROJECT, EVENT_STORE_URL=store_database.dsn("saldo_project"), POOL_SIZE_MAX="2"
        )
        async with httpx.AsyncClient(timeout=120) as client:
            headers, data = cloud_event(
                {"id": str(lost.event_id), "accountId": "ana", "position": lost.position}
            )
            beyond = await client.post(projector.url, content=data, headers=headers)
            [new] = await store.record(income("16", "ana"))
            assert new.position == lost.position
            again = await client.post(projector.url, content=data, headers=headers)
        balance = await model.pool.fetchval(
            "SELECT balance_minor FROM read_model.balance WHERE account_id = 'ana'"
        )
        report = await both.verify()
    assert (beyond.status_code, again.status_code) == (503, 200)
    assert balance == 1900
    assert (report.faults, report.counts.lagging_accounts) == ([], 0)
