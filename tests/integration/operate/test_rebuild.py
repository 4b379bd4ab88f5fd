"""The command `saldo rebuild`: a new read model replaces the old one under traffic."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest

from saldo.operate.settings import open_operator_pool
from saldo.project import next_tables
from saldo.project import rebuild as rebuild_module
from saldo.project.errors import RebuildRefused
from saldo.project.postgres import PostgresDatabases
from saldo.project.rebuild import Rebuild, Rebuilt, discard_rebuild
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support.controls import expense, income
from tests.support.sides import CUT, check_read_model, connected
from tests.support.stored import Ledger, append_unreadable, opened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Serve
    from tests.support.servers import Database

ACCOUNTS = 20
REQUESTS_MIN = 300
HANGS_S = 120.0
READS_A_SECOND = 150
WRITES_A_SECOND = 50
IN_FLIGHT_MAX = 16

SHAPE = """
SELECT c.relname || ': ' || coalesce(c.relacl::text, '') || coalesce(c.reloptions::text, '')
       || coalesce(obj_description(c.oid, 'pg_class'), '')
FROM pg_class AS c WHERE c.relnamespace = 'read_model'::regnamespace
UNION ALL
SELECT indexdef FROM pg_indexes WHERE schemaname = 'read_model'
UNION ALL
SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'read_model'::regnamespace
UNION ALL
SELECT tablename || ' ' || tableowner FROM pg_tables WHERE schemaname LIKE 'read_model%'
ORDER BY 1
"""


async def rebuild(
    ledger: Ledger,
    *,
    accept_differences: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Rebuilt:
    """Run one rebuild in the operator's role."""
    url = ledger.settings.read_model_url
    async with open_operator_pool(url) as streams, open_operator_pool(url) as read_model:
        return await Rebuild(streams, read_model, progress).run(
            accept_differences=accept_differences
        )


async def fill(ledger: Ledger, accounts: int = 5) -> list[str]:
    """Record and project some accounts and return their ids."""
    ids = [f"account-{number}" for number in range(accounts)]
    for account_id in ids:
        await ledger.record(
            income("100", account_id, description="a", metadata={"x": "y"}),
            expense("1", account_id),
        )
    await ledger.project(*ids)
    return ids


async def model(ledger: Ledger) -> list[str]:
    """Return all rows of the read model, as texts."""
    rows: list[str] = []
    for table in ("balance", "statement", "daily_total"):
        found = await ledger.pool.fetch(f"SELECT t::text FROM read_model.{table} AS t ORDER BY 1")
        rows += [row[0] for row in found]
    return rows


async def test_the_new_model_has_the_rows_and_the_schema_of_the_old(
    database: Database,
) -> None:
    """Names of indexes and constraints, options, owners and grants: so a second rebuild works."""
    async with opened(database) as ledger:
        await fill(ledger)
        shape = [row[0] for row in await ledger.pool.fetch(SHAPE)]
        before = await model(ledger)
        for _ in range(2):
            rebuilt = await rebuild(ledger)
            assert (rebuilt.switched, rebuilt.differences) == (True, [])
            assert await model(ledger) == before
            assert [row[0] for row in await ledger.pool.fetch(SHAPE)] == shape


async def test_differences_are_reported_and_replaced_when_accepted(
    database: Database,
) -> None:
    async with opened(database) as ledger:
        await fill(ledger)
        right = await model(ledger)
        await ledger.pool.execute(
            "UPDATE read_model.balance SET balance_minor = 7 WHERE account_id = 'account-1'"
        )
        await ledger.pool.execute(
            "UPDATE read_model.statement SET description = 'b' "
            "WHERE account_id = 'account-2' AND position = 1"
        )
        await ledger.pool.execute("DELETE FROM read_model.daily_total WHERE account_id='account-3'")
        wrong = await model(ledger)
        refused = await rebuild(ledger)
        assert await model(ledger) == wrong
        accepted = await rebuild(ledger, accept_differences=True)
        assert await model(ledger) == right
        report = await ledger.verify()
    assert not refused.switched
    assert [(d.account_id, d.position, d.table) for d in refused.differences] == [
        ("account-1", 2, "balance"),
        ("account-2", 1, "statement"),
        ("account-3", None, "daily_total"),
    ]
    assert (accepted.switched, accepted.resumed) == (True, True)
    assert report.clean


async def test_a_lagging_or_empty_model_is_no_difference(database: Database) -> None:
    async with opened(database) as ledger:
        await fill(ledger)
        await ledger.record(income("5", "account-1"))
        await ledger.record(income("5", "new"))
        rebuilt = await rebuild(ledger)
        report = await ledger.verify()
    assert (rebuilt.switched, rebuilt.differences) == (True, [])
    assert (report.faults, report.counts.lagging_accounts) == ([], 0)


