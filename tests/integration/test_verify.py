"""`saldo verify` finds a change of any stored column, and nothing where nothing is wrong."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from saldo.domain.commands import Kind
from saldo.project.catch_up import CaughtUp
from saldo.project.dead_letters import PARK_DELIVERED
from saldo.project.sweep import LagSweep, PostgresLagTables
from tests import servers
from tests.controls import expense, income, limit, reversal
from tests.stored import append_unreadable, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from saldo.operate.verification.findings import Fault
    from tests.servers import Database
    from tests.stored import Ledger

# Columns of which the smallest change is harmless, each with the reason. What a change of their
# large bits would do is bounded, and that is tested below.
HARMLESS = {
    ("event_store.event", "appended_at"): "orders the lag sweep, which overlaps by 30 s",
    ("event_store.event", "erased_at"): "says when; that it was erased is proven by the null",
    ("event_store.outbox", "appended_at"): "orders the sweep",
    ("event_store.outbox", "claimed_until"): "a claim runs out by itself within seconds",
    ("event_store.outbox", "traceparent"): "links a trace, and nothing else",
    ("event_store.sweep", "swept_at"): "is for the operator to look at",
    ("event_store.sweep", "found"): "is for the operator to look at",
    ("read_model.sweep", "watermark"): "beyond the newest event there is none to pass over",
    ("read_model.sweep", "swept_at"): "is for the operator to look at",
    ("read_model.sweep", "found"): "is for the operator to look at",
    ("read_model.sweep", "lag_positions"): "is for the operator to look at",
    ("read_model.sweep", "lag_s"): "is for the operator to look at",
    ("read_model.balance", "blocked_at"): "says since when; that it is blocked is proven",
    ("read_model.dead_letter", "dead_letter_id"): "is a random name",
    ("read_model.dead_letter", "received_at"): "is for the operator to look at",
    ("read_model.dead_letter", "redriven_at"): "is for the operator to look at",
}
# In a row of which the column is set and is of use.
ROWS = {
    "event_store.stream": "account_id = 'ana'",
    "event_store.event": "account_id = 'ana' AND position = {position}",
    "event_store.outbox": "account_id = 'ana' AND position = 1",
    "event_store.sweep": "name = 'outbox'",
    "read_model.balance": "account_id = 'ana'",
    "read_model.statement": "account_id = 'ana' AND position = {position}",
    "read_model.daily_total": "account_id = 'ana'",
    "read_model.dead_letter": "account_id = 'ana'",
    "read_model.sweep": "name = 'lagging'",
}
# Event 4 of ana reverses event 3; the private part of event 5 was erased.
POSITIONS = {
    ("event_store.event", "reverses"): 4,
    ("event_store.event", "erased_at"): 5,
    ("read_model.statement", "reverses"): 4,
    ("read_model.statement", "reversed_by"): 3,
}
BLOCK_COLUMNS = ("blocked_at", "blocked_reason", "blocked_schema")
DELIVERED = {
    "subject": "ana",
    "id": "0192-foreign",
    "sequence": "3",
    "knativeerrordest": "http://localhost/",
    "knativeerrorcode": "503",
    "knativeerrordata": "bm8=",
}


async def _fill(database: Database) -> None:
    async with opened(database) as ledger:
        await ledger.record(limit("500", "ana"))
        await ledger.record(income("1000", "ana", description="Salário", metadata={"a": "b"}))
        [coffee] = await ledger.record(expense("10", "ana"), key="coffee")
        await ledger.record(reversal(coffee, Kind.EXPENSE, 1000))
        await ledger.record(income("5", "ana", description="to be erased"), key="erased")
        await ledger.record(income("7", "bruno"))
        await ledger.record(income("7", "carla"))
        await append_unreadable(ledger, "carla", '{"schema":99}')
        await ledger.pool.execute(
            "UPDATE event_store.event SET private_text = NULL, erased_at = clock_timestamp() "
            "WHERE account_id = 'ana' AND position = 5"
        )
        await ledger.project("ana", "bruno", "carla")
        await ledger.pool.execute(
            "UPDATE event_store.outbox SET claimed_until = clock_timestamp(), traceparent = $1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        await ledger.pool.execute(
            "INSERT INTO event_store.sweep VALUES ('outbox', clock_timestamp(), 0)"
        )

        async def nothing(_account_id: str, position: int) -> CaughtUp:
            return CaughtUp(
                position=position, blocked=False, more=False, refolded=False, projected=0
            )

        tables = PostgresLagTables(ledger.pool, ledger.pool)
        await LagSweep(tables, nothing, lambda: datetime.now(UTC)).sweep()
        await ledger.pool.execute(
            PARK_DELIVERED,
            "ana",
            "0192-foreign",
            3,
            "503 no",
            json.dumps(DELIVERED),
            json.dumps({"id": "0192-foreign"}),
        )
        await ledger.pool.execute(
            "UPDATE read_model.dead_letter SET redriven_at = clock_timestamp() "
            "WHERE account_id = 'ana'"
        )
        # Keys and checks of the schema would refuse some changes; they are not what is tested.
        await ledger.pool.execute(
            "ALTER TABLE read_model.statement DROP CONSTRAINT statement_kind_check"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A ledger in a loop of its own, which the tests of all columns share, and its faults."""

    ledger: Ledger
    runner: asyncio.Runner
    before: frozenset[str]


