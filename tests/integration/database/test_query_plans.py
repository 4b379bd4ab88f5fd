"""The query plans of all statements, on a filled database, in the role that runs each.

The statements are collected from the modules, not retyped: a new one fails here until it says which
indexes it uses, or why it reads a whole table. Each is planned as prepared (a generic plan, which
PostgreSQL may take from the sixth execution on) and for arrays of one and of several elements.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

import saldo
from local import postgres
from tests.support.servers import cloned_database
from tests.support.sides import Connection, connected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Database

# It ends with a vacuum: reading an index alone is cheap on vacuumed pages only, and whether
# autovacuum had come by would decide on some plans.
FILL = """
INSERT INTO event_store.stream
SELECT 'account-' || n, 'BRL', 5, 5000, NULL, sha256(n::text::bytea), now()
FROM generate_series(1, 8000) AS n;
INSERT INTO event_store.event
SELECT 'account-' || n, p, gen_random_uuid(), repeat('x', 300), repeat('y', 100),
       sha256(n::text::bytea), 1000 * p,
       CASE WHEN n % 2 = 0 THEN sha256((n || '-' || p)::bytea) END,
       CASE WHEN n % 2 = 0 THEN 0 END, CASE WHEN n % 2 = 0 THEN sha256('f') END,
       CASE WHEN n % 100 = 0 THEN gen_random_uuid() END,
       now() - interval '1 day' + (p * 8000 + n) * interval '0.5 s',
       CASE WHEN n % 400 = 0 THEN now() END
FROM generate_series(1, 8000) AS n, generate_series(1, 5) AS p;
INSERT INTO event_store.outbox (account_id, position, appended_at)
SELECT 'account-' || n, 5, now() - n * interval '1 s' FROM generate_series(1, 5000) AS n;
INSERT INTO read_model.balance (account_id, currency, balance_minor, position, hash, recorded_at)
SELECT account_id, currency, balance_minor, position, hash, recorded_at FROM event_store.stream;
INSERT INTO read_model.statement (account_id, position, event_id, kind, amount_minor, currency,
    balance_minor, description, metadata, occurred_at, recorded_at, hash)
SELECT account_id, position, event_id, 'INCOME', 1000, 'BRL', balance_minor, 'Coffee', '{}',
       appended_at, appended_at, hash
FROM event_store.event;
INSERT INTO read_model.daily_total
SELECT 'account-' || n, current_date - d, 1000, 0, 1
FROM generate_series(1, 8000) AS n, generate_series(1, 3) AS d;
INSERT INTO read_model.dead_letter (dead_letter_id, account_id, event_id, reason, attributes,
    redriven_at)
SELECT gen_random_uuid(), 'account-' || n, gen_random_uuid()::text, 'r', '{}',
       CASE WHEN n % 50 > 0 THEN now() END
