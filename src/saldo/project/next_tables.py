"""The tables of a rebuild: made like those in use in `read_model_next`, compared, and moved over.

A rebuild gives them the names of the old ones, so their indexes and constraints have the right
names from the start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from asyncpg.pool import PoolConnectionProxy

from saldo.domain.events import SCHEMA_NEWEST
from saldo.project.postgres import PostgresDatabases, PostgresReadModelTransaction

if TYPE_CHECKING:
    import asyncpg

    from saldo.project.fold import Folded

Connection = PoolConnectionProxy

NEXT = "read_model_next"
TABLES = ("balance", "statement", "daily_total")
DIFFERENCES_MAX = 1_000
MADE_BY = f"saldo rebuild, schema {SCHEMA_NEWEST}"

FIND_NEXT = """
SELECT c.relname, obj_description(c.oid, 'pg_class') AS made_by FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'read_model_next' AND c.relkind = 'r'
"""
# Each of these returns the statements that give to $2 what $1 has.
OPTIONS = """
SELECT format('ALTER TABLE %s SET (%s)', $2::regclass, array_to_string(reloptions, ', '))
FROM pg_class WHERE oid = $1::regclass AND reloptions IS NOT NULL
"""
INDEXES = """
SELECT CASE WHEN c.oid IS NULL
    THEN replace(pg_get_indexdef(i.indexrelid), format(' ON %s ', $1::regclass),
                 format(' ON %s ', $2::regclass))
    ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2::regclass, c.conname,
                pg_get_constraintdef(c.oid)) END
FROM pg_index AS i
LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')
WHERE i.indrelid = $1::regclass
"""
GRANTS = """
SELECT format('GRANT %s ON %s TO %s', g.privilege_type, $2::regclass, g.grantee::regrole)
FROM pg_class AS c, aclexplode(c.relacl) AS g
WHERE c.oid = $1::regclass AND g.grantee <> c.relowner AND g.grantee <> 0
"""
# Views depend on tables by identity, not by name: they are made again on the new ones.
VIEWS = """
SELECT DISTINCT v.oid::regclass::text AS name,
       format('CREATE VIEW %s AS %s', v.oid::regclass, pg_get_viewdef(v.oid)) AS creation
FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid JOIN pg_class AS v ON v.oid = r.ev_class
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = ANY ($1::text[]::regclass[]) AND v.relkind = 'v'
"""
# The old model may lag behind the new one, so each row is compared at the lower position. What was
# erased in between is null in one of them: not a difference.
DIFFERENCES = """
WITH both_at AS (
    SELECT account_id, o.position AS old_position, n.position AS new_position,
           least(coalesce(o.position, 0), coalesce(n.position, 0)) AS position
    FROM read_model.balance AS o FULL JOIN read_model_next.balance AS n USING (account_id)
)
SELECT account_id, min(position) AS position, "table" FROM (
SELECT account_id, coalesce(o.position, n.position, 0) AS position, 'balance' AS "table"
FROM read_model.balance AS o FULL JOIN read_model_next.balance AS n USING (account_id)
WHERE (n.account_id IS NULL AND o.position > 0)
   OR (o.position = n.position AND
       (o.currency, o.balance_minor, o.hash, o.recorded_at)
       IS DISTINCT FROM (n.currency, n.balance_minor, n.hash, n.recorded_at))
UNION ALL
SELECT account_id, position, 'statement'
FROM (SELECT s.*, b.position = b.old_position AND b.position = b.new_position AS level
      FROM read_model.statement AS s JOIN both_at AS b USING (account_id)
      WHERE s.position <= b.position) AS o
FULL JOIN (SELECT s.* FROM read_model_next.statement AS s JOIN both_at AS b USING (account_id)
           WHERE s.position <= b.position) AS n USING (account_id, position)
WHERE (o.event_id, o.kind, o.amount_minor, o.currency, o.balance_minor, o.occurred_at,
       o.recorded_at, o.reverses, o.hash)
      IS DISTINCT FROM (n.event_id, n.kind, n.amount_minor, n.currency, n.balance_minor,
       n.occurred_at, n.recorded_at, n.reverses, n.hash)
   OR (o.level AND o.reversed_by IS DISTINCT FROM n.reversed_by)
   OR (o.description <> n.description) OR (o.metadata <> n.metadata)
UNION ALL
SELECT account_id, NULL, 'daily_total'
FROM (SELECT t.* FROM read_model.daily_total AS t JOIN both_at AS b USING (account_id)
      WHERE b.old_position = b.new_position) AS o
FULL JOIN (SELECT t.* FROM read_model_next.daily_total AS t JOIN both_at AS b USING (account_id)
           WHERE b.old_position = b.new_position) AS n USING (account_id, day)
WHERE (o.income_minor, o.expense_minor, o.transactions)
      IS DISTINCT FROM (n.income_minor, n.expense_minor, n.transactions)
) AS different GROUP BY account_id, "table" ORDER BY account_id, "table" LIMIT $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first place of an account in a table where old and new read model differ."""

    account_id: str
    position: int | None
    table: str


class _NextTransaction(PostgresReadModelTransaction):
    """The projector's own statements, on the new tables."""

    async def write(self, folded: Folded) -> None:
        # Dead letters are no part of the rebuild: the projector has parked them.
        await super().write(replace(folded, dead=[]))

    async def run(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        return await super().run(statement.replace("read_model.", f"{NEXT}."), *arguments)


class NextDatabases(PostgresDatabases):
    """The databases, with the new tables for the catch-up to write."""

    transaction = _NextTransaction


async def make_tables(connection: Connection) -> bool:
    """Make the new tables, unless an interrupted rebuild left them; return whether it did."""
    found = await connection.fetch(FIND_NEXT)
    if len(found) == len(TABLES) and all(row["made_by"] == MADE_BY for row in found):
        return True
    async with connection.transaction():
        await drop_tables(connection)
        for table in TABLES:
            old, new = f"read_model.{table}", f"{NEXT}.{table}"
            await connection.execute(
                f"CREATE TABLE {new} "
                f"(LIKE {old} INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS)"
            )
            for statements in (OPTIONS, INDEXES, GRANTS):
                for row in await connection.fetch(statements, old, new):
                    await connection.execute(row[0])
            await connection.execute(f"COMMENT ON TABLE {new} IS '{MADE_BY}'")
    return False


async def drop_tables(connection: Connection) -> bool:
    """Drop what a rebuild has left; return whether there was anything."""
    found = await connection.fetch(FIND_NEXT)
    for table in TABLES:
        await connection.execute(f"DROP TABLE IF EXISTS {NEXT}.{table}")
    return bool(found)


async def compare_tables(connection: Connection) -> list[Difference]:
    """Return where old and new differ, read in one snapshot."""
    return [Difference(**row) for row in await connection.fetch(DIFFERENCES, DIFFERENCES_MAX)]


async def move_tables(connection: Connection) -> None:
    """Put the new tables in the place of the old, in the caller's database transaction."""
    old = [f"read_model.{table}" for table in TABLES]
    # pg_get_viewdef leaves out the schemas that are on the path.
    await connection.execute("SET LOCAL search_path = ''")
    await connection.execute(f"LOCK TABLE {', '.join(old)} IN ACCESS EXCLUSIVE MODE")
    again: list[str] = []
    for name, creation in await connection.fetch(VIEWS, old):
        again += [creation, *(row[0] for row in await connection.fetch(GRANTS, name, name))]
        await connection.execute(f"DROP VIEW {name}")
    for table in TABLES:
        await connection.execute(f"DROP TABLE read_model.{table}")
        await connection.execute(f"ALTER TABLE {NEXT}.{table} SET SCHEMA read_model")
        await connection.execute(f"COMMENT ON TABLE read_model.{table} IS NULL")
    for statement in again:
        await connection.execute(statement)
