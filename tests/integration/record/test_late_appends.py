"""Appends that the server executes long after their client is gone."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from saldo.record.decision import decide_batch
from saldo.record.errors import Contradicted, OutcomeUnknown
from saldo.record.ports import APPEND_DELAY_MAX, Lookup
from tests.support.controls import ACCOUNT, BRL, Clock, events_of, income, intent, ledger
from tests.support.proxy import APPENDS, Rule
from tests.support.sides import (
    DEADLINE_S,
    Connection,
    Unreachable,
    check_event_store,
    cut,
    on_clock,
    through,
    writer_on,
)

if TYPE_CHECKING:
    from tests.support.proxy import Proxy
    from tests.support.servers import Database


async def test_a_late_append_is_one_event_or_none(
    proxy: Proxy, database: Database, superuser: Connection
) -> None:
    """Its client is long gone when it is executed, and the intent was recorded again by then."""
    async with writer_on(through(proxy, database)) as writer:
        await writer.record(income("1"), income("1", "other"))
        rule = cut(proxy, "cut-late")
        outcomes = await writer.outcomes(
            intent(income("2"), ids=10), intent(income("3", "other"), key="k", ids=11)
        )
        assert [events_of(outcome)[0].position for outcome in outcomes] == [2, 2]
        rule.release.set()
        await asyncio.wait_for(rule.carried_out.wait(), DEADLINE_S)
        assert [event.position for event in await writer.record(income("4"))] == [3]
    assert rule.hits == 1
    assert await check_event_store(superuser) == 5


async def test_a_late_append_is_recorded_unless_overtaken(
    proxy: Proxy, database: Database, superuser: Connection
) -> None:
    """Its client was told that the outcome is unknown: not that nothing was recorded."""
    async with writer_on(through(proxy, database)) as writer:
        await writer.record(income("1"))

        rule = cut(proxy, "cut-late")
        side = on_clock(writer, Unreachable(proxy))
        [in_doubt] = await side.outcomes(intent(income("2"), ids=10))
        assert isinstance(in_doubt, OutcomeUnknown)
        proxy.refusing = False
        rule.release.set()
        await asyncio.wait_for(rule.carried_out.wait(), DEADLINE_S)
        assert [event.position for event in await writer.record(income("4"))] == [3]
    assert await check_event_store(superuser) == 3


async def test_nothing_found_under_locks_may_still_be_appended(
    proxy: Proxy, database: Database, superuser: Connection
) -> None:
    async with writer_on(through(proxy, database)) as writer:
        await writer.record(income("1"))

        class Losing(Clock):
            """From the first wait on, no append under locks gets through."""

            async def sleep(self, seconds: float) -> None:
                await super().sleep(seconds)
                if lost not in proxy.rules:
                    proxy.rules.append(lost)

        rule = cut(proxy, "cut-late")
        lost = Rule(begins=APPENDS, action="cut-before", hits_max=100)
        [in_doubt] = await on_clock(writer, Losing()).outcomes(intent(income("2"), ids=10))
        assert lost.hits > 0
        assert isinstance(in_doubt, OutcomeUnknown)
        proxy.rules.clear()
        rule.release.set()
        await asyncio.wait_for(rule.carried_out.wait(), DEADLINE_S)
    assert await check_event_store(superuser) == 2


RESTORE = """
WITH lost AS (DELETE FROM event_store.event WHERE position > 1 RETURNING account_id, position),
forgotten AS (
    DELETE FROM event_store.outbox AS o USING lost AS l
    WHERE o.account_id = l.account_id AND o.position = l.position
)
UPDATE event_store.stream AS s SET position = 1, hash = e.hash, balance_minor = e.balance_minor
FROM event_store.event AS e WHERE e.account_id = s.account_id AND e.position = 1
"""


async def test_a_store_restored_meanwhile_gets_no_gap(
    proxy: Proxy, database: Database, superuser: Connection
) -> None:
    """A standby took over that lacks the last events: no unique constraint forbids the next."""
    async with writer_on(through(proxy, database)) as writer:
        for value in ("1", "2", "4"):
            await writer.record(income(value))
        rule = Rule(begins=APPENDS, action="hold", hits_max=1)
        proxy.rules.append(rule)
        recording = asyncio.create_task(writer.record(income("8")))
        await asyncio.wait_for(rule.hit.wait(), DEADLINE_S)
        await superuser.execute(RESTORE)
        rule.release.set()
        [event] = await recording
        assert (event.position, event.balance_minor) == (2, 900)
    assert await check_event_store(superuser) == 2


async def test_an_append_after_another_event_is_refused(
    proxy: Proxy, database: Database, superuser: Connection
) -> None:
    """After a restore another event is at the position at which it was decided."""
    async with writer_on(through(proxy, database)) as writer, writer_on(database.dsn()) as other:
        for value in ("1", "2", "4"):
            await writer.record(income(value))
        rule = Rule(begins=APPENDS, action="hold", hits_max=1)
        proxy.rules.append(rule)
        recording = asyncio.create_task(writer.record(income("8")))
        await asyncio.wait_for(rule.hit.wait(), DEADLINE_S)
        await superuser.execute(RESTORE)
        await other.record(income("16"))
        await other.record(income("32"))
        rule.release.set()
        [event] = await recording
        assert (event.position, event.balance_minor) == (4, 5700)
    assert await check_event_store(superuser) == 4


@pytest.mark.parametrize("locked", [False, True])
async def test_an_append_is_refused_long_after_its_decision(
    database: Database, superuser: Connection, *, locked: bool
) -> None:
    """Its process was stopped meanwhile: the event would say that it was recorded then."""
    async with writer_on(database.dsn()) as writer:
        await writer.record(income("1"))
        transaction = await writer.store.begin()
        looked = await transaction.look(Lookup([ACCOUNT], [], []))
        now = looked.now
        decided = decide_batch([intent(income("2"))], ledger(looked.accounts[ACCOUNT]), now, BRL)
        if not locked:
            await transaction.roll_back()
        target = transaction if locked else writer.store
        decided.decided_at = now - APPEND_DELAY_MAX - timedelta(seconds=1)
        try:
            with pytest.raises(Contradicted):
                await target.append(decided)
            assert await superuser.fetchval("SELECT count(*) FROM event_store.event") == 1
            decided.decided_at = now - APPEND_DELAY_MAX / 2
            await target.append(decided)
            if locked:
                await transaction.commit()
        finally:
            await transaction.roll_back()  # or the pool waits for its connection
    assert await check_event_store(superuser) == 2
