"""The filled ledger: equal to what the functions would have recorded and projected."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from benchmarks import fill as filling
from benchmarks.fill import EVENTS_AN_ACCOUNT, fill
from benchmarks.wrk import NoFigure
from tests.support.controls import income
from tests.support.stored import opened

if TYPE_CHECKING:
    from saldo.operate.verification.run import Report
    from tests.support.servers import Database

SCHEMA = """
SELECT pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid::regclass::text ~ '^(event_store|read_model)\\.'
UNION ALL
SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid::regclass::text ~ '^(event_store|read_model)\\.'
"""


def schema(database: Database) -> list[str]:
    """Return all indexes and constraints."""

    async def read() -> list[str]:
        connection = await asyncpg.connect(database.dsn())
        try:
            return sorted(row[0] for row in await connection.fetch(SCHEMA))
        finally:
            await connection.close()

    return asyncio.run(read())


def verified(database: Database, *, recorded: str | None = None) -> Report:
    """Return the report of `saldo verify` after one more transaction of ``recorded``."""

    async def run() -> Report:
        async with opened(database) as ledger:
            if recorded is not None:
                await ledger.record(income("10.50", recorded))
                await ledger.project(recorded)
            return await ledger.verify()

    return asyncio.run(run())


def test_filled_accounts_verify_and_accept_transactions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several statements, and a second fill on top of the first."""
    monkeypatch.setattr(filling, "ACCOUNTS_A_STATEMENT", 3)
    fill(database.dsn(), 1, 7, lambda _: None)
    fill(database.dsn(), 8, 12, lambda _: None)
    report = verified(database, recorded="bench-11")
    assert report.faults == []
    assert report.counts.accounts == 12
    assert report.counts.events == report.counts.lines == 12 * EVENTS_AN_ACCOUNT + 1
    assert report.counts.lagging_accounts == 0


def test_indexes_and_constraints_are_recreated(database: Database) -> None:
    before = schema(database)
    fill(database.dsn(), 1, 5, lambda _: None)
    assert schema(database) == before


def test_existing_accounts_are_refused_with_the_reason(database: Database) -> None:
    fill(database.dsn(), 1, 2, lambda _: None)
    with pytest.raises(NoFigure, match=r"the fill ended early: .*already exists"):
        fill(database.dsn(), 2, 3, lambda _: None)


def test_too_small_disk_is_reported_before_filling(database: Database) -> None:
    with pytest.raises(NoFigure, match=r"need 20009 GB of disk.*EVENTS_MAX="):
        filling.check_room(database.data_dir, 10_000_000_000)