FROM generate_series(1, 5000) AS n;
VACUUM ANALYZE;
"""
ROLES = {
    "record": "saldo_record",
    "project": "saldo_project",
    "query": "saldo_query",
    "operate": "saldo_operate",
    "serve": "saldo_query",
}
# Dead letters are rare, and the sweeps' notes a row each: those tables are read as a whole.
BIG = frozenset({"stream", "event", "outbox", "balance", "statement", "daily_total"})
# The arrays that are planned for: one element, and a few.
SIZES = (1, 10)

# The indexes that each statement uses with any arguments. Where several serve equally,
# none is named: then it must only not read the whole table.
INDEXES: dict[str, set[str]] = {
    "record.postgres.LOCK_STREAMS": {"stream_pkey"},
    "record.stored_events.FIND_ACCOUNT": {"stream_pkey"},
    "record.postgres.LOOK": {"stream_pkey", "event_idempotency_key", "event_reversed_once"},
    "record.postgres.APPEND": {"stream_pkey"},
    "record.postgres.FIND_OWN": {"event_by_id"},
    "record.stored_events.FIND_BY_ID": {"event_by_id"},
    "record.stored_events.FIND_REVERSAL": {"event_reversed_once"},
    "record.stored_events.EVENTS_AFTER": {"event_position"},
    "record.stored_events.HASH_AT": {"event_position"},
    "record.stored_events.ERASE_PRIVATE": {"event_position", "erasure_position"},
    "record.postgres.CLAIM": {"event_position", "outbox_by_time", "outbox_position"},
    "record.postgres.ACKNOWLEDGE": {"outbox_position"},
    "record.postgres.NOTE_SWEEP": {"sweep_pkey"},
    "record.postgres.DEPTH": {"outbox_by_time"},
    "project.postgres.PARK_DELIVERED": {"dead_letter_event"},
    "project.postgres.GIVEN_UP": {"balance_blocked", "dead_letter_waiting"},
    "project.postgres.LOCK_BALANCES": {"balance_pkey"},
    "project.postgres.CREATE_BALANCES": {"balance_pkey"},
    "project.postgres.READ_FROM": {"event_position"},
    "project.postgres.CLEAR": {"daily_total_day"},
    "project.postgres.WRITE": {"balance_pkey", "daily_total_day"},
    "project.postgres.DROP_EMPTY": {"balance_pkey"},
    "project.postgres.MARK_REVERSED": {"statement_by_id"},
    "project.postgres.PARK": {"dead_letter_event"},
    "project.postgres.READ_WATERMARK": set(),
    "project.postgres.FIRST_APPENDED": {"event_by_time"},
    "project.postgres.WALK": {"event_by_time"},
    "project.postgres.STANDING": {"balance_pkey"},
    "project.postgres.NOTE": {"sweep_pkey"},
    "project.postgres.ERASED": {"event_erased"},
    "project.postgres.ERASE_COPIES": {"statement_position"},
    "project.postgres.CONFIRM_ERASED": {"event_position"},
    "project.rebuild.HAVE_EVENTS": {"stream_pkey"},
    "project.rebuild.ERASED_SINCE": {"event_erased"},
    "project.rebuild.STREAMS_PAGE": {"stream_pkey"},
    "project.next_tables.FIND_NEXT": set(),
    "project.next_tables.GRANTS": set(),
    "project.next_tables.INDEXES": set(),
    "project.next_tables.OPTIONS": set(),
    "project.next_tables.VIEWS": set(),
    "serve.clock.STORE_NOW": set(),
    "query.balances.READ_BALANCES": {"balance_pkey"},
    "query.balances.READ_STREAMS": {"stream_pkey"},
    "query.balances.READ_PLACES": {"stream_pkey", "event_position"},
    "query.balances.READ_STATES": {"balance_pkey"},
    "query.balances.AS_OF": {"statement_by_recorded_time"},
    "query.balances.AT_POSITION": {"statement_position"},
    "query.balances.EFFECTIVE_AT": {"daily_total_day", "statement_by_occurred_time"},
    "query.statement.STATEMENT_PAGE": {"statement_position"},
    "query.statement.ACCOUNTS_PAGE": {"balance_pkey"},
    "query.statement.DAYS": {"daily_total_day"},
    "query.system_status.READ_MODEL": {"balance_blocked", "dead_letter_waiting"},
    "operate.erasures.ERASE_PRIVATE": {"event_position"},
    "operate.erasures.ERASURES": {"event_erased"},
    "operate.erasures.HELD": {"event_position"},
    "operate.checkpoints.REWRITTEN": {"event_position"},
    "operate.migrate.APPLIED": set(),
    "operate.migrate.NOTE": set(),
    "operate.dead_letters.BLOCKED": {"balance_blocked"},
    "operate.dead_letters.DROP": set(),
    "operate.dead_letters.KNOWN_STREAM": {"stream_pkey"},
    "operate.dead_letters.LIST": set(),
    "operate.dead_letters.REDELIVERED": set(),
    "operate.dead_letters.REDRIVEN": {"dead_letter_event"},
    "operate.dead_letters.SHOW": set(),
    "operate.dead_letters.UNBLOCK": {"balance_pkey"},
    "operate.status.BLOCKED": {"balance_blocked"},
    "operate.status.DEPTH": {"outbox_by_time"},
    "operate.status.LETTERS": {"dead_letter_waiting"},
    "operate.status.MODEL_SWEEPS": set(),
    "operate.status.OLDEST": {"event_position"},
    "operate.status.RECENT": {"event_by_time"},
    "operate.status.STANDING": {"balance_pkey"},
    "operate.status.SWEEPS": set(),
    "operate.streams.EVENTS": {"event_position"},
    "operate.streams.HELD": {"event_position", "stream_pkey"},
    "operate.streams.LOCK_STREAMS": {"stream_pkey"},
    "operate.streams.WRITE": {"stream_pkey"},
    "operate.verification.other_tables.DEAD_LETTERS": {"dead_letter_event"},
    "operate.verification.other_tables.LAG_WATERMARK": set(),
    "operate.verification.other_tables.MODEL_SWEEPS": set(),
    "operate.verification.other_tables.NEWEST": {"event_by_time"},
    "operate.verification.other_tables.STANDS_ON_EVENT": {"event_by_time"},
    "operate.verification.other_tables.STORE_SWEEPS": set(),
    "operate.verification.other_tables.TEXTS": {"event_position"},
    "operate.verification.topic.TEXTS": {"event_position"},
}
# Statements that read whole tables: for an operator, never for a client. And why that is right.
WALKS = {
    "operate.checkpoints.HEADS": "the head of every account is exported",
    "operate.status.BALANCES": "sums over every balance",
    "operate.status.STREAMS": "sums over every stream",
    "operate.streams.TOTAL": "the number of events, for the progress shown",
    "operate.verification.walk.BALANCES": "all are verified",
    "operate.verification.other_tables.ERASURES": "all are verified",
    "operate.verification.walk.REVERSED": "all are verified",
    "operate.verification.run.BOUNDS": "cuts all streams into ranges",
    "operate.verification.walk.EVENTS": "all are verified",
    "operate.verification.walk.LINES": "all are verified",
    "operate.verification.walk.STREAMS": "all are verified",
    "operate.verification.run.TOTAL": "the number of events, for the progress shown",
    "operate.verification.walk.TOTALS": "all are verified",
    "operate.verification.other_tables.OUTBOX": "all of what waits is verified, often few",
    "operate.verification.topic.COMMITTED": "leaves out what waits in the outbox, all of it",
    "project.rebuild.APPENDED_SINCE": "as many streams as were appended to, perhaps all",
    "project.rebuild.STREAMS_COUNT": "every account is rebuilt",
    "query.system_status.READ_PROJECTED": "a sum for the operator's page, kept for a while",
    "query.system_status.READ_RECORDED": "a sum for the operator's page, kept for a while",
    "query.system_status.READ_STORE": "counts what waits in the outbox, up to a bound",
}
# Its LIMIT is an argument. Without looking at it a tenth of the outbox is expected, and the whole
# is read; the server takes that plan only if it costs no more than one made for the argument.
PLANNED_WITH_ARGUMENTS = frozenset({"record.postgres.CLAIM"})
# Statements of tables that are there only while a rebuild goes on.
UNPLANNED = "read_model_next."


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A constant of the product."""

    name: str
    text: str

    @property
    def role(self) -> str:
        """The role that runs it."""
        side = self.name.partition(".")[0]
        if self.name.startswith("operate.migrate."):
            return postgres.SUPERUSER
        rebuilds = self.name.startswith(("project.rebuild.", "project.next_tables."))
        return "saldo_operate" if rebuilds else ROLES[side]


