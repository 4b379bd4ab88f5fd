"""Migrations: plain SQL files, applied in order, each once, under an advisory lock.

Each side has its own table of what was applied, with the file's hash: a file that was changed after
it had been applied is refused. A migration is one database transaction.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from saldo.operate.role_passwords import read_role_passwords, scram_verifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SIDES = ("event_store", "read_model")
# One number for all of Saldo's migrations in a database; transaction-level, so that it works behind
# a proxy.
ADVISORY_LOCK = 0x5A1D0

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


class ChangedMigration(Exception):  # noqa: N818 - it is what the file is
    """A migration that was applied before has another text now."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"the migration {self.version} was applied with another text: restore the file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file."""

    side: str
    version: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations(side: str) -> Iterator[Migration]:
    """The migrations of ``side``, in order."""
    folder = resources.files("saldo") / "sql" / side
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".sql"):
            yield Migration(side=side, version=entry.name[:-4], text=entry.read_text())


async def migrate(
    side: str, url: str, *, iam: bool = False, passwords: Mapping[str, str] | None = None
) -> list[str]:
    """Bring ``side`` at ``url`` up to date; the versions that were applied now.

    ``iam`` lets the functions' roles log in by RDS IAM, ``passwords`` (by role; those of the
    environment when they are not given) by password. Raises BadSetting for one that is no password.
    """
    passwords = read_role_passwords() if passwords is None else passwords
    connection = await asyncpg.connect(url)
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
                    raise ChangedMigration(migration.version)
    finally:
        await connection.close()
    return applied_now


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
