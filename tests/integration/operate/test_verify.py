"""The command `saldo verify`: it finds what is wrong, and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.controls import expense, income
from tests.support.stored import opened

if TYPE_CHECKING:
    import pytest

    from tests.support.servers import Database


async def test_an_intact_ledger_has_no_findings(database: Database) -> None:
    async with opened(database) as ledger:
        for number in range(3):
            await ledger.record(income("1", f"account-{number}"), key="key")
        await ledger.record(expense("1", "account-0"))
        await ledger.project("account-0", "account-1")
        report = await ledger.verify()
    assert report.faults == []
    assert (report.counts.accounts, report.counts.events, report.counts.lines) == (3, 4, 3)
    assert (report.counts.lagging_accounts, report.counts.lagging_positions) == (1, 1)


async def test_several_workers_find_the_same_as_one_process(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each joins the snapshots of the process that leads."""
    monkeypatch.setattr("saldo.operate.verification.run.PARALLEL_EVENTS_MIN", 0)
    async with opened(database) as ledger:
        for number in range(20):
            await ledger.record(*[income("1", f"account-{number}")] * 3)
        await ledger.project(*(f"account-{number}" for number in range(20)))
        await ledger.pool.execute(
            "UPDATE event_store.event SET balance_minor = 7 "
            "WHERE account_id = 'account-13' AND position = 2"
        )
        alone, together = await ledger.verify(), await ledger.verify(workers=2)
    assert [fault.text() for fault in alone.faults] == [
        "account-13 position 2: event.balance_minor: the events come to 200"
    ]
    assert together.faults == alone.faults
    assert together.counts == alone.counts


async def test_only_the_first_wrong_event_is_named(database: Database) -> None:
    async with opened(database) as ledger:
        for _ in range(5):
            await ledger.record(income("1", "ana"))
        await ledger.pool.execute(
            "UPDATE event_store.event SET public_text = replace(public_text, '100', '900') "
            "WHERE position >= 2"
        )
        report = await ledger.verify()
    assert [(fault.account_id, fault.position) for fault in report.faults] == [("ana", 2)]


async def test_impossible_time_of_a_stream_is_that_streams_finding(database: Database) -> None:
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana"), income("1", "bob"))
        await ledger.pool.execute(
            "UPDATE event_store.stream SET recorded_at = '294276-12-31' WHERE account_id = 'ana'"
        )
        report = await ledger.verify()
    assert {(fault.account_id, fault.table) for fault in report.faults} == {("ana", "stream")}


async def test_a_balance_ahead_of_its_stream_is_found(database: Database) -> None:
    """A read model that lags is only counted; one that knows more than the store is not right."""
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana"), income("1", "ana"))
        await ledger.project("ana")
        await ledger.pool.execute("DELETE FROM event_store.outbox WHERE position = 2")
        await ledger.pool.execute("DELETE FROM event_store.event WHERE position = 2")
        await ledger.pool.execute(
            "UPDATE event_store.stream AS s SET position = 1, hash = e.hash, "
            "balance_minor = e.balance_minor FROM event_store.event AS e"
        )
        report = await ledger.verify()
    assert {(fault.table, fault.position) for fault in report.faults} == {("statement", 2)}


async def test_traffic_during_a_verification_is_no_finding(database: Database) -> None:
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana"))
        stop = asyncio.Event()

        async def traffic() -> int:
            recorded = 0
            while not stop.is_set():
                await ledger.record(income("1", f"account-{recorded % 7}"))
                await ledger.project(f"account-{recorded % 7}")
                recorded += 1
            return recorded

        running = asyncio.create_task(traffic())
        reports = [await ledger.verify() for _ in range(10)]
        stop.set()
        assert await running > 0
    assert [report.faults for report in reports] == [[]] * 10


async def test_erased_private_parts_are_counted_and_lost_ones_found(
    database: Database,
) -> None:
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana", description="x"), income("2", "ana"))
        await ledger.erase("ana", 1)
        erased = await ledger.verify()
        await ledger.pool.execute(
            "UPDATE event_store.event SET private_text = NULL WHERE position = 2"
        )
        lost = await ledger.verify()
    assert (erased.faults, erased.counts.erased) == ([], 1)
    assert [(fault.position, fault.column) for fault in lost.faults] == [(2, "private_text")]


async def test_unerased_copy_is_found_ten_minutes_after_erasure(
    database: Database,
) -> None:
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana", description="secret"))
        await ledger.project("ana")
        await ledger.erase("ana", 1)
        young = await ledger.verify()
        for table in ("event", "erasure"):
            await ledger.pool.execute(
                f"UPDATE event_store.{table} SET erased_at = erased_at - interval '11 minutes'"
            )
        old = await ledger.verify()
    assert (young.faults, young.counts.erasures_pending) == ([], 1)
    assert [fault.column for fault in old.faults] == ["description"]


async def test_the_operator_role_is_sufficient(database: Database) -> None:
    """It is the one that `opened` verifies by; no superuser is needed."""
    async with opened(database) as ledger:
        assert "saldo_operate" in ledger.settings.event_store_url
        await ledger.record(income("1", "ana"))
        assert (await ledger.verify()).clean
