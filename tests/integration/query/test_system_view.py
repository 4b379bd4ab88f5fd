"""The system views of both sides, for a role that may not read the tables."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.controls import income
from tests.support.sides import Connection, Reader, Writer, age_outbox, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from saldo.project.projector import Projector
    from tests.support.servers import Database

POISON = "UPDATE event_store.event SET hash = '\\x00' WHERE account_id = $1 AND position = $2"
AGE_EVENTS = "UPDATE event_store.event SET appended_at = appended_at - $1::interval"


@pytest.fixture
async def asked(database: Database) -> AsyncIterator[Connection]:
    """Yield a connection in the role that serves the reads."""
    async with connected(database.dsn("saldo_query")) as connection:
        yield connection


async def system(connection: Connection, side: str) -> dict[str, Any]:
    """Return the one row of a side's view."""
    [row] = await connection.fetch(f"SELECT * FROM {side}.system")
    return dict(row)


async def test_an_empty_system_is_one_row_of_zeros(asked: Connection) -> None:
    store, model = await system(asked, "event_store"), await system(asked, "read_model")
    assert {name: seen for name, seen in store.items() if seen} == {}
    assert {name: seen for name, seen in model.items() if seen} == {}


async def test_the_write_side_shows_throughput_and_outbox(
    writer: Writer, asked: Connection, superuser: Connection
) -> None:
    await writer.record(*[income("1", f"a{n}") for n in range(4)])
    await superuser.execute(AGE_EVENTS, timedelta(seconds=30))
    await writer.record(*[income("1", f"b{n}") for n in range(3)])
    await age_outbox(superuser, timedelta(seconds=90))
    seen = await system(asked, "event_store")
    assert (seen["events_last_10_s"], seen["events_last_60_s"], seen["outbox_rows"]) == (3, 7, 7)
    assert seen["outbox_age_s"] >= 90
    assert seen["last_appended_at"] is not None


async def test_the_read_side_shows_the_lag_of_the_last_sweep(
    writer: Writer, projector: Projector, asked: Connection, superuser: Connection
) -> None:
    await writer.record(*[income("1", "late")] * 3, income("1", "young"))
    await superuser.execute(
        AGE_EVENTS + " WHERE account_id = 'late' AND position > 1", timedelta(seconds=20)
    )
    await superuser.execute(
        AGE_EVENTS + " WHERE account_id = 'late' AND position = 1", timedelta(seconds=25)
    )
    await projector.sweep()
    lagging = await system(asked, "read_model")
    assert lagging["lag_positions"] == 4
    assert 25 <= lagging["lag_s"] < 25 + 300
    assert lagging["lag_swept_at"] is not None
    # The young one was on its way: it is no heal that the sweep came first.
    assert projector.lag_sweep.healed == 1
    await projector.sweep()
    level = await system(asked, "read_model")
    assert (level["lag_positions"], level["lag_s"], projector.lag_sweep.healed) == (0, 0.0, 1)


async def test_the_read_side_shows_dead_letters(
    writer: Writer, projector: Projector, reader: Reader, asked: Connection, superuser: Connection
) -> None:
    await writer.record(income("1", "poisoned"), income("1", "sound"))
    await superuser.execute(POISON, "poisoned", 1)
    await projector.sweep()
    assert await reader.balance("sound") == (1, 100)
    seen = await system(asked, "read_model")
    assert (seen["dead_letters"], seen["blocked_accounts"]) == (1, 1)
    assert seen["dead_letter_oldest_at"] is not None
    assert seen["blocked_oldest_at"] is not None
    await superuser.execute("UPDATE read_model.dead_letter SET redriven_at = now()")
    await superuser.execute(
        "UPDATE read_model.balance SET blocked_schema = NULL, blocked_at = NULL"
    )
    seen = await system(asked, "read_model")
    assert (seen["dead_letters"], seen["blocked_accounts"]) == (0, 0)