@pytest.fixture(scope="module")
def filled(postgres_data_dir: Path) -> Iterator[Filled]:
    """A ledger that has something in every column; carla's second event is of a later version."""
    with servers.cloned_database(postgres_data_dir) as database, asyncio.Runner() as runner:
        runner.run(_fill(database))
        context = opened(database)
        ledger = runner.run(context.__aenter__())
        report = runner.run(ledger.verify())
        assert {(fault.account_id, fault.column) for fault in report.faults} == {
            ("carla", "public_text")
        }
        before = frozenset(fault.text() for fault in report.faults)
        yield Filled(ledger=ledger, runner=runner, before=before)
        runner.run(context.__aexit__(None, None, None))


def columns() -> list[tuple[str, str]]:
    """Every column of both schemas, as the migrations make them."""
    return [(table, column) for table, names in COLUMNS.items() for column in names.split()]


COLUMNS = {
    "event_store.stream": "account_id currency position balance_minor overdraft_limit_minor hash "
    "recorded_at",
    "event_store.event": "account_id position event_id public_text private_text hash balance_minor "
    "key_hash key_line fingerprint reverses appended_at erased_at",
    "event_store.outbox": "account_id position appended_at claimed_until traceparent erased",
    "event_store.sweep": "name swept_at found",
    "read_model.balance": "account_id currency balance_minor position hash recorded_at blocked_at "
    "blocked_reason blocked_schema",
    "read_model.statement": "account_id position event_id kind amount_minor currency balance_minor "
    "description metadata occurred_at recorded_at reverses reversed_by hash",
    "read_model.daily_total": "account_id day income_minor expense_minor transactions",
    "read_model.dead_letter": "dead_letter_id account_id event_id position reason attributes data "
    "received_at redriven_at",
    "read_model.sweep": "name watermark swept_at found lag_positions lag_s",
}


def test_every_column_of_both_schemas_is_flipped_below(filled: Filled) -> None:
    rows = filled.runner.run(
        filled.ledger.pool.fetch(
            "SELECT c.table_schema || '.' || c.table_name, c.column_name "
            "FROM information_schema.columns AS c JOIN information_schema.tables AS t "
            "USING (table_schema, table_name) WHERE t.table_type = 'BASE TABLE' "
            "AND table_schema IN ('event_store', 'read_model')"
        )
    )
    assert {(row[0], row[1]) for row in rows} == set(columns())


def flipped(value: Any) -> Any:  # noqa: ANN401, PLR0911 - one case a type
    """``value`` with its lowest bit, or the lowest of its last character, the other way."""
    match value:
        case bytes():
            return value[:-1] + bytes([value[-1] ^ 1])
        case UUID():
            return UUID(int=value.int ^ 1)
        case datetime():
            return value + timedelta(microseconds=1)
        case date():
            return value + timedelta(days=1)
        case str() if value.startswith("{"):
            # Of a JSON text, a character that leaves it JSON: of the id, where there is one.
            place = value.index("0192") if "0192" in value else value.rindex('"') - 1
            return value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
        case str():
            return value[:-1] + chr(ord(value[-1]) ^ 1)
        case _:
            return int(value) ^ 1


def where(table: str, column: str) -> str:
    """The row to change: of a blocked account for the columns of a block."""
    if table == "read_model.balance" and column in BLOCK_COLUMNS:
        return "account_id = 'carla'"
    position = POSITIONS.get((table, column), 2 if column in {"description", "metadata"} else 3)
    return ROWS[table].format(position=position)


async def _faults_with(
    filled: Filled, table: str, column: str, change: Callable[[Any], Any]
) -> list[Fault]:
    """The faults that appear while the column is changed."""
    pool = filled.ledger.pool
    row = await pool.fetchrow(
        f"SELECT ctid::text, {column} AS value FROM {table} WHERE {where(table, column)}"  # noqa: S608 - names of the list above
    )
    assert row is not None
    assert row["value"] is not None
    kind = await pool.fetchval(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = $1::regclass AND attname = $2",
        table,
        column,
    )
    update = (
        f"UPDATE {table} SET {column} = $1::{kind} WHERE ctid = $2::text::tid RETURNING ctid::text"  # noqa: S608 - the same
    )
    changed = await pool.fetchval(update, change(row["value"]), row["ctid"])
    try:
        report = await filled.ledger.verify()
        return [fault for fault in report.faults if fault.text() not in filled.before]
    finally:
        await pool.fetchval(update, row["value"], changed)


