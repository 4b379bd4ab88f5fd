"""The findings of `saldo verify` for a change to any stored column: docs/how-to/verify.md.

Each row of the page's table is a test, and each column that the migrations create must have rows
there.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from local.services import ROOT
from saldo.domain.commands import Kind
from saldo.operate.streams import restore_streams
from saldo.project.catch_up import CaughtUp
from saldo.project.lag_sweep import LagSweep
from saldo.project.postgres import PARK_DELIVERED, PostgresDatabases
from saldo.serve.clock import StoreClock
from tests.support import servers
from tests.support.controls import expense, income, limit, reversal
from tests.support.stored import append_unreadable, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers import Database
    from tests.support.stored import Ledger

SCHEMA_1 = ROOT / "tests" / "fixtures" / "streams_schema_1.ndjson"
PAGE = ROOT / "docs" / "how-to" / "verify.md"
# | `table.column` | findings; change: findings | change, change: why it is not seen |
ROW = re.compile(r"\| `(?P<place>[a-z_.]+)` \| (?P<found>.*)\| (?P<unseen>.*)\|")
ANY = "any"
# In a row of which the column is set and is of use.
ROWS = {
    "event_store.stream": "account_id = 'ana'",
    "event_store.event": "account_id = 'ana' AND position = {position}",
    "event_store.erasure": "account_id = 'ana'",
    "event_store.outbox": "account_id = 'ana' AND position = 1",
    "event_store.sweep": "name = 'outbox'",
    "read_model.balance": "account_id = 'ana'",
    "read_model.statement": "account_id = 'ana' AND position = {position}",
    "read_model.daily_total": "account_id = 'ana'",
    "read_model.dead_letter": "account_id = 'ana'",
    "read_model.sweep": "name = 'lagging'",
}
# Event 4 of ana reverses 3, the private part of 5 was erased.
POSITIONS = {
    ("event_store.event", "reverses"): 4,
    ("event_store.event", "erased_at"): 5,
    ("read_model.statement", "reverses"): 4,
    ("read_model.statement", "reversed_by"): 3,
}
BLOCK_COLUMNS = ("blocked_at", "blocked_reason", "blocked_schema")
RESTORED = [
    *SCHEMA_1.read_text().splitlines()[5:10],
    '{"end": {"accounts": 1, "events": 5}}',
]
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
        await ledger.erase("ana", 5)
        await ledger.record(income("7", "bruno"))
        await ledger.record(income("7", "carla"))
        await append_unreadable(ledger, "carla", '{"schema":99}')
        await restore_streams(database.dsn(), RESTORED, lambda _: None, outbox=False)
        await ledger.project("ana", "bruno", "carla", "wesley")
        await ledger.pool.execute("DELETE FROM event_store.outbox WHERE position > 1")
        await ledger.pool.execute(
            "UPDATE event_store.outbox SET claimed_until = clock_timestamp(), traceparent = $1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        await ledger.pool.execute(
            "INSERT INTO event_store.sweep VALUES ('outbox', clock_timestamp(), 0)"
        )

        async def nothing(_account_id: str, position: int) -> CaughtUp:
            return CaughtUp(position=position, blocked=False)

        databases = PostgresDatabases(ledger.pool, ledger.pool)
        await LagSweep(databases, nothing, StoreClock()).sweep()
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
    """A ledger in a separate event loop, which all tests here share, and its faults."""

    ledger: Ledger
    runner: asyncio.Runner
    before: frozenset[str]

    def fetch(self, statement: str, *arguments: object) -> list[Any]:
        """Run one statement."""
        return self.runner.run(self.ledger.pool.fetch(statement, *arguments))

    def found(self) -> set[str]:
        """Verify, and return table.column of each new finding."""
        report = self.runner.run(self.ledger.verify())
        return {
            f"{fault.table.split('.')[-1]}.{fault.column}"
            for fault in (*report.faults, *report.clock)
            if fault.text() not in self.before
        }


@pytest.fixture(scope="module")
def filled(postgres_data_dir: Path) -> Iterator[Filled]:
    """Yield a ledger with a value in every column; carla's event 2 is of a later version."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A row of the page's table: a table or column, and what verify says of each change to it."""

    place: str
    found: dict[str, set[str]]
    unseen: dict[str, str]

    def findings(self, change: str) -> set[str]:
        """Return the findings of a change as table.column; none where it is not seen."""
        if change in self.unseen:
            return set()
        return self.found.get(change) or self.found[ANY]


def _cell(text: str) -> dict[str, str]:
    """Return the parts of a cell by the changes that they are about."""
    parts: dict[str, str] = {}
    for part in filter(None, text.strip().split("; ")):
        changes, colon, said = part.partition(": ")
        for change in changes.split(", ") if colon else [ANY]:
            assert change not in parts, text
            parts[change] = said if colon else part
    return parts


def _promise(match: re.Match[str]) -> Promise:
    return Promise(
        place=match["place"],
        found={c: set(re.findall(r"`(.+?)`", t)) for c, t in _cell(match["found"]).items()},
        unseen=_cell(match["unseen"]),
    )


PROMISES = [_promise(m) for m in map(ROW.fullmatch, PAGE.read_text().splitlines()) if m]


def flipped(value: Any) -> Any:  # noqa: PLR0911 - one case a type
    """Return ``value`` with its lowest bit, or the lowest of its last character, the other way."""
    match value:
        case bool():
            return not value
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


CHANGES: dict[str, Callable[[Any], Any]] = {
    "one bit": flipped,
    "null": lambda _: None,
    "59 minutes later": lambda moment: moment + timedelta(minutes=59),
    "59 minutes earlier": lambda moment: moment - timedelta(minutes=59),
    "negative": lambda _: -1,
    "other text": lambda _: "x",
}
REMOVED = "removed"
# The changes that are tried on every column of a type, beside one bit.
BY_TYPE = {
    "timestamp with time zone": ["59 minutes later", "59 minutes earlier"],
    "text": ["other text"],
    "bigint": ["negative"],
    "integer": ["negative"],
    "numeric": ["negative"],
    "double precision": ["negative"],
}
COLUMNS = """
SELECT c.table_schema || '.' || c.table_name || '.' || c.column_name AS place, c.data_type,
       c.is_nullable = 'YES' AS nullable
