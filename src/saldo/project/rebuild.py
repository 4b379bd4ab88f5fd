"""Rebuilding the read model from the event store while traffic goes on.

New tables of the same names are filled in the schema ``read_model_next``, by the same catch-up as
the projector's, and compared with the old ones. The switch is one database transaction: writers are
locked out of the old tables, readers are not; the rest is caught up, every balance is checked, and
the new tables move into the place of the old. Statements that running functions have prepared are
planned anew by the server, since the columns are the same; a statement that waits for the switch
finds the new tables by their names.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from saldo.domain.events import SCHEMA_NEWEST
from saldo.project.catch_up import Surroundings, catch_up
from saldo.project.lag_sweep import OVERLAP
from saldo.project.postgres import (
    PostgresReadModel,
    PostgresReadModelTransaction,
    PostgresStreamReader,
)
from saldo.serve.clock import store_now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from saldo.project.fold import Folded

NEXT = "read_model_next"
TABLES = ("balance", "statement", "daily_total")
# One rebuild at a time; held by the connection, so it ends with the process.
REBUILD_LOCK = 0x5A1D1
PAGE_ACCOUNTS = 2_000
BATCH_ACCOUNTS = 100
BATCHES_AT_ONCE = 2
ROUNDS_MAX = 100_000
PASSES_MAX = 50
# What is left to catch up while writers wait; more is done in a further pass first.
REST_ACCOUNTS_MAX = 200
SWITCHES_MAX = 60
SWITCH_LOCK_TIMEOUT_MS = 200
SWITCH_PAUSE_S = 0.25
DIFFERENCES_MAX = 1_000
EVENTS_A_PAGE = 20_000

MADE_BY = f"saldo rebuild, schema {SCHEMA_NEWEST}"
FIND_NEXT = """
SELECT c.relname, obj_description(c.oid, 'pg_class') AS made_by FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'read_model_next' AND c.relkind = 'r'
"""
OPTIONS = "SELECT coalesce(reloptions, '{}') FROM pg_class WHERE oid = $1::regclass"
INDEXES = """
SELECT pg_get_indexdef(i.indexrelid) AS definition, c.conname, pg_get_constraintdef(c.oid) AS said
FROM pg_index AS i
LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')
WHERE i.indrelid = $1::regclass ORDER BY i.indisprimary DESC, i.indexrelid
"""
GRANTS = """
SELECT g.grantee::regrole::text AS grantee, g.privilege_type
FROM pg_class AS c, aclexplode(c.relacl) AS g
WHERE c.oid = $1::regclass AND g.grantee <> c.relowner AND g.grantee <> 0
"""
# Views stand on tables by identity, not by name: they are made anew on the new ones.
VIEWS = """
SELECT DISTINCT v.oid::regclass::text AS name, pg_get_viewdef(v.oid) AS definition,
       v.relowner::regrole::text AS owner
FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid JOIN pg_class AS v ON v.oid = r.ev_class
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = ANY ($1::text[]::regclass[]) AND v.relkind = 'v'
"""
STREAMS_PAGE = """
SELECT account_id, position, hash FROM event_store.stream
WHERE account_id > $1 AND position > 0 ORDER BY account_id LIMIT $2
"""
STREAMS_COUNT = "SELECT count(*) FROM event_store.stream WHERE position > 0"
APPENDED_SINCE = """
SELECT s.account_id, s.position, s.hash FROM event_store.stream AS s
JOIN (SELECT DISTINCT account_id FROM event_store.event WHERE appended_at >= $1) AS e
    USING (account_id)
"""
ERASED_SINCE = "SELECT account_id, position FROM event_store.event WHERE erased_at >= $1"
STANDING = """
SELECT account_id, position, hash, blocked_schema FROM read_model_next.balance
WHERE account_id = ANY ($1::text[])
"""
# What an earlier run left may be from before a restore of the event store.
NEXT_PAGE = """
SELECT account_id, position, hash, blocked_schema FROM read_model_next.balance
WHERE account_id > $1 ORDER BY account_id LIMIT $2
"""
ON_STREAM = """
SELECT account_id FROM event_store.event AS e
JOIN unnest($1::text[], $2::bigint[], $3::bytea[]) AS b (account_id, position, hash)
    USING (account_id, position)
