"""Clocks: the event store's time counts, and a clock that ran ahead does no further harm."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from saldo.domain.events import TransactionRecorded, read_event
from saldo.project.lag_sweep import OVERLAP, LagSweep
from saldo.project.ports import Lag
from saldo.project.postgres import PostgresDatabases
from saldo.serve.clock import StoreClock
from tests.integration.operate.test_streams import exported, restored
from tests.support import servers
from tests.support.controls import ACCOUNT, income
from tests.support.sides import age_outbox
from tests.support.stored import opened
from tests.support.waiting import until_true

if TYPE_CHECKING:
    from pathlib import Path

    from saldo.project.catch_up import CaughtUp
    from saldo.record.intent import StoredEvent
    from tests.support.servers import Database
    from tests.support.sides import Connection, Reader, Writer

AHEAD = (timedelta(minutes=10), timedelta(hours=3), timedelta(days=400))
HOURS = timedelta(hours=3)


async def store_now(connection: Connection) -> datetime:
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return now


def transaction(stored: StoredEvent) -> TransactionRecorded:
    event = read_event(stored.public_text)
    assert isinstance(event, TransactionRecorded)
    return event


# --- recording --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(3))
async def test_recorded_time_is_the_clock_of_the_store(
    writer: Writer, superuser: Connection, number: int
) -> None:
    """On a new account, on one that exists, and under locks."""
    await writer.record(*[income()] * number)
    if number == 2:
        writer.deps.contention.met()
    before = await store_now(superuser)
    [stored] = await writer.record(income())
    event = transaction(stored)
    assert before <= event.recorded_at <= await store_now(superuser)
    assert event.occurred_at == event.recorded_at


async def test_time_is_read_once_the_locks_are_held(writer: Writer, superuser: Connection) -> None:
    """What had to wait was recorded after what it waited for."""
    await writer.record(income("1"))
    writer.deps.contention.met()
    async with superuser.transaction():
        await superuser.execute("SELECT FROM event_store.stream FOR UPDATE")
        recording = asyncio.create_task(writer.record(income("2")))
        await until_true(
            lambda: writer.pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"),
            "the batch waits for the lock",
        )
        released = await store_now(superuser)
    [stored] = await recording
    assert transaction(stored).recorded_at >= released


@pytest.mark.parametrize("ahead", AHEAD)
async def test_events_get_the_right_time_after_one_from_the_future(
    writer: Writer, superuser: Connection, ahead: timedelta
) -> None:
    """The recorded time may not go back, so it is held; when it occurred is not."""
    before = await store_now(superuser)
    await writer.record_at(before + ahead, income("1"))
    for locked in (False, True):
        if locked:
            writer.deps.contention.met()
        [stored] = await writer.record(income("2"))
        event = transaction(stored)
        assert event.recorded_at == before + ahead
        assert before <= event.occurred_at <= await store_now(superuser)


# --- reading ----------------------------------------------------------------------------------


async def test_a_line_from_the_future_makes_nothing_final(
    writer: Writer, reader: Reader, superuser: Connection
) -> None:
    """Once the store's clock has passed it, it is a line like any other."""
    now = await store_now(superuser)
    await writer.record_at(now - HOURS, income("1"))
    await writer.record_at(now + HOURS, income("2"))
    await reader.catch_up(ACCOUNT)
    for moment, clock, expected in (
        (now - 2 * HOURS, now, (None, True)),
        (now - HOURS, now, (1, False)),
        (now, now, (1, False)),
        (now, now + 2 * HOURS, (1, True)),
        (now + HOURS, now + 2 * HOURS, (2, False)),
        (now, None, (1, False)),
    ):
        row = await reader.balances.as_of(ACCOUNT, moment, clock)
        assert (row["position"], row["is_final"]) == expected


# --- sweeping ---------------------------------------------------------------------------------


async def test_a_sweep_finds_later_events_after_a_clock_reset(
    writer: Writer, reader: Reader, superuser: Connection
) -> None:
    """The store's clock was ahead by three hours: the watermark is, too."""
    found: list[str] = []

    async def catch_up(account_id: str, position: int) -> CaughtUp:
        found.append(account_id)
        [reached] = await reader.catch_up(account_id)
        assert reached.position == position
        return reached

    tables = PostgresDatabases(reader.pool, reader.pool)
    sweep = LagSweep(tables, catch_up, StoreClock())
    await writer.record(income("1", "ahead"), income("1", "late"))
    await superuser.execute("UPDATE event_store.event SET appended_at = appended_at + $1", HOURS)
    await tables.note(await store_now(superuser) + HOURS, 0, Lag())
    await writer.record(income("1", "now"))
    await sweep.sweep()
    assert sorted(found) == ["ahead", "late", "now"]
    watermark = await tables.watermark()
    newest = await superuser.fetchval(
        "SELECT appended_at FROM event_store.event WHERE account_id = 'now'"
    )
    assert watermark == newest
    # And the events from the future are not walked again and again.
    found.clear()
    walked = await tables.walk(newest - OVERLAP, newest + OVERLAP, 100)
    assert [row.account_id for row in walked] == ["now"]
    await sweep.sweep()
    assert found == []


