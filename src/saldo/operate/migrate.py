"""Migrations: plain SQL files, applied in order, each once, under an advisory lock.

Each side has its own table of what was applied, with the file's hash: a file that was changed after
it had been applied is refused. A migration is one database transaction.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Annotated

import asyncpg
import typer

from saldo.operate.errors import MigrationChangedError
from saldo.operate.role_passwords import read_role_passwords, scram_verifier
from saldo.operate.terminal import AsJson, answers, respond, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SIDES = ("event_store", "read_model")
# One number for all of Saldo's migrations in a database; transaction-level, so that it works behind
# a proxy.
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
APPLIED = "SELECT version, sha256 FROM public.saldo_migration WHERE side = $1"
NOTE = "INSERT INTO public.saldo_migration (side, version, sha256) VALUES ($1, $2, $3)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One SQL file."""

    side: str
    version: str
    text: str

    @property
    def sha256(self) -> str:
        """Return the hash of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrate_command(
    event_store_url: Annotated[str, typer.Option(envvar="EVENT_STORE_URL")],
    read_model_url: Annotated[str, typer.Option(envvar="READ_MODEL_URL")],
    *,
    wait: Annotated[
        int,
        typer.Option(
            min=0, max=WAIT_S_MAX, help="Seconds to wait for a database that is starting."
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Create or update the tables of both sides."""
    iam = os.environ.get("DATABASE_AUTH") == "rds-iam"
    urls = dict(zip(SIDES, (event_store_url, read_model_url), strict=True))

    async def both() -> dict[str, list[str]]:
        deadline = time.monotonic() + wait
        return {side: await migrate(side, urls[side], iam=iam, deadline=deadline) for side in SIDES}

    done = run(both(), resumes="the same command goes on from here")

    def show() -> None:
        for side, applied in done.items():
            answers.print(f"{side}: {', '.join(applied) or 'up to date'}")

    respond(done, show, as_json=as_json)


def migrations(side: str) -> Iterator[Migration]:
    """Yield the migrations of ``side``, in order."""
    folder = resources.files("saldo") / "sql" / side
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".sql"):
            yield Migration(side=side, version=entry.name[:-4], text=entry.read_text())


async def migrate(
    side: str, url: str, *, iam: bool = False, deadline: float | None = None
) -> list[str]:
    """Bring ``side`` at ``url`` up to date; return the versions that were applied now.

    ``iam`` lets the functions' roles log in by RDS IAM, the settings ROLE_PASSWORD_... by password.
    Until ``deadline``, a time of the monotonic clock, wait for a database that does not answer yet.
    Raises BadSetting.
    """
    passwords = read_role_passwords()
    connection = await _connect(url, deadline)
    applied_now: list[str] = []
    try:
        await _prepare(connection, iam=iam, passwords=passwords)
        for migration in migrations(side):
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK)
                applied = {
                    row["version"]: row["sha256"] for row in await connection.fetch(APPLIED, side)
                }
                known = applied.get(migration.version)
                if known is None:
                    await connection.execute(migration.text)
                    await connection.execute(NOTE, side, migration.version, migration.sha256)
                    applied_now.append(migration.version)
                elif known != migration.sha256:
                    raise MigrationChangedError(migration.version)
    finally:
        await connection.close()
    return applied_now


async def _connect(url: str, deadline: float | None) -> asyncpg.Connection[asyncpg.Record]:
    retry_s = RETRY_FIRST_S
    while True:
        try:
            return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        except NOT_THERE_YET:
            if deadline is None or time.monotonic() + retry_s > deadline:
                raise
        await asyncio.sleep(retry_s)
        retry_s = min(2 * retry_s, RETRY_MAX_S)


async def _prepare(
    connection: asyncpg.Connection[asyncpg.Record], *, iam: bool, passwords: Mapping[str, str]
) -> None:
    """Create or change the roles, and the table of what was applied.

    Roles are the whole server's, the lock is one database's: the migrations of another database may
    change them at the same moment, and then the server refuses the later change.
    """
    for attempt in range(1, PREPARE_ATTEMPTS_MAX + 1):
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK)
                await _prepare_once(connection, iam=iam, passwords=passwords)
        except CHANGED_MEANWHILE:
            if attempt == PREPARE_ATTEMPTS_MAX:
                raise
        else:
            return


async def _prepare_once(
    connection: asyncpg.Connection[asyncpg.Record], *, iam: bool, passwords: Mapping[str, str]
) -> None:
    roles = (resources.files("saldo") / "sql" / "roles.sql").read_text()
    await connection.execute(roles)
    if iam:
        # Not saldo_operate: the owner may become it, and whoever reaches rds_iam, however
        # indirectly, cannot log in by password any more. The owner would be locked out.
        for role in ("saldo_record", "saldo_project", "saldo_query"):
            await connection.execute(f"ALTER ROLE {role} LOGIN; GRANT rds_iam TO {role}")
    for role, password in passwords.items():
        # A verifier is letters, digits and $:+/= only; ALTER ROLE takes no parameters.
        await connection.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{scram_verifier(password)}'")
    await connection.execute(MIGRATIONS_TABLE)
