"""The command `saldo dead-letters`: redrives in order, exactly once."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from saldo.domain.events import SCHEMA_NEWEST
from saldo.operate.dead_letters import BLOCKED, LIST, redrive_account, redrive_letter
from saldo.operate.errors import CommandError
from saldo.operate.settings import Pool, open_operator_pool
from saldo.project.postgres import PostgresDatabases
from saldo.serve.functions import PROJECT
from tests.support.controls import income
from tests.support.stored import append_unreadable, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from tests.conftest import Serve
    from tests.support.servers import Database
    from tests.support.stored import Ledger


def parking(ledger: Ledger) -> PostgresDatabases:
    """Return the databases in which the projector parks dead letters."""
    return PostgresDatabases(ledger.pool, ledger.pool)


@contextlib.asynccontextmanager
async def opened_stores(ledger: Ledger) -> AsyncIterator[tuple[Pool, Pool]]:
    """Open the event store and the read model in the operator's role."""
    url = ledger.settings.read_model_url
    async with open_operator_pool(url) as streams, open_operator_pool(url) as read_model:
        yield streams, read_model


async def listed(ledger: Ledger, *, redriven: bool = False) -> list[UUID]:
    """Return the ids of the dead letters, the oldest first."""
    rows = await ledger.pool.fetch(LIST, redriven, 1_000)
    return [row["dead_letter_id"] for row in rows]


async def block(ledger: Ledger) -> None:
    """Give ana a wrong event at position 3 and two right ones after it, and have it projected."""
    await ledger.record(income("1", "ana"), income("1", "ana"))
    await ledger.record(income("1", "ana"), income("1", "ana"), income("1", "ana"))
    await ledger.pool.execute("UPDATE event_store.event SET private_text = '[]' WHERE position = 3")
    await ledger.project("ana")


async def repair(ledger: Ledger) -> None:
    await ledger.erase("ana", 3)


async def standing(ledger: Ledger) -> tuple[int, int, str | None]:
    row = await ledger.pool.fetchrow("SELECT * FROM read_model.balance WHERE account_id = 'ana'")
    assert row is not None
    return row["position"], row["balance_minor"], row["blocked_reason"]


async def test_a_repaired_account_catches_up_in_order_once(database: Database) -> None:
    async with opened(database) as ledger, opened_stores(ledger) as stores:
        await block(ledger)
        assert (await standing(ledger))[:2] == (2, 200)
        [letter] = await listed(ledger)
        await repair(ledger)
        done = await redrive_letter(letter, *stores, to=None)
        again = await redrive_letter(letter, *stores, to=None)
        assert await standing(ledger) == (5, 500, None)
        waiting = await listed(ledger)
        every = await listed(ledger, redriven=True)
        report = await ledger.verify()
    assert done is not None
    assert (done.position, done.projected, done.letters, done.blocked) == (5, 3, 1, False)
    assert again is not None
    assert (again.projected, again.letters) == (0, 0)
    assert (len(waiting), len(every)) == (0, 1)
    assert report.clean


async def test_an_unprojectable_account_is_blocked_again(database: Database) -> None:
    async with opened(database) as ledger, opened_stores(ledger) as stores:
        await block(ledger)
        done = await redrive_account("ana", *stores)
        assert [row["account_id"] for row in await stores[1].fetch(BLOCKED)] == ["ana"]
        assert len(await listed(ledger)) == 1
        assert (await standing(ledger))[0] == 2
    assert (done.blocked, done.projected) == (True, 0)


async def test_a_newer_version_needs_no_redrive(database: Database) -> None:
    """Blocked by an older version, the account is tried again at the next delivery."""
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana"))
        await append_unreadable(ledger, "ana", f'{{"schema":{SCHEMA_NEWEST + 1}}}')
        await ledger.project("ana")
        await ledger.pool.execute("UPDATE read_model.balance SET blocked_schema = 1")
        await ledger.project("ana")
        schema = await ledger.pool.fetchval("SELECT blocked_schema FROM read_model.balance")
    assert schema == SCHEMA_NEWEST


async def test_redriving_a_kafka_source_dead_letter_catches_up(
    database: Database,
) -> None:
    async with opened(database) as ledger, opened_stores(ledger) as stores:
        [event] = await ledger.record(income("1", "ana"))
        attributes = {
            "subject": "ana",
            "id": str(event.event_id),
            "sequence": "1",
            "knativeerrordest": "http://localhost/",
            "knativeerrorcode": "503",
        }
        await parking(ledger).park(attributes, event.public_text)
        [letter] = await listed(ledger)
        assert (await ledger.verify()).faults == []
        done = await redrive_letter(letter, *stores, to=None)
    assert done is not None
    assert (done.position, done.letters) == (1, 1)


async def test_foreign_dead_letter_is_delivered_on_request(
    database: Database, serve: Serve
) -> None:
    project = serve(PROJECT)
    foreign = {
        "specversion": "1.0",
        "source": "/elsewhere",
        "type": "dev.knative.sources.ping",
        "id": "7",
        "knativeerrordest": "http://localhost/",
    }
    async with opened(database) as ledger, opened_stores(ledger) as stores:
        await parking(ledger).park(foreign, None)
        await parking(ledger).park(foreign | {"id": "8", "type": "unknown"}, None)
        first, second = await listed(ledger)
        with pytest.raises(CommandError, match="no account"):
            await redrive_letter(first, *stores, to=None)
        assert await redrive_letter(first, *stores, to=project.url) is None
        with pytest.raises(CommandError, match="returned 400"):
            await redrive_letter(second, *stores, to=project.url)
        with pytest.raises(CommandError, match="cannot be reached"):
            await redrive_letter(second, *stores, to="http://127.0.0.1:1")
        assert await listed(ledger) == [second]