def statements() -> list[Statement]:
    """Yield every UPPER_CASE constant of the package that is a statement with a plan."""
    found: list[Statement] = []
    for module in pkgutil.walk_packages(saldo.__path__, "saldo."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if (
                isinstance(value, str)
                and name.isupper()
                and not name.startswith("_")  # a part of others
                and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", value)
            ):
                short = f"{module.name.removeprefix('saldo.')}.{name}"
                found.append(Statement(name=short, text=value))
    return found


STATEMENTS = [each for each in statements() if UNPLANNED not in each.text]


@pytest.fixture(scope="module")
def filled(postgres_data_dir: Path) -> Iterator[Database]:
    """Yield a database so full that every plan is cheaper with its index."""
    with cloned_database(postgres_data_dir) as database:
        postgres.run_sql(database.dsn(), FILL)
        yield database


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a plan reads: tables from end to end, and indexes."""

    scanned: frozenset[str]
    indexes: frozenset[str]


def plan_of(explained: Any) -> Plan:
    """Return the whole tree of EXPLAIN's JSON, subplans and CTEs included."""
    scanned: set[str] = set()
    indexes: set[str] = set()
    waiting = [explained["Plan"]]
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", [])
        if node["Node Type"] == "Seq Scan":
            scanned.add(node["Relation Name"])
        if "Index Name" in node:
            indexes.add(node["Index Name"])
        indexes.update(node.get("Conflict Arbiter Indexes", []))
    return Plan(scanned=frozenset(scanned), indexes=frozenset(indexes))


def generic_plan(url: str, statement: Statement, settings: str = "") -> Plan:
    """Return the plan that ignores the arguments."""
    said = postgres.run_sql(url, f"{settings} EXPLAIN (GENERIC_PLAN, FORMAT JSON) {statement.text}")
    return plan_of(json.loads(said)[0])


async def plan_for(connection: Connection, statement: Statement, size: int) -> Plan:
    """Return the plan for arguments whose arrays have ``size`` elements."""
    prepared = await connection.prepare(statement.text)
    arguments = [argument(each.name, size) for each in prepared.get_parameters()]
    return plan_of((await prepared.explain(*arguments))[0])


SAMPLES: dict[str, list[Any]] = {
    "text": [f"account-{number}" for number in range(1, 1_000)],
    "int8": list(range(1, 1_000)),
    "int4": list(range(1, 1_000)),
    "numeric": [Decimal(number) for number in range(1, 1_000)],
    "uuid": [UUID(int=number) for number in range(1, 1_000)],
    "bytea": [number.to_bytes(16, "big") for number in range(1, 1_000)],
    "timestamptz": [datetime.now(UTC)] * 1_000,
    "interval": [timedelta(minutes=5)] * 1_000,
    "date": [date(2026, 11, 24)] * 1_000,
    "float8": [3.0] * 1_000,
    "bool": [True] * 1_000,
    "regclass": ["event_store.event"] * 1_000,
    "json": [json.dumps([{"account_id": f"account-{number}"} for number in range(1, 11)])],
    "jsonb": ["{}"] * 1_000,
}


def argument(kind: str, size: int) -> Any:
    """Return a value of a database type; for an array type, ``size`` of them."""
    samples = SAMPLES[kind.removesuffix("[]")]
    return samples[:size] if kind.endswith("[]") else samples[0]


def faults(statement: Statement, plan: Plan) -> list[str]:
    """Return what is wrong with a plan, naming tables and indexes."""
    wrong = []
    if statement.name not in WALKS:
        wrong += [f"{statement.name} reads all of {table}" for table in plan.scanned & BIG]
    missing = INDEXES.get(statement.name, set()) - plan.indexes
    return wrong + [f"{statement.name} does not use {index}" for index in missing]


async def all_faults(database: Database, role: str) -> list[str]:
    """Return the faults of all statements of ``role`` under the planner's default settings."""
    found: list[str] = []
    url = database.dsn(role)
    async with connected(url) as connection:
        await connection.execute(AS_IT_COMES)
        for statement in STATEMENTS:
            if statement.role == role:
                if statement.name not in PLANNED_WITH_ARGUMENTS:
                    found += faults(statement, generic_plan(url, statement, AS_IT_COMES))
                for size in SIZES:
                    found += faults(statement, await plan_for(connection, statement, size))
    return sorted(set(found))


def test_every_statement_is_listed_with_its_index() -> None:
    """A new statement is added to INDEXES or to WALKS; one that is gone is removed."""
    assert len(STATEMENTS) > 60
    said = INDEXES.keys() | WALKS.keys()
    assert said ^ {each.name for each in STATEMENTS} == set()
    assert not INDEXES.keys() & WALKS.keys()


def test_no_client_request_reads_a_whole_table() -> None:
    operators = ("operate.", "project.rebuild.", "project.next_tables.", "query.system_status.")
    assert all(name.startswith(operators) for name in WALKS)


# The planner as it comes: an index is used because it is cheaper, not for want of another way.
AS_IT_COMES = "SET enable_seqscan = on; SET random_page_cost = 4; SET plan_cache_mode = auto;"


@pytest.mark.parametrize("role", sorted({each.role for each in STATEMENTS}))
async def test_statements_use_their_indexes(filled: Database, role: str) -> None:
    assert await all_faults(filled, role) == []


FUNCTIONS = ("saldo_record", "saldo_project", "saldo_query")


@pytest.mark.parametrize("role", FUNCTIONS)
async def test_functions_use_their_indexes_with_their_roles_settings(
    filled: Database, role: str
) -> None:
    url = filled.dsn(role)
    async with connected(url) as connection:
        assert await connection.fetchval("SHOW plan_cache_mode") == "force_generic_plan"
        assert await connection.fetchval("SHOW jit") == "off"
    of_role = [each for each in STATEMENTS if each.role == role]
    assert [fault for each in of_role for fault in faults(each, generic_plan(url, each))] == []


@pytest.mark.parametrize("role", FUNCTIONS)
def test_plans_made_on_empty_tables_read_no_whole_table(database: Database, role: str) -> None:
    """They are kept while the tables fill, until the first ANALYZE."""
    url = database.dsn(role)
    plans = {each.name: generic_plan(url, each) for each in STATEMENTS if each.role == role}
    assert plans
    scanning = {name: plan.scanned & BIG for name, plan in plans.items() if name not in WALKS}
    assert {name: tables for name, tables in scanning.items() if tables} == {}


OWN_INDEXES = """
SELECT c.relname AS index, i.indrelid::regclass::text AS table, k.conname AS constraint
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint AS k ON k.conindid = i.indexrelid
WHERE c.relnamespace::regnamespace::text IN ('event_store', 'read_model')
"""


async def test_every_index_is_needed_by_a_statement(filled: Database) -> None:
    """Each index is dropped in turn (and comes back): some statement must notice."""
    async with connected(filled.dsn()) as connection:
        rows = await connection.fetch(OWN_INDEXES)
        assert len(rows) > 12
        for row in rows:
            index = row["index"]
            users = [each for each in STATEMENTS if index in INDEXES.get(each.name, ())]
            assert users, f"no statement uses {index}"
            undo = connection.transaction()
            await undo.start()
            try:
                if row["constraint"] is None:
                    await connection.execute(f"DROP INDEX {row['table'].split('.')[0]}.{index}")
                else:
                    await connection.execute(
                        f"ALTER TABLE {row['table']} DROP CONSTRAINT {row['constraint']}"
                    )
                found = []
                for statement in users:
                    try:
                        found += faults(statement, await plan_for(connection, statement, 1))
                    except asyncpg.InvalidColumnReferenceError:
                        # ON CONFLICT without a unique index: it cannot even be planned.
                        found.append(statement.name)
                        break
            finally:
                await undo.rollback()
            assert found, f"nobody misses {index}"


# What keeps a page's free room for its rows' next versions, and the outbox short.
OPTIONS = {
    "event_store.stream": {"fillfactor": "50"},
    "event_store.outbox": {
        "autovacuum_vacuum_scale_factor": "0",
        "autovacuum_vacuum_threshold": "2000",
        "autovacuum_vacuum_cost_delay": "0",
    },
    "read_model.balance": {"fillfactor": "50"},
    "read_model.daily_total": {"fillfactor": "70"},
}


async def test_tables_that_change_at_every_event_are_tuned(filled: Database) -> None:
    async with connected(filled.dsn()) as connection:
        for table, wanted in OPTIONS.items():
            found = await connection.fetchval(
                "SELECT reloptions FROM pg_class WHERE oid = $1::regclass", table
            )
            assert wanted.items() <= dict(option.split("=") for option in found).items(), table


@pytest.mark.parametrize("table", ["event_store.stream", "read_model.balance"])
async def test_update_of_every_row_touches_no_index(filled: Database, table: str) -> None:
    """A row's next version finds room on its page (HOT), so that no index grows by it."""
    async with connected(filled.dsn()) as connection:
        await connection.execute(
            f"UPDATE {table} SET position = position + 1, balance_minor = balance_minor + 1"
        )
        await connection.execute("SELECT pg_stat_force_next_flush()")
        row = await connection.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = $1::regclass",
            table,
        )
        assert row is not None
        assert row["n_tup_upd"] >= 8_000
        assert row["n_tup_hot_upd"] == row["n_tup_upd"]