async def test_an_interrupted_rebuild_resumes_or_is_discarded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_module, "PAGE_ACCOUNTS", 2)

    def interrupt(done: int, _total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    async with opened(database) as ledger:
        await fill(ledger, 8)
        before = await model(ledger)
        with pytest.raises(KeyboardInterrupt):
            await rebuild(ledger, progress=interrupt)
        kept = await ledger.pool.fetchval("SELECT count(*) FROM read_model_next.balance")
        rebuilt = await rebuild(ledger)
        assert await model(ledger) == before
        with pytest.raises(KeyboardInterrupt):
            await rebuild(ledger, progress=interrupt)
        async with open_operator_pool(ledger.settings.read_model_url) as pool:
            assert await discard_rebuild(pool)
        left = await ledger.pool.fetch(next_tables.FIND_NEXT)
        assert await model(ledger) == before
    assert kept == 4
    assert (rebuilt.resumed, rebuilt.switched) == (True, True)
    assert left == []


async def test_tables_of_another_version_are_not_resumed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database) as ledger:
        await fill(ledger)
        await ledger.pool.execute(
            "UPDATE read_model.balance SET balance_minor = 7 WHERE account_id = 'account-1'"
        )
        monkeypatch.setattr(next_tables, "MADE_BY", "an older version")
        await rebuild(ledger)
        monkeypatch.undo()
        assert not (await rebuild(ledger, accept_differences=True)).resumed


async def test_an_erasure_during_the_rebuild_is_not_undone(
    database: Database,
) -> None:
    async with opened(database) as ledger:
        await fill(ledger)

        def erase(done: int, total: int) -> None:
            # After the new statement was filled, before the switch.
            if done == total:
                erasing.append(asyncio.ensure_future(erase_one()))

        erasing: list[asyncio.Future[None]] = []

        async def erase_one() -> None:
            await ledger.erase("account-1", 1)
            await ledger.pool.execute(
                "UPDATE read_model.statement SET description = NULL, metadata = NULL "
                "WHERE account_id = 'account-1' AND position = 1"
            )

        rebuilt = await rebuild(ledger, progress=erase)
        await asyncio.gather(*erasing)
        description = await ledger.pool.fetchval(
            "SELECT description FROM read_model.statement "
            "WHERE account_id = 'account-1' AND position = 1"
        )
    assert rebuilt.switched
    assert description is None


async def test_a_blocked_account_keeps_its_block_and_date(database: Database) -> None:
    async with opened(database) as ledger:
        await fill(ledger)
        await append_unreadable(ledger, "account-1", '{"schema":99}')
        await ledger.project("account-1")
        query = "SELECT * FROM read_model.balance WHERE account_id = 'account-1'"
        before = await ledger.pool.fetchrow(query)
        rebuilt = await rebuild(ledger)
        after = await ledger.pool.fetchrow(query)
        letters = await ledger.pool.fetchval("SELECT count(*) FROM read_model.dead_letter")
    assert rebuilt.switched
    assert after == before
    assert letters == 1


async def test_a_view_on_the_old_tables_moves_to_the_new_ones(database: Database) -> None:
    async with (
        opened(database) as ledger,
        asyncpg.create_pool(database.dsn("saldo_query")) as query,
    ):
        ids = await fill(ledger)
        await ledger.pool.execute(
            "SET ROLE saldo_operate; CREATE VIEW read_model.totals AS "
            "SELECT count(*) AS accounts FROM read_model.balance; "
            "GRANT SELECT ON read_model.totals TO saldo_query; RESET ROLE"
        )
        assert (await rebuild(ledger)).switched
        await ledger.record(income("1", "new"))
        await ledger.project("new")
        assert await query.fetchval("SELECT accounts FROM read_model.totals") == len(ids) + 1


async def test_the_switch_waits_for_work_in_flight(
    database: Database,
) -> None:
    """The switch waits for earlier work, 200 ms at a time, so that no queue builds up."""
    async with (
        opened(database) as ledger,
        asyncpg.create_pool(database.dsn("saldo_query"), min_size=1, max_size=1) as query,
        asyncpg.create_pool(database.dsn("saldo_project"), min_size=1, max_size=2) as project,
        query.acquire() as reader,
    ):
        await fill(ledger)
        statement = await reader.prepare(
            "SELECT balance_minor FROM read_model.balance WHERE account_id = $1"
        )
        async with (
            PostgresDatabases(project, project).begin() as projection,
            reader.transaction(),
        ):
            assert await statement.fetchval("account-1") == 9900
            await projection.lock(["account-1"])
            attempts = 0
            running = asyncio.create_task(rebuild(ledger))
            while attempts < 2:  # it asks for the lock, gives up and asks again
                await ledger.pool.execute("SELECT pg_stat_clear_snapshot()")
                attempts += await ledger.pool.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
                await asyncio.sleep(0.01)
            # A further read is not kept waiting meanwhile.
            assert await asyncio.wait_for(statement.fetchval("account-2"), HANGS_S) == 9900
        rebuilt = await asyncio.wait_for(running, HANGS_S)
        # The same prepared statement, planned again on the new table.
        assert await statement.fetchval("account-1") == 9900
    assert rebuilt.switched