FROM information_schema.columns AS c JOIN information_schema.tables AS t
USING (table_schema, table_name)
WHERE t.table_type = 'BASE TABLE' AND table_schema IN ('event_store', 'read_model')
"""


def changes_of(column: Any) -> list[str]:
    """Return the changes that are tried on a column."""
    nulled = ["null"] if column["nullable"] else []
    return ["one bit", *BY_TYPE.get(column["data_type"], []), *nulled]


def where(table: str, column: str) -> str:
    """Return the row to change: of a blocked account for the columns of a block."""
    if table == "read_model.balance" and column in BLOCK_COLUMNS:
        return "account_id = 'carla'"
    if column == "restored_at":
        return "account_id = 'wesley' AND position = 3"
    position = POSITIONS.get((table, column), 2 if column in {"description", "metadata"} else 3)
    return ROWS[table].format(position=position)


@pytest.mark.parametrize("promise", PROMISES, ids=[each.place for each in PROMISES])
def test_a_changed_column_is_reported_as_documented(filled: Filled, promise: Promise) -> None:
    if promise.place in ROWS:
        assert _found_without_row(filled, promise.place) == promise.findings(REMOVED)
        return
    [column] = filled.fetch(f"SELECT * FROM ({COLUMNS}) AS c WHERE place = $1", promise.place)
    changes = changes_of(column)
    assert promise.found.keys() | promise.unseen.keys() <= {*changes, ANY}
    found = {change: _found_with(filled, promise.place, change) for change in changes}
    assert found == {change: promise.findings(change) for change in changes}


def _found_with(filled: Filled, place: str, change: str) -> set[str]:
    table, _, column = place.rpartition(".")
    [row] = filled.fetch(
        f"SELECT ctid::text, {column} AS value FROM {table} WHERE {where(table, column)}"
    )
    assert row["value"] is not None
    [kind] = filled.fetch(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = $1::regclass AND attname = $2",
        table,
        column,
    )
    update = (
        f"UPDATE {table} SET {column} = $1::{kind[0]} "
        "WHERE ctid = $2::text::tid RETURNING ctid::text"
    )
    new = CHANGES[change](row["value"])
    if change == "one bit" and column == "position":
        new = row["value"] ^ 64  # the lowest bit makes it the next one's, which the key refuses
    [changed] = filled.fetch(update, new, row["ctid"])
    try:
        return filled.found()
    finally:
        filled.fetch(update, row["value"], changed[0])


def _found_without_row(filled: Filled, table: str) -> set[str]:
    rows = ROWS[table].format(position=3)
    [kept] = filled.fetch(f"DELETE FROM {table} AS t WHERE {rows} RETURNING to_jsonb(t)::text")
    try:
        return filled.found()
    finally:
        filled.fetch(
            f"INSERT INTO {table} SELECT (jsonb_populate_record(NULL::{table}, $1::jsonb)).*",
            kept[0],
        )


def test_the_page_lists_every_table_and_column(filled: Filled) -> None:
    """A new column must say what a change to it triggers."""
    columns = {row["place"] for row in filled.fetch(COLUMNS)}
    tables = {place.rpartition(".")[0] for place in columns}
    assert sorted(each.place for each in PROMISES) == sorted(columns | tables)