async def test_a_sweep_finds_events_stamped_before_a_clock_reset(
    writer: Writer, reader: Reader, superuser: Connection
) -> None:
    """The watermark stands before it, so only the clock itself says that something may be there."""
    found: list[str] = []
    elapsed_s = 0.0

    async def catch_up(account_id: str, _position: int) -> CaughtUp:
        found.append(account_id)
        [reached] = await reader.catch_up(account_id)
        return reached

    tables = PostgresDatabases(reader.pool, reader.pool)
    sweep = LagSweep(tables, catch_up, StoreClock(monotonic=lambda: elapsed_s))
    for account_id in ("before-the-process", "meanwhile"):
        await writer.record(income("1", account_id))
        await superuser.execute(
            "UPDATE event_store.event SET appended_at = appended_at + $1 WHERE account_id = $2",
            HOURS,
            account_id,
        )
        await writer.record(income("1", f"{account_id}-now"))
        await tables.note(await store_now(superuser), 0, Lag())
        await sweep.sweep()
        assert sorted(found) == [account_id, f"{account_id}-now"]
        found.clear()
        await sweep.sweep()
        assert found == []
        elapsed_s += HOURS.total_seconds()  # and the store's clock has not gone on


async def test_a_sweep_finds_events_committed_after_a_clock_reset(
    writer: Writer, reader: Reader, superuser: Connection
) -> None:
    """It was stamped before, and was not there yet when the first sweep came by."""
    elapsed_s = 0.0

    async def catch_up(account_id: str, _position: int) -> CaughtUp:
        return (await reader.catch_up(account_id))[0]

    tables = PostgresDatabases(reader.pool, reader.pool)
    sweep = LagSweep(tables, catch_up, StoreClock(monotonic=lambda: elapsed_s))
    await writer.record(income("1"))
    assert await sweep.sweep() == 1
    await writer.record(income("1", "late"))
    await superuser.execute(
        "UPDATE event_store.event SET appended_at = appended_at + $1 WHERE account_id = 'late'",
        HOURS,
    )
    elapsed_s += 9.0
    assert await sweep.sweep() == 1
    while elapsed_s <= OVERLAP.total_seconds():
        elapsed_s += 9.0
        assert await sweep.sweep() == 0
    # And the events from the future are not walked again and again.
    await writer.record(income("1", "future"))
    await superuser.execute(
        "UPDATE event_store.event SET appended_at = appended_at + $1 WHERE account_id = 'future'",
        HOURS,
    )
    elapsed_s += 9.0
    assert await sweep.sweep() == 0


async def test_outbox_rows_from_the_future_are_sent(writer: Writer, superuser: Connection) -> None:
    await writer.record(income("1"), income("2", "other"))
    await age_outbox(superuser, -HOURS)
    await superuser.execute(
        "UPDATE event_store.outbox SET claimed_until = appended_at WHERE account_id = 'other'"
    )
    assert {row.account_id for row in await writer.outbox.claim()} == {ACCOUNT, "other"}
    assert await writer.outbox.claim() == []


# --- verifying --------------------------------------------------------------------------------


async def test_events_from_the_future_are_reported_once_as_no_fault(
    writer: Writer, database: Database, superuser: Connection
) -> None:
    now = await store_now(superuser)
    await writer.record(income("1"), income("1", "other"))
    await writer.record_at(now + timedelta(days=400), income("2"))
    await writer.record(income("4"))
    await writer.events.erase_private(ACCOUNT, 2)
    async with opened(database) as ledger:
        await ledger.project(ACCOUNT, "other")
        report = await ledger.verify()
    assert (report.clean, report.faults) == (True, [])
    [ahead] = report.clock
    assert (ahead.account_id, ahead.position, ahead.kind) == (ACCOUNT, 2, "clock")
    assert "recordedAt of 2 events from here on is up to 399 days" in ahead.reason
    assert "docs/how-to/verify.md" in ahead.reason


@pytest.mark.parametrize("moved", [HOURS, -HOURS])
async def test_events_recorded_while_the_clock_was_set_are_no_fault(
    writer: Writer, database: Database, superuser: Connection, moved: timedelta
) -> None:
    """They were decided before it was set, and appended after."""
    now = await store_now(superuser)
    await writer.record_at(now - 2 * HOURS, *[income("1")] * 2)
    await superuser.execute(
        "UPDATE event_store.event SET appended_at = $1::timestamptz"
        " + CASE WHEN position = 2 THEN $2::interval ELSE interval '0' END",
        now - 2 * HOURS,
        moved,
    )
    async with opened(database) as ledger:
        report = await ledger.verify()
    assert report.faults == []
    [named] = report.clock
    assert (named.position, named.column) == (2, "appended_at")
    assert "up to 3:00:00" in named.reason


async def test_a_fault_beside_events_from_the_future_is_still_found(
    writer: Writer, database: Database, superuser: Connection
) -> None:
    await writer.record_at(datetime.now(UTC) + HOURS, *[income("1")] * 3)
    await superuser.execute("UPDATE event_store.event SET balance_minor = 7 WHERE position = 3")
    async with opened(database) as ledger:
        report = await ledger.verify()
    assert [(fault.position, fault.column) for fault in report.faults] == [(3, "balance_minor")]


async def test_an_export_with_events_from_the_future_is_restored(
    writer: Writer, database: Database, superuser: Connection, postgres_data_dir: Path
) -> None:
    now = await store_now(superuser)
    await writer.record(income("1"))
    await writer.record_at(now + timedelta(days=400), income("2"))
    await writer.record(income("4"))
    async with opened(database) as ledger:
        lines = await exported(ledger)
    with servers.cloned_database(postgres_data_dir) as other:
        async with opened(other) as ledger:
            assert (await restored(ledger, lines)).events == 3
            assert await exported(ledger) == lines
            assert (await ledger.verify()).clean
