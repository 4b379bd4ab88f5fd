"""Passwords of the functions' roles, on a PostgreSQL that requires them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from local import postgres
from saldo.operate.migrate import SIDES, migrate

if TYPE_CHECKING:
    import pytest

    from tests.conftest import OwnPostgres

PASSWORD = "correct-horse-battery"  # noqa: S105 - the test's own
STORED = "SELECT rolpassword FROM pg_authid WHERE rolname = 'saldo_record'"


async def test_migrate_sets_the_password_of_a_role(
    own_postgres: OwnPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL itself checks it: the roles of a cluster are shared, so the server is our own."""
    url = own_postgres.server.dsn(postgres.SUPERUSER)
    monkeypatch.setenv("ROLE_PASSWORD_RECORD", PASSWORD)
    for side in SIDES:
        await migrate(side, url)
    connection = await asyncpg.connect(url)
    try:
        stored = await connection.fetchval(STORED)
        assert stored.startswith("SCRAM-SHA-256$4096:")
        assert PASSWORD not in stored
        # From now on the socket, too, wants a password.
        rules = await connection.fetchval("SHOW hba_file")
        await connection.execute(
            f"COPY (SELECT 'local all saldo_record scram-sha-256') TO PROGRAM 'cat > {rules}.first'"
        )
        await connection.execute(
            f"COPY (SELECT 1) TO PROGRAM 'cat {rules} >> {rules}.first && mv {rules}.first {rules}'"
        )
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()
    role_url = own_postgres.server.dsn("saldo_record")
    accepted = await asyncpg.connect(role_url, password=PASSWORD)
    assert await accepted.fetchval("SELECT current_user") == "saldo_record"
    await accepted.close()
    try:
        await asyncpg.connect(role_url, password=PASSWORD[::-1])
    except asyncpg.InvalidPasswordError:
        pass
    else:
        raise AssertionError("any password will do")
