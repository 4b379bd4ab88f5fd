"""Migrations: plain SQL files, applied in order, each once, under an advisory lock.

Each side has its own table of what was applied, with the file's hash: a file that was changed after
it had been applied is refused. A migration is one database transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from importlib import resources
from typing import Annotated

import asyncpg
import typer

from saldo.operate.errors import CommandError
from saldo.operate.role_passwords import read_role_passwords, role_statements
from saldo.operate.settings import Connection, uses_rds_iam
from saldo.operate.terminal import AsJson, respond

SIDES = ("event_store", "read_model")
SQL = resources.files("saldo") / "sql"
# One number for all of Saldo's migrations in a database.
ADVISORY_LOCK = 0x5A1D0

WAIT_S_MAX = 3_600
CONNECT_TIMEOUT_S = 30.0
RETRY_FIRST_S = 0.25
RETRY_MAX_S = 5.0
# The server cannot be reached (its name may not be known yet), or is starting or stopping.
NOT_THERE_YET = (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError)

PREPARE_ATTEMPTS_MAX = 20
# "tuple concurrently updated" for a role that was altered, the others for one that was created.
CHANGED_MEANWHILE = (
    asyncpg.InternalServerError,
    asyncpg.DuplicateObjectError,
    asyncpg.UniqueViolationError,
)

MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS public.saldo_migration (
    side text NOT NULL, version text NOT NULL, sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (side, version)
)
"""
APPLIED = "SELECT sha256 FROM public.saldo_migration WHERE side = $1 AND version = $2"
NOTE = "INSERT INTO public.saldo_migration (side, version, sha256) VALUES ($1, $2, $3)"


async def migrate_command(
    event_store_url: Annotated[str, typer.Option(envvar="EVENT_STORE_URL")],
    read_model_url: Annotated[str, typer.Option(envvar="READ_MODEL_URL")],
    *,
    wait: Annotated[
        int, typer.Option(min=0, max=WAIT_S_MAX, help="Seconds to wait for a starting database.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Create or update the tables of both sides."""
    deadline = time.monotonic() + wait
    urls = zip(SIDES, (event_store_url, read_model_url), strict=True)
    iam = uses_rds_iam()
    done = {side: await migrate(side, url, iam=iam, deadline=deadline) for side, url in urls}

    shown = "\n".join(f"{side}: {', '.join(now) or 'up to date'}" for side, now in done.items())
    respond(done, shown, as_json=as_json)


def migrations(side: str) -> dict[str, str]:
    """Return the SQL of the migrations of ``side`` by their versions, in order."""
    files = sorted((SQL / side).iterdir(), key=lambda file: file.name)
    return {f.name[:-4]: f.read_text() for f in files if f.name.endswith(".sql")}


async def migrate(
    side: str, url: str, *, iam: bool = False, deadline: float | None = None
) -> list[str]:
    """Bring ``side`` at ``url`` up to date; return the versions that were applied now.

    ``iam`` lets the functions' roles log in by RDS IAM, the settings ROLE_PASSWORD_... by password.
    Until ``deadline``, a time of the monotonic clock, wait for a database that is not ready yet.
    Raise BadSetting or CommandError.
    """
    passwords = read_role_passwords()
    applied_now = []
    connection = await _connect(url, deadline)
    try:
        await _prepare(connection, role_statements(passwords, iam=iam))
        for version, text in migrations(side).items():
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            async with _locked(connection):
                known = await connection.fetchval(APPLIED, side, version)
                if known is None:
                    await connection.execute(text)
                    await connection.execute(NOTE, side, version, sha256)
                    applied_now.append(version)
                elif known != sha256:
                    raise CommandError(
                        f"the migration {version} was applied with another text: restore the file"
                    )
    finally:
        await connection.close()
    return applied_now


async def _connect(url: str, deadline: float | None) -> Connection:
    retry_s = RETRY_FIRST_S
    while True:
        try:
            return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        except NOT_THERE_YET:
            if deadline is None or time.monotonic() + retry_s > deadline:
                raise
        await asyncio.sleep(retry_s)
        retry_s = min(2 * retry_s, RETRY_MAX_S)


@contextlib.asynccontextmanager
async def _locked(connection: Connection) -> AsyncIterator[None]:
    """Hold the lock of a database transaction, which works behind a proxy too."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK)
        yield


async def _prepare(connection: Connection, roles: list[str]) -> None:
    """Create or change the roles, and the table of what was applied.

    Roles are the whole server's, the lock is one database's: the migrations of another database may
    change them at the same moment, and then the server refuses the later change.
    """
    for attempt in range(1, PREPARE_ATTEMPTS_MAX + 1):
        try:
            async with _locked(connection):
                for statement in (SQL / "roles.sql").read_text(), *roles, MIGRATIONS_TABLE:
                    await connection.execute(statement)
        except CHANGED_MEANWHILE:
            if attempt == PREPARE_ATTEMPTS_MAX:
                raise
        else:
            return