async def test_the_switch_gives_up_when_the_tables_stay_locked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_module, "SWITCHES_MAX", 2)
    monkeypatch.setattr(rebuild_module, "SWITCH_LOCK_TIMEOUT_MS", 20)
    async with opened(database) as ledger:
        await fill(ledger)
        before = await model(ledger)
        async with ledger.pool.acquire() as reader, reader.transaction():
            await reader.fetch("SELECT * FROM read_model.daily_total")
            with pytest.raises(RebuildRefused, match="in use"):
                await rebuild(ledger)
        assert await model(ledger) == before
        rebuilt = await rebuild(ledger)
    assert (rebuilt.resumed, rebuilt.switched) == (True, True)


async def test_a_balance_beyond_its_stream_is_replaced_on_request_only(database: Database) -> None:
    """As after a restore of the store: the old model knows of an event that the store has lost."""
    async with opened(database) as ledger:
        await fill(ledger)
        await ledger.pool.execute("DELETE FROM event_store.event WHERE position = 2")
        await ledger.pool.execute(
            "UPDATE event_store.stream AS s SET position = 1, hash = e.hash, "
            "balance_minor = e.balance_minor, recorded_at = "
            "(e.public_text::json->>'recordedAt')::timestamptz "
            "FROM event_store.event AS e WHERE e.account_id = s.account_id"
        )
        await ledger.pool.execute("DELETE FROM event_store.outbox WHERE position = 2")
        with pytest.raises(RebuildRefused, match="does not have"):
            await rebuild(ledger)
        assert (await rebuild(ledger, accept_differences=True)).switched
        assert (await ledger.verify()).clean


async def test_a_resumed_rebuild_drops_what_a_restore_removed(database: Database) -> None:
    """Its tables were left before the restore: each balance there is compared by its hash."""
    async with opened(database) as ledger:
        ids = await fill(ledger)
        await ledger.record(income("7", "removed"))
        await ledger.record(income("8", "later-blocked"), income("9", "later-blocked"))
        await append_unreadable(ledger, "later-blocked", '{"schema":99}')
        await ledger.project("removed", "later-blocked")
        await ledger.pool.execute("UPDATE read_model.balance SET balance_minor = balance_minor + 1")
        left = await rebuild(ledger)
        assert not left.switched
        # Lost: all of one account; the last event of another; of a third, which has gone on since
        # to the same position; of a fourth, which has gone beyond it; and what blocked a fifth.
        await ledger.pool.execute("DELETE FROM event_store.outbox")
        for table in ("event", "stream"):
            await ledger.pool.execute(
                f"DELETE FROM event_store.{table} WHERE account_id = 'removed'"
            )
        for account_id in ids[:3]:
            await ledger.pool.execute(CUT, account_id, 1)
        await ledger.pool.execute(CUT, "later-blocked", 2)
        await ledger.record(income("20", ids[1]))
        await ledger.record(income("30", ids[2]), income("40", ids[2]))
        gone_on = await rebuild(ledger, accept_differences=True)
        async with connected(database.dsn()) as superuser:
            await check_read_model(superuser)
        report = await ledger.verify()
    assert (gone_on.resumed, gone_on.switched) == (True, True)
    # The dead letter stays, for the operator: its event is lost.
    assert {(fault.table, fault.account_id) for fault in report.faults} == {
        ("dead_letter", "later-blocked")
    }
    assert report.counts.lagging_accounts == 0


async def test_a_restore_during_a_rebuild_is_detected_by_hash(database: Database) -> None:
    """The account is filled, loses its last event and comes to the same position again."""
    async with opened(database) as ledger:
        ids = await fill(ledger)
        restoring: list[asyncio.Future[None]] = []

        async def restore() -> None:
            await ledger.pool.execute(CUT, ids[0], 1)
            await ledger.record(income("20", ids[0]))

        class Restoring(Rebuild):
            async def _pass_until_level(self) -> None:
                if not restoring:
                    restoring.append(asyncio.ensure_future(restore()))
                    await restoring[0]
                await super()._pass_until_level()

        async with open_operator_pool(ledger.settings.read_model_url) as pool:
            rebuilt = await Restoring(pool, pool, lambda _done, _total: None).run(
                accept_differences=True
            )
        async with connected(database.dsn()) as superuser:
            await check_read_model(superuser)
    assert rebuilt.switched


