"""Migrations: each runs once, in order, even concurrently; a changed file is refused."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import asyncpg
import pytest

from local import postgres
from saldo.operate.errors import CommandError
from saldo.operate.migrate import SIDES, migrate, migrations
from tests.support.servers import Database
from tests.support.sides import connected, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import OwnPostgres

# For a machine under load, not for the database: it is awaited only as long as it takes.
WITHIN_S = 120.0


@pytest.fixture
async def empty(postgres_data_dir: Path) -> AsyncIterator[Database]:
    """Yield an empty database."""
    database = Database(data_dir=postgres_data_dir, name=f"empty_{secrets.token_hex(6)}")
    async with connected(postgres.dsn(postgres_data_dir, database="postgres")) as cluster:
        await cluster.execute(f"CREATE DATABASE {database.name}")
        try:
            yield database
        finally:
            await cluster.execute(f"DROP DATABASE {database.name} WITH (FORCE)")


def versions(side: str) -> list[str]:
    return list(migrations(side))


async def test_migrating_twice_changes_nothing(empty: Database) -> None:
    for side in SIDES:
        assert await migrate(side, empty.dsn()) == versions(side) != []
    for side in SIDES:
        assert await migrate(side, empty.dsn()) == []


async def test_a_migration_changed_after_it_was_applied_is_refused(empty: Database) -> None:
    await migrate("event_store", empty.dsn())
    async with connected(empty.dsn()) as connection:
        await connection.execute("UPDATE public.saldo_migration SET sha256 = 'another'")
    with pytest.raises(CommandError, match="0001_"):
        await migrate("event_store", empty.dsn())


async def test_concurrent_migrations_apply_each_file_once(empty: Database) -> None:
    async def both_sides() -> list[str]:
        return [version for side in SIDES for version in await migrate(side, empty.dsn())]

    applied = await asyncio.gather(both_sides(), both_sides(), both_sides())
    assert sorted(version for each in applied for version in each) == sorted(
        versions(SIDES[0]) + versions(SIDES[1])
    )


async def test_two_databases_of_one_server_migrate_concurrently(
    empty: Database, postgres_data_dir: Path
) -> None:
    """Their roles are the same: the server refuses a change while another's is under way."""
    async with connected(postgres.dsn(postgres_data_dir, database="postgres")) as other:
        changing = other.transaction()
        await changing.start()
        await other.execute("ALTER ROLE saldo_record SET lock_timeout = '3s'")
        migrating = asyncio.create_task(migrate("event_store", empty.dsn()))

        async def waits() -> bool:
            await other.execute("SELECT pg_stat_clear_snapshot()")
            return bool(
                await other.fetchval(
                    "SELECT EXISTS (SELECT FROM pg_stat_activity"
                    " WHERE datname = $1 AND wait_event_type = 'Lock')",
                    empty.name,
                )
            )

        await until(waits)
        await changing.commit()
        assert await migrating == versions("event_store")


async def test_a_failed_migration_leaves_nothing_behind(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saldo.operate import migrate as module  # noqa: PLC0415 - to change it

    real = migrations("event_store")
    broken = {"9999_broken": "CREATE TABLE t (); x"}
    monkeypatch.setattr(module, "migrations", lambda _side: real | broken)
    with pytest.raises(Exception, match="syntax error"):
        await migrate("event_store", empty.dsn())
    async with connected(empty.dsn()) as connection:
        assert await connection.fetchval("SELECT to_regclass('t')") is None
        noted = await connection.fetch(
            "SELECT version FROM public.saldo_migration ORDER BY version"
        )
    assert [row["version"] for row in noted] == list(real)


async def test_migrate_waits_for_a_database_that_starts_late(
    own_postgres: OwnPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the server away, and goes on once it is there."""
    url = own_postgres.server.dsn(postgres.SUPERUSER)
    data_dir = own_postgres.server.data_dir
    own_postgres.server.stop()
    refused = asyncio.Event()
    sleep = asyncio.sleep

    async def noting_sleep(seconds: float) -> None:
        refused.set()
        await sleep(seconds)

    monkeypatch.setattr("saldo.operate.migrate.asyncio.sleep", noting_sleep)
    migrating = asyncio.create_task(
        migrate("event_store", url, deadline=time.monotonic() + WITHIN_S)
    )
    await asyncio.wait_for(refused.wait(), WITHIN_S)
    server = await asyncio.to_thread(
        postgres.start_postgres, data_dir, tmp_path / "postgres-again.log"
    )
    try:
        assert await migrating == []  # the fixture has migrated it
    finally:
        server.stop()


async def test_migrate_gives_up_at_its_deadline() -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match="Connect call failed"):
        await migrate("event_store", "postgresql://a@127.0.0.1:1/a", deadline=began + 1.0)
    # Three tries fit, 0.25 s and 0.5 s apart; a fourth would come after the deadline.
    assert time.monotonic() - began >= 0.75


async def test_migrate_fails_at_once_for_an_unknown_role(own_postgres: OwnPostgres) -> None:
    """What will not be better later fails at once."""
    url = own_postgres.server.dsn("nobody_of_this_name")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await migrate("event_store", url, deadline=time.monotonic() + WITHIN_S)
