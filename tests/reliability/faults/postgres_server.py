"""One PostgreSQL server of the rig, which can be killed, backed up and restored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from local import postgres

if TYPE_CHECKING:
    from pathlib import Path

BASE_BACKUP_TIMEOUT_S = 120.0


class Server:
    """A PostgreSQL server of the rig that syncs to disk as in production."""

    def __init__(self, folder: Path, *, archive: Path | None = None) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "postgres.log"
        self.restored = False
        self._archive = archive
        self._server: postgres.Postgres | None = None

    @property
    def socket(self) -> Path:
        return postgres.socket_dir(self.data_dir) / f".s.PGSQL.{postgres.PORT}"

    @property
    def running(self) -> postgres.Postgres:
        assert self._server is not None
        return self._server

    def dsn(self, role: str = postgres.SUPERUSER) -> str:
        return postgres.dsn(self.data_dir, role)

    async def start(self) -> None:
        if self._archive is not None and not self.data_dir.exists():
            self._archive.mkdir()
            postgres._give_to_server(self._archive)
            await asyncio.to_thread(postgres.make_data_dir, self.data_dir)
            with (self.data_dir / "postgresql.auto.conf").open("a") as conf:
                conf.write(f"archive_mode = on\narchive_command = 'cp %p {self._archive}/%f'\n")
        self._server = await asyncio.to_thread(postgres.start_postgres, self.data_dir, self.log)

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    async def kill(self) -> None:
        """Kill the server and all its processes."""
        await asyncio.to_thread(self.running.kill)

    def said(self, text: str) -> int:
        """Return how many lines of the server's log have ``text``."""
        return self.log.read_text(errors="replace").count(text)

    async def back_up(self, base: Path) -> None:
        """Make a base backup for a restore to a later point in time."""
        backup = await asyncio.create_subprocess_exec(
            postgres.binary("pg_basebackup"),
            *("--pgdata", base, "--dbname", self.dsn(), "--wal-method=none", "--checkpoint=fast"),
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(BASE_BACKUP_TIMEOUT_S):
            assert await backup.wait() == 0

    async def restore(self, base: Path, target: str) -> None:
        """Run on ``base`` from now on, brought by the archive up to the time ``target``."""
        await self.stop()
        self.restored = True
        await asyncio.to_thread(self._prepare, base, target)
        self.data_dir = base
        await self.start()

    def _prepare(self, base: Path, target: str) -> None:
        with (base / "postgresql.auto.conf").open("a") as conf:
            conf.write(
                f"restore_command = 'cp {self._archive}/%f %p'\narchive_mode = off\n"
                f"recovery_target_time = '{target}'\nrecovery_target_action = promote\n"
            )
        (base / "recovery.signal").touch()
        for path in (base, *base.rglob("*")):
            postgres._give_to_server(path)
        base.chmod(0o700)
