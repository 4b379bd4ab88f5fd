"""Privileges: each function's role may do what the function does, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.support.sides import connected

if TYPE_CHECKING:
    from tests.support.servers import Database

TRACE_ERASURE = """
INSERT INTO event_store.erasure (account_id, position) VALUES ('a', 1)
ON CONFLICT (account_id, position) DO NOTHING
"""
ALLOWED = [
    ("saldo_record", "INSERT INTO event_store.stream (account_id) VALUES ('a')"),
    ("saldo_record", "SELECT FROM event_store.event"),
    ("saldo_record", "DELETE FROM event_store.outbox"),
    ("saldo_record", "UPDATE event_store.event SET private_text = NULL, erased_at = now()"),
    ("saldo_record", TRACE_ERASURE),
    ("saldo_project", "SELECT FROM event_store.event"),
    ("saldo_project", "DELETE FROM read_model.statement"),
    ("saldo_project", "UPDATE read_model.balance SET position = 1"),
    ("saldo_query", "SELECT FROM read_model.balance"),
    ("saldo_query", "SELECT FROM read_model.statement"),
    ("saldo_query", "SELECT account_id, position, hash FROM event_store.stream"),
    ("saldo_query", "SELECT account_id, position, hash FROM event_store.event"),
    ("saldo_query", "SELECT * FROM event_store.system"),
    ("saldo_query", "SELECT * FROM read_model.system"),
    ("saldo_project", "SELECT * FROM read_model.system"),
]
FORBIDDEN = [
    *(
        ("saldo_record", f"{verb} read_model.{table}")
        for verb in ("SELECT FROM", "DELETE FROM")
        for table in ("balance", "statement", "daily_total", "dead_letter", "sweep")
    ),
    ("saldo_record", "UPDATE event_store.event SET public_text = ''"),
    ("saldo_record", "UPDATE event_store.event SET hash = ''"),
    ("saldo_record", "DELETE FROM event_store.event"),
    ("saldo_record", "INSERT INTO event_store.erasure VALUES ('a', 1, now())"),
    ("saldo_record", "UPDATE event_store.erasure SET erased_at = now()"),
    ("saldo_record", "DELETE FROM event_store.erasure"),
    ("saldo_project", "SELECT FROM event_store.erasure"),
    ("saldo_query", "SELECT FROM event_store.erasure"),
    ("saldo_record", "TRUNCATE event_store.event"),
    ("saldo_record", "DELETE FROM event_store.stream"),
    ("saldo_record", "SELECT * FROM read_model.system"),
    ("saldo_project", "SELECT FROM event_store.outbox"),
    ("saldo_project", "SELECT * FROM event_store.system"),
    ("saldo_query", "SELECT swept_at FROM event_store.sweep"),
    ("saldo_project", "UPDATE event_store.stream SET position = 1"),
    ("saldo_project", "DELETE FROM event_store.event"),
    ("saldo_project", "UPDATE event_store.event SET private_text = NULL"),
    ("saldo_project", "DELETE FROM read_model.dead_letter"),
    ("saldo_query", "SELECT public_text FROM event_store.event"),
    ("saldo_query", "SELECT private_text FROM event_store.event"),
    ("saldo_query", "SELECT balance_minor FROM event_store.event"),
    ("saldo_query", "SELECT FROM event_store.outbox"),
    ("saldo_query", "SELECT balance_minor FROM event_store.stream"),
    ("saldo_query", "UPDATE read_model.balance SET position = 1"),
    ("saldo_query", "DELETE FROM read_model.statement"),
    *(
        (role, statement)
        for role in ("saldo_record", "saldo_project", "saldo_query")
        for statement in ("CREATE TABLE public.t ()", "CREATE TABLE event_store.t ()")
    ),
    ("saldo_query", "SELECT FROM public.saldo_migration"),
]


ROLES = pytest.mark.parametrize("role", ["saldo_record", "saldo_project", "saldo_query"])


async def refused(database: Database, role: str, statements: list[tuple[str, str]]) -> list[str]:
    """Return the statements for which the role lacks the privilege."""
    found: list[str] = []
    async with connected(database.dsn(role)) as connection:
        # Read-only by default is a convenience: the privileges must hold without it.
        await connection.execute("SET default_transaction_read_only = off")
        for statement in (statement for whose, statement in statements if whose == role):
            undone = connection.transaction()
            await undone.start()
            try:
                await connection.execute(statement)
            except asyncpg.InsufficientPrivilegeError:
                found.append(statement)
            await undone.rollback()
    return found


@ROLES
async def test_a_role_may_do_what_its_function_does(role: str, database: Database) -> None:
    assert await refused(database, role, ALLOWED) == []


@ROLES
async def test_a_role_may_do_nothing_more_than_its_function(role: str, database: Database) -> None:
    forbidden = [statement for whose, statement in FORBIDDEN if whose == role]
    assert await refused(database, role, FORBIDDEN) == forbidden != []


async def test_the_query_role_is_read_only_by_default(database: Database) -> None:
    async with connected(database.dsn("saldo_query")) as connection:
        assert await connection.fetchval("SHOW default_transaction_read_only") == "on"


@ROLES
async def test_every_role_has_timeouts(role: str, database: Database) -> None:
    """The recorder's stays below the 30 s by which the lag sweep looks back."""
    async with connected(database.dsn(role)) as connection:
        for name in ("lock_timeout", "statement_timeout", "transaction_timeout"):
            assert await connection.fetchval(f"SHOW {name}") not in {"0", ""}
        total = await connection.fetchval(
            "SELECT setting::int FROM pg_settings WHERE name = 'transaction_timeout'"
        )
        assert total < 30_000