WHERE e.hash = b.hash
"""
# The old model may lag behind the new one, so each row is compared where both have come by. What
# was erased in between is null in one of them: not a difference.
DIFFERENCES = """
WITH both_at AS (
    SELECT account_id, o.position AS old_position, n.position AS new_position,
           least(coalesce(o.position, 0), coalesce(n.position, 0)) AS position
    FROM read_model.balance AS o FULL JOIN read_model_next.balance AS n USING (account_id)
)
SELECT account_id, min(position) AS position, of FROM (
SELECT account_id, coalesce(o.position, n.position, 0) AS position, 'balance' AS of
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
) AS different GROUP BY account_id, of ORDER BY account_id, of LIMIT $1
"""
# Stops projectors and no reader. A weaker lock would let in a round that has locked balances by FOR
# UPDATE and writes later: it would wait for this database transaction, and this one for it.
LOCK_OLD = """
LOCK TABLE read_model.balance, read_model.statement, read_model.daily_total IN EXCLUSIVE MODE
"""
UNEQUAL = """
SELECT count(*) FROM read_model.balance AS o
LEFT JOIN read_model_next.balance AS n ON n.account_id = o.account_id
WHERE o.position > 0 AND o.blocked_schema IS NULL
  AND (n.position IS NULL OR n.position < o.position
       OR (n.position = o.position AND n.hash IS DISTINCT FROM o.hash))
"""
ERASE_COPIES = """
UPDATE read_model_next.statement AS s SET description = NULL, metadata = NULL
FROM unnest($1::text[], $2::bigint[]) AS e (account_id, position)
WHERE s.account_id = e.account_id AND s.position = e.position
"""
KEEP_BLOCK_TIMES = """
UPDATE read_model_next.balance AS n SET blocked_at = o.blocked_at FROM read_model.balance AS o
WHERE o.account_id = n.account_id AND n.blocked_at IS NOT NULL AND o.blocked_at IS NOT NULL
"""


class RebuildRefused(Exception):
    """The rebuild did not come to its end; the message says why. The old read model stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first place of an account in a table where old and new read model do not agree."""

    account_id: str
    position: int | None
    table: str


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild came to."""

    accounts: int = 0
    resumed: bool = False
    blocked: int = 0
    differences: list[Difference] = field(default_factory=list)
    switched: bool = False
    switch_attempts: int = 0
    switch_ms: float = 0.0