@pytest.mark.parametrize(("table", "column"), [pair for pair in columns() if pair not in HARMLESS])
def test_one_flipped_bit_is_found_and_named(filled: Filled, table: str, column: str) -> None:
    # The lowest bit of a position makes it the next one's, which the primary key refuses.
    change = (lambda position: position ^ 64) if column == "position" else flipped
    faults = filled.runner.run(_faults_with(filled, table, column, change))
    assert faults
    # A row under another account's name is missed where it was, and is one too many elsewhere.
    if column not in {"account_id", "name"}:
        assert table.split(".")[1] in {fault.table.split(".")[-1] for fault in faults}


@pytest.mark.parametrize(("table", "column"), sorted(HARMLESS))
def test_a_harmless_change_is_one(filled: Filled, table: str, column: str) -> None:
    assert filled.runner.run(_faults_with(filled, table, column, flipped)) == []


@pytest.mark.parametrize(
    ("table", "column"),
    [pair for pair in sorted(HARMLESS) if pair[1].endswith(("_at", "_until", "watermark"))],
)
def test_a_time_far_in_the_future_is_found(filled: Filled, table: str, column: str) -> None:
    """It would keep a sweep from ever seeing the row."""
    faults = filled.runner.run(
        _faults_with(filled, table, column, lambda t: t + timedelta(days=9000))
    )
    assert [fault.column for fault in faults] == [column]


async def test_a_sound_ledger_is_clean_and_counted(database: Database) -> None:
    async with opened(database) as ledger:
        for number in range(3):
            await ledger.record(income("1", f"account-{number}"), key="key")
        await ledger.record(expense("1", "account-0"))
        await ledger.project("account-0", "account-1")
        report = await ledger.verify()
    assert report.faults == []
    assert (report.counts.accounts, report.counts.events, report.counts.lines) == (3, 4, 3)
    assert (report.counts.lagging_accounts, report.counts.lagging_positions) == (1, 1)


async def test_workers_come_to_the_same_as_one_process(
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


async def test_the_first_wrong_event_is_named_not_those_behind_it(database: Database) -> None:
    async with opened(database) as ledger:
        for _ in range(5):
            await ledger.record(income("1", "ana"))
        await ledger.pool.execute(
            "UPDATE event_store.event SET public_text = replace(public_text, '100', '900') "
            "WHERE position >= 2"
        )
        report = await ledger.verify()
    assert [(fault.account_id, fault.position) for fault in report.faults] == [("ana", 2)]


async def test_a_balance_ahead_of_its_stream_is_wrong(database: Database) -> None:
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


async def test_traffic_during_a_verification_is_not_wrong(database: Database) -> None:
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


async def test_erased_private_parts_are_counted_and_lost_ones_are_wrong(
    database: Database,
) -> None:
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana", description="x"), income("2", "ana"))
        await ledger.pool.execute(
            "UPDATE event_store.event SET private_text = NULL, erased_at = clock_timestamp() "
            "WHERE position = 1"
        )
        erased = await ledger.verify()
        await ledger.pool.execute(
            "UPDATE event_store.event SET private_text = NULL WHERE position = 2"
        )
        lost = await ledger.verify()
    assert (erased.faults, erased.counts.erased) == ([], 1)
    assert [(fault.position, fault.column) for fault in lost.faults] == [(2, "private_text")]


async def test_a_copy_that_outlives_the_erasure_is_wrong_after_ten_minutes(
    database: Database,
) -> None:
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana", description="secret"))
        await ledger.project("ana")
        erase = (
            "UPDATE event_store.event SET private_text = NULL, erased_at = $1::timestamptz, "
            "appended_at = $1::timestamptz - interval '1 minute'"
        )
        await ledger.pool.execute(erase, datetime.now(UTC))
        young = await ledger.verify()
        await ledger.pool.execute(erase, datetime.now(UTC) - timedelta(minutes=11))
        old = await ledger.verify()
    assert (young.faults, young.counts.erasures_pending) == ([], 1)
    assert [fault.column for fault in old.faults] == ["description"]


async def test_the_role_of_the_operator_is_enough(database: Database) -> None:
    """It is the one that `opened` verifies by; no superuser is needed."""
    async with opened(database) as ledger:
        assert "saldo_operate" in ledger.settings.event_store_url
        await ledger.record(income("1", "ana"))
        assert (await ledger.verify()).clean