async def test_a_second_concurrent_rebuild_is_refused(database: Database) -> None:
    async with opened(database) as ledger, ledger.pool.acquire() as other:
        await fill(ledger)
        await other.execute(f"SELECT pg_advisory_lock({rebuild_module.REBUILD_LOCK})")
        with pytest.raises(RebuildRefused, match="another"):
            await rebuild(ledger)


def cloud_event(recorded: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """Return a recorded transaction as KafkaSource delivers it."""
    headers = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": recorded["id"],
        "ce-source": "/saldo/transactions",
        "ce-type": "saldo.transaction.recorded",
        "ce-subject": recorded["accountId"],
        "ce-sequence": str(recorded["position"]),
        "ce-time": datetime.now(UTC).isoformat(),
    }
    return headers, b'{"event":{},"private":{}}'


class Traffic:
    """Reads, and writes whose records are delivered, at a steady rate; remembers what failed."""

    def __init__(
        self, client: httpx.AsyncClient, urls: tuple[str, str, str], ids: list[str]
    ) -> None:
        self._client = client
        self._record, self._balance, self._project = urls
        self._ids = ids
        self._positions = dict.fromkeys(ids, 0)
        self._stop = asyncio.Event()
        self._going: list[asyncio.Task[None]] = []
        self.requests = 0
        self.failures: list[str] = []

    def start(self) -> None:
        self._going = [
            asyncio.create_task(self._at_a_rate(self._read, READS_A_SECOND)),
            asyncio.create_task(self._at_a_rate(self._write, WRITES_A_SECOND)),
        ]

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._going)

    async def _read(self, account_id: str) -> None:
        wanted = self._positions[account_id]
        query = {"accountId": account_id}
        answer = await self._client.get(f"{self._balance}/balances", params=query)
        if answer.status_code != 200:
            self.failures.append(f"read: {answer.status_code} {answer.text[:200]}")
        elif answer.json()["position"] < wanted:
            self.failures.append(f"read: {account_id} went back to {answer.json()['position']}")

    async def _write(self, account_id: str) -> None:
        body = {"accountId": account_id, "type": "INCOME", "value": 1, "description": "x"}
        answer = await self._client.post(f"{self._record}/transactions", json=body)
        if answer.status_code != 201:
            self.failures.append(f"write: {answer.status_code} {answer.text[:200]}")
            return
        headers, data = cloud_event(answer.json())
        delivered = await self._client.post(self._project, content=data, headers=headers)
        if delivered.status_code != 200:
            self.failures.append(f"delivery: {delivered.status_code} {delivered.text[:200]}")
            return
        reached = answer.json()["position"]
        self._positions[account_id] = max(self._positions[account_id], reached)

    async def _at_a_rate(self, work: Callable[[str], Awaitable[None]], a_second: int) -> None:
        running: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in itertools.count():
            if self._stop.is_set():
                break
            await asyncio.sleep(max(0, began + number / a_second - loop.time()))
            if len(running) == IN_FLIGHT_MAX:  # a busy machine: slower, but nothing piles up
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            self.requests += 1
            task = asyncio.ensure_future(work(self._ids[number % len(self._ids)]))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_requests_succeed_across_two_rebuilds(database: Database, serve: Serve) -> None:
    """The real functions at 200 requests a second, and not one request fails.

    Their prepared statements and the positions that they remember survive the switch.
    """
    served = serve(RECORD), serve(BALANCE), serve(PROJECT)
    limits = httpx.Limits(max_connections=40)
    async with (
        opened(database) as ledger,
        httpx.AsyncClient(limits=limits, timeout=HANGS_S) as client,
    ):
        ids = await fill(ledger, ACCOUNTS)
        traffic = Traffic(client, (served[0].url, served[1].url, served[2].url), ids)
        traffic.start()
        rebuilds: list[Rebuilt] = []
        while len(rebuilds) < 2 or traffic.requests < REQUESTS_MIN:
            rebuilds.append(await rebuild(ledger))
        await traffic.stop()
        await ledger.project(*ids)
        report = await ledger.verify()
    assert traffic.failures == []
    assert all(each.switched and each.differences == [] for each in rebuilds)
    assert report.faults == []
    for function in served:
        assert "cached plan" not in function.log()
        assert "InvalidCachedStatement" not in function.log()