class _NextTransaction(PostgresReadModelTransaction):
    """The projector's own statements, on the new tables."""

    async def write(self, folded: Folded) -> None:
        # Dead letters are no part of the rebuild: the projector has parked them.
        await super().write(replace(folded, dead=[]))

    async def _run(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        return await super()._run(statement.replace("read_model.", f"{NEXT}."), *arguments)


class _NextReadModel(PostgresReadModel):
    async def begin(self) -> PostgresReadModelTransaction:
        return await self._begin(_NextTransaction)


class Rebuild:
    """One rebuild. ``streams`` and ``read_model`` are the operator's own pools.

    ``progress`` is told (accounts done, accounts in all).
    """

    def __init__(
        self,
        streams: asyncpg.Pool[asyncpg.Record],
        read_model: asyncpg.Pool[asyncpg.Record],
        progress: Callable[[int, int], None],
    ) -> None:
        self._streams = streams
        self._pool = read_model
        self._progress = progress
        self._around = Surroundings(
            read_model=_NextReadModel(read_model),
            streams=PostgresStreamReader(streams),
            sleep=asyncio.sleep,
        )
        self._result = Rebuilt()
        self._started: datetime | None = None
        self._pass_started: datetime | None = None

    async def run(self, *, accept_differences: bool) -> Rebuilt:
        """Fill, compare and switch; with differences, switch only if they are accepted.

        Raises RebuildRefused. Interrupted, or refused, it leaves the new tables: the next run goes
        on from them.
        """
        async with self._pool.acquire() as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", REBUILD_LOCK):
                raise RebuildRefused("another rebuild is running")
            try:
                await self._prepare(connection)
                if self._result.resumed:
                    await self._drop_diverged(connection)
                await self._fill()
                await self._pass_until_level()
                self._result.differences = await self._compare()
                if not self._result.differences or accept_differences:
                    await self._switch(connection, accept_differences=accept_differences)
            finally:
                await connection.execute("SELECT pg_advisory_unlock($1)", REBUILD_LOCK)
        return self._result

    async def discard(self) -> bool:
        """Drop what an earlier rebuild has left; whether there was any."""
        async with self._pool.acquire() as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", REBUILD_LOCK):
                raise RebuildRefused("another rebuild is running")
            try:
                found = await connection.fetch(FIND_NEXT)
                await self._drop_next(connection)
            finally:
                await connection.execute("SELECT pg_advisory_unlock($1)", REBUILD_LOCK)
        return bool(found)

    # -- the new tables ----------------------------------------------------------------------

    async def _prepare(self, connection: Connection) -> None:
        """Go on with the tables of an interrupted rebuild, or make them."""
        self._started = self._pass_started = await store_now(self._streams)
        found = await connection.fetch(FIND_NEXT)
        if len(found) == len(TABLES) and all(row["made_by"] == MADE_BY for row in found):
            self._result.resumed = True
            # What was erased meanwhile is erased in them, too: see _switch.
            self._started = None
            return
        async with connection.transaction():
            await self._drop_next(connection)
            for table in TABLES:
                await _make_like(connection, table)

    @staticmethod
    async def _drop_next(connection: Connection) -> None:
        for table in TABLES:
            await connection.execute(f"DROP TABLE IF EXISTS {NEXT}.{table}")

    async def _drop_diverged(self, connection: Connection) -> None:
        """Delete the new balances that are not on their streams, or blocked, to fill them again."""
        last = ""
        while page := await connection.fetch(NEXT_PAGE, last, PAGE_ACCOUNTS):
            last = page[-1]["account_id"]
            open_rows = [row for row in page if row["blocked_schema"] is None]
            kept = await self._streams.fetch(
                ON_STREAM,
                [row["account_id"] for row in open_rows],
                [row["position"] for row in open_rows],
                [row["hash"] for row in open_rows],
            )
            dropped = {row["account_id"] for row in page} - {row["account_id"] for row in kept}
            for table in TABLES:
                await connection.execute(
                    f"DELETE FROM {NEXT}.{table} WHERE account_id = ANY ($1::text[])",  # noqa: S608 - of the list above
                    list(dropped),
                )

    async def _fill(self) -> None:
        total = await self._streams.fetchval(STREAMS_COUNT)
        done, last = 0, ""
        self._progress(0, total)
        while True:
            page = await self._streams.fetch(STREAMS_PAGE, last, PAGE_ACCOUNTS)
            if not page:
                break
            ends = _ends(page)
            last = page[-1]["account_id"]
            await self._catch_up(ends)
            done += len(page)
            self._progress(min(done, total), total)
        self._result.accounts = done

    async def _pass_until_level(self) -> None:
        """Catch up what was appended during the last pass, until a pass finds little."""
        for _ in range(PASSES_MAX):
            now = await store_now(self._streams)
            ends = await self._appended_since_pass()
            self._pass_started = now
            if await self._catch_up(ends) <= REST_ACCOUNTS_MAX:
                return
        raise RebuildRefused("more is recorded than can be caught up: try at a quieter time")

    async def _appended_since_pass(self) -> Ends:
        """The ends of the streams to which was appended since the last pass began."""
        if self._pass_started is None:
            return {}
        rows = await self._streams.fetch(APPENDED_SINCE, self._pass_started - OVERLAP)
        return _ends(rows)

    async def _lagging(self, ends: Ends) -> list[str]:
        """The accounts whose new balance is not at ``ends``; a blocked one never will be."""
        rows = await self._pool.fetch(STANDING, list(ends))
        standing = {row["account_id"]: row for row in rows}
        return [
            account_id
            for account_id, end in ends.items()
            if (row := standing.get(account_id)) is None
            or ((row["position"], row["hash"]) != end and row["blocked_schema"] is None)
        ]

    async def _catch_up(self, ends: Ends) -> int:
        """Bring the new balances to ``ends``; how many lagged."""
        lagging = await self._lagging(ends)
        batches = [lagging[i : i + BATCH_ACCOUNTS] for i in range(0, len(lagging), BATCH_ACCOUNTS)]
        for i in range(0, len(batches), BATCHES_AT_ONCE):
            await asyncio.gather(*(self._drain(b) for b in batches[i : i + BATCHES_AT_ONCE]))
        return len(lagging)

    async def _drain(self, account_ids: Sequence[str]) -> None:
        remaining = list(account_ids)
        for _ in range(ROUNDS_MAX):
            reached = await catch_up(remaining, self._around)
            self._result.blocked += sum(each.blocked for each in reached)
            remaining = [
                account_id for account_id, each in zip(remaining, reached, strict=True) if each.more
            ]
            if not remaining:
                return

    # -- compare and switch ------------------------------------------------------------------

    async def _compare(self) -> list[Difference]:
        """Where old and new differ, read in one snapshot."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(DIFFERENCES, DIFFERENCES_MAX, timeout=None)
        return [
            Difference(account_id=r["account_id"], position=r["position"], table=r["of"])
            for r in rows
        ]

    async def _switch(self, connection: Connection, *, accept_differences: bool) -> None:
        loop = asyncio.get_running_loop()
        for attempt in range(1, SWITCHES_MAX + 1):
            self._result.switch_attempts = attempt
            await self._pass_until_level()
            began = loop.time()
            try:
                async with connection.transaction():
                    await self._switch_once(connection, accept_differences=accept_differences)
            except (
                asyncpg.LockNotAvailableError,
                asyncpg.DeadlockDetectedError,
                _TooMuchRest,
            ):
                # Everybody goes on as before; somebody who holds a lock longer than that, such as
                # a verification, will let go of it.
                await asyncio.sleep(SWITCH_PAUSE_S)
                continue
            self._result.switched = True
            self._result.switch_ms = (loop.time() - began) * 1000
            return
        raise RebuildRefused(
            f"the tables were in use at each of {SWITCHES_MAX} attempts to switch: "
            "run it again, it goes on from here"
        )

    async def _switch_once(self, connection: Connection, *, accept_differences: bool) -> None:
        await connection.execute(f"SET LOCAL lock_timeout = '{SWITCH_LOCK_TIMEOUT_MS}ms'")
        await connection.execute(LOCK_OLD)
        # What the last pass did not see. By the store, not by the old balances: after a restore
        # they may know of events that it has lost. On other connections, in database transactions
        # of their own: the new tables are ours.
        ends = await self._appended_since_pass()
        if len(await self._lagging(ends)) > REST_ACCOUNTS_MAX:
            raise _TooMuchRest
        await self._catch_up(ends)
        if not accept_differences and await connection.fetchval(UNEQUAL):
            raise RebuildRefused(
                "a balance knows of events that the store does not have: see saldo verify. "
                "--accept-differences replaces it"
            )
        # An erasure that the sweep has just done in the old statement is done in the new one; one
        # that comes later finds the new one in place.
        since = self._started
        erased = await self._streams.fetch(
            ERASED_SINCE if since is not None else ERASED_EVER, *([] if since is None else [since])
        )
        if erased:
            await connection.execute(
                ERASE_COPIES, [r["account_id"] for r in erased], [r["position"] for r in erased]
            )
        await connection.execute(KEEP_BLOCK_TIMES)
        await _replace_tables(connection)


# By account: the position and the hash at the end of its stream.
Ends: TypeAlias = dict[str, tuple[int, bytes]]


def _ends(rows: Sequence[asyncpg.Record]) -> Ends:
    return {row["account_id"]: (row["position"], row["hash"]) for row in rows}


ERASED_EVER = "SELECT account_id, position FROM event_store.event WHERE erased_at IS NOT NULL"
Connection = asyncpg.pool.PoolConnectionProxy


class _TooMuchRest(Exception):
    """More must be caught up than writers may be kept waiting for."""


async def _make_like(connection: Connection, table: str) -> None:
    """A table with the columns, checks, options, indexes and grants of the one in use."""
    old, new = f"read_model.{table}", f"{NEXT}.{table}"
    await connection.execute(
        f"CREATE TABLE {new} (LIKE {old} INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS)"
    )
    options = await connection.fetchval(OPTIONS, old)
    if options:
        await connection.execute(f"ALTER TABLE {new} SET ({', '.join(options)})")
    for row in await connection.fetch(INDEXES, old):
        if row["conname"] is not None:
            await connection.execute(
                f'ALTER TABLE {new} ADD CONSTRAINT "{row["conname"]}" {row["said"]}'
            )
        else:
            await connection.execute(row["definition"].replace(f" ON {old} ", f" ON {new} "))
    for row in await connection.fetch(GRANTS, old):
        await connection.execute(f"GRANT {row['privilege_type']} ON {new} TO {row['grantee']}")
    await connection.execute(f"COMMENT ON TABLE {new} IS '{MADE_BY}'")


async def _replace_tables(connection: Connection) -> None:
    """Put the new tables in the place of the old; waits for no reader longer than lock_timeout."""
    old = [f"read_model.{table}" for table in TABLES]
    # pg_get_viewdef leaves out the schemas that are on the path.
    await connection.execute("SET LOCAL search_path = ''")
    await connection.execute(f"LOCK TABLE {', '.join(old)} IN ACCESS EXCLUSIVE MODE")
    views = await connection.fetch(VIEWS, old)
    grants = {view["name"]: await connection.fetch(GRANTS, view["name"]) for view in views}
    for view in views:
        await connection.execute(f"DROP VIEW {view['name']}")
    for table in TABLES:
        await connection.execute(f"DROP TABLE read_model.{table}")
        await connection.execute(f"ALTER TABLE {NEXT}.{table} SET SCHEMA read_model")
        await connection.execute(f"COMMENT ON TABLE read_model.{table} IS NULL")
    for view in views:
        await connection.execute(f"CREATE VIEW {view['name']} AS {view['definition']}")
        for row in grants[view["name"]]:
            await connection.execute(
                f"GRANT {row['privilege_type']} ON {view['name']} TO {row['grantee']}"
            )
