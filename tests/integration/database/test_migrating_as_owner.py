"""Migrations as RDS runs them: by an owner who is no superuser, for roles that log in by IAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from local import postgres
from saldo.operate.migrate import SIDES, migrate, migrations

if TYPE_CHECKING:
    from tests.conftest import OwnPostgres

# As RDS makes its master user, and the role by which its pg_hba.conf asks IAM.
OWNER = """
CREATE ROLE rds_iam NOLOGIN;
CREATE ROLE saldo_owner LOGIN CREATEROLE CREATEDB;
GRANT rds_iam TO saldo_owner WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
"""
BY_IAM = """
SELECT rolname FROM pg_roles
WHERE rolname LIKE 'saldo\\_%' AND pg_has_role(rolname, 'rds_iam', 'USAGE') ORDER BY rolname
"""
# Whether anybody may become the owner's way into IAM: what a password then no longer opens.
OWNER_REACHES_IAM = """
SELECT pg_has_role('saldo_owner', 'rds_iam', 'SET')
    OR pg_has_role('saldo_owner', 'rds_iam', 'USAGE')
"""


async def test_owner_without_superuser_migrates_twice(
    own_postgres: OwnPostgres,
) -> None:
    superuser = await asyncpg.connect(
        own_postgres.server.dsn(postgres.SUPERUSER, database="postgres")
    )
    try:
        # Those of the fixture are a superuser's: an owner may alter those that it made itself.
        await superuser.execute(f"DROP DATABASE {postgres.DATABASE} WITH (FORCE)")
        for role in postgres.ROLES:
            await superuser.execute(f"DROP ROLE {role}")
        await superuser.execute(OWNER)
        await superuser.execute("CREATE DATABASE of_rds OWNER saldo_owner")
        url = own_postgres.server.dsn("saldo_owner", database="of_rds")
        first = {side: await migrate(side, url, iam=True) for side in SIDES}
        second = {side: await migrate(side, url, iam=True) for side in SIDES}

        assert first == {side: list(migrations(side)) for side in SIDES}
        assert second == {side: [] for side in SIDES}
        by_iam = [row["rolname"] for row in await superuser.fetch(BY_IAM)]
        assert by_iam == ["saldo_project", "saldo_query", "saldo_record"]
        assert await superuser.fetchval(OWNER_REACHES_IAM) is False
    finally:
        await superuser.close()
