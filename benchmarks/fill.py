"""The filling of both sides with many accounts and events, as if recorded long ago.

Every hash is valid and the read model is at the end of each stream: recording and
projecting continue from there, and `saldo verify` finds nothing. It is done by SQL, on as many
connections as there are cores: through the product it would take hours. The indexes of the two
large tables are recreated afterwards, which takes half of the time. What a fill leaves to do
(statistics, visibility, dirty pages) is done before it ends, so that the load that is measured next
does not pay for it. No other session may use the database meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import uvloop

from benchmarks.wrk import NoFigure
from local import postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    # The first and the last account of each statement; a free worker takes the next one.
    Chunks = Iterator[tuple[int, int]]

EVENTS_AN_ACCOUNT = 10
# A statement holds all rows of its accounts in its own memory.
ACCOUNTS_A_STATEMENT = 2_000
CONNECTIONS_MAX = 4
STATEMENT_TIMEOUT_S = 300.0
# An index of the largest table, or a vacuum of it.
UPKEEP_TIMEOUT_S = 1_800.0
PROGRESS_EVENTS = 1_000_000
MB = 1_000_000
# Tables and indexes take about 1,400 bytes an event. WAL comes on top while it is filled.
BYTES_AN_EVENT = 2_000
WAL_MAX_MB = 4_096
# What the load, Kafka's log and everybody else on the disk may still take afterwards.
FREE_AFTER_BYTES = 5_000_000_000

# Full pages go into the WAL once a checkpoint, so there are few. Rows are vacuumed at the end.
WHILE_FILLING = {"autovacuum": "off", "max_wal_size": f"{WAL_MAX_MB}MB"}
SESSION = {
    "work_mem": "128MB",
    "maintenance_work_mem": "512MB",
    # Each connection keeps one core busy already.
    "max_parallel_maintenance_workers": "0",
}

# Older than anything that the lag sweep looks at. Ids are of version 7 and the stamps of appending
# differ, as those of recorded events do, so that their indexes have the same size.
ROWS = f"""
WITH RECURSIVE chain AS (
    SELECT n, 'bench-' || n AS account_id, 0::bigint AS position, NULL::uuid AS event_id,
           NULL::text AS public_text, NULL::text AS private_text,
           NULL::bytea AS key_hash, NULL::bytea AS fingerprint,
           sha256(convert_to('bench-' || n, 'UTF8')) AS hash
    FROM generate_series($1::int, $2::int) AS n
    UNION ALL
    SELECT c.n, c.account_id, e.position, e.event_id, t.public_text, p.private_text,
           p.key_hash, p.fingerprint, sha256(c.hash || convert_to(t.public_text, 'UTF8'))
    FROM chain AS c
    CROSS JOIN LATERAL (
        SELECT c.position + 1 AS position, uuidv7(interval '-90 days') AS event_id,
               substr(c.hash, 1, 16) AS salt
    ) AS e
    CROSS JOIN LATERAL (
        SELECT substr(c.hash, 1, 16) AS key_hash, substr(c.hash, 17) AS fingerprint,
               '{{"description":"Coffee beans","metadata":{{}},'
               '"issuer":"http://127.0.0.1/issuer","subject":"benchmark",'
               '"idempotencyKey":"0123456789abcdef","salt":"'
               || encode(e.salt, 'hex') || '"}}' AS private_text
    ) AS p
    CROSS JOIN LATERAL (SELECT format(
        '{{"schema":2,"account":"%s","position":%s,"id":"%s","type":"transaction-recorded",'
        '"kind":"INCOME","amountMinor":1050,"currency":"BRL",'
        '"occurredAt":"2026-01-01T00:00:00.000000Z","recordedAt":"2026-01-01T00:00:00.000000Z",'
        '"reverses":null,"privateHash":"%s","requestHash":"%s"}}',
        c.account_id, e.position, e.event_id,
        encode(sha256(e.salt || convert_to(p.private_text, 'UTF8')), 'hex'),
        encode(sha256(p.key_hash || '\\x00000000'::bytea || p.fingerprint), 'hex')
    ) AS public_text) AS t
    WHERE c.position < {EVENTS_AN_ACCOUNT}
), filled AS MATERIALIZED (
    SELECT * FROM chain WHERE position > 0
), heads AS MATERIALIZED (
    SELECT * FROM filled WHERE position = {EVENTS_AN_ACCOUNT}
), events AS (
    INSERT INTO event_store.event (account_id, position, event_id, public_text, private_text,
        hash, balance_minor, key_hash, key_line, fingerprint, appended_at)
    SELECT account_id, position, event_id, public_text, private_text,
           hash, 1050 * position, key_hash, 0, fingerprint,
           timestamptz '2026-01-01Z'
               + (n * {EVENTS_AN_ACCOUNT}::bigint + position) * interval '1 microsecond'
    FROM filled
), streams AS (
    INSERT INTO event_store.stream
        (account_id, currency, position, balance_minor, hash, recorded_at)
    SELECT account_id, 'BRL', position, 1050 * position, hash, timestamptz '2026-01-01Z'
    FROM heads
), balances AS (
    INSERT INTO read_model.balance
        (account_id, currency, balance_minor, position, hash, recorded_at)
    SELECT account_id, 'BRL', 1050 * position, position, hash, timestamptz '2026-01-01Z'
    FROM heads
), lines AS (
    INSERT INTO read_model.statement (account_id, position, event_id, kind, amount_minor,
        currency, balance_minor, description, metadata, occurred_at, recorded_at, hash)
    SELECT account_id, position, event_id, 'INCOME', 1050, 'BRL', 1050 * position,
           'Coffee beans', NULL, timestamptz '2026-01-01Z', timestamptz '2026-01-01Z', hash
    FROM filled
)
INSERT INTO read_model.daily_total
SELECT account_id, date '2026-01-01', 1050 * position, 0, position FROM heads
"""  # noqa: S608 - constants
LARGE = ("event_store.event", "read_model.statement")
SMALL = ("event_store.stream", "read_model.balance", "read_model.daily_total")
# What makes an index again, its constraint included if it has one, and what drops it.
INDEXES = """
SELECT CASE WHEN c.oid IS NULL THEN pg_get_indexdef(i.indexrelid)
            ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', i.indrelid::regclass, c.conname,
                        pg_get_constraintdef(c.oid)) END AS make,
       CASE WHEN c.oid IS NULL THEN format('DROP INDEX %s', i.indexrelid::regclass)
            ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', i.indrelid::regclass, c.conname)
       END AS drop
FROM pg_index AS i LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.contype <> 'f'
WHERE i.indrelid = $1::text::regclass ORDER BY i.indexrelid
"""


def check_room(folder: Path, events: int) -> None:
    """Raise NoFigure if the disk of ``folder`` has no room for so many events."""
    free_bytes = shutil.disk_usage(folder).free
    needed_bytes = events * BYTES_AN_EVENT + WAL_MAX_MB * MB + FREE_AFTER_BYTES
    if free_bytes < needed_bytes:
        raise NoFigure(
            f"{events:,} stored events need {needed_bytes / 1e9:.0f} GB of disk, and"
            f" {free_bytes / 1e9:.0f} GB are free at {folder}: free some, or take fewer"
            " (EVENTS_MAX=)"
        )


@contextlib.contextmanager
def settings_for_filling(dsn: str) -> Iterator[None]:
    """Set the server's settings for a fill, and those for the measurement afterwards."""
    change = [f"ALTER SYSTEM SET {name} = '{value}';" for name, value in WHILE_FILLING.items()]
    back = [f"ALTER SYSTEM RESET {name};" for name in WHILE_FILLING]
    postgres.run_sql(dsn, "\n".join([*change, "SELECT pg_reload_conf();"]))
    try:
        yield
    finally:
        # The checkpoint is a short one, after the fill's own: it lets go of the WAL's extra files.
        postgres.run_sql(dsn, "\n".join([*back, "SELECT pg_reload_conf();", "CHECKPOINT;"]))


def fill(dsn: str, first: int, last: int, progress: Callable[[str], None]) -> None:
    """Make the accounts bench-``first`` to bench-``last``, with EVENTS_AN_ACCOUNT events each.

    NoFigure when the server refuses it: it may have ended, or its disk may be full.
    """
    try:
        uvloop.run(_fill(dsn, first, last, progress))
    except* (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as errors:
        said = "; ".join(" ".join(str(error).split()) for error in errors.exceptions)
        raise NoFigure(f"the fill ended early: {said}") from errors


async def _fill(dsn: str, first: int, last: int, progress: Callable[[str], None]) -> None:
    workers = min(os.cpu_count() or 1, CONNECTIONS_MAX)
    async with asyncpg.create_pool(
        dsn, min_size=workers, max_size=workers, server_settings=SESSION
    ) as pool:
        filling = Filling(pool=pool, began=time.monotonic(), progress=progress)
        again = {table: await pool.fetch(INDEXES, table) for table in LARGE}
        for indexes in again.values():
            for index in indexes:
                await pool.execute(index["drop"])
        taken = chunks(first, last)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(filling.rows(taken))
        filled_s = time.monotonic() - filling.began
        async with asyncio.TaskGroup() as group:
            for table in (*LARGE, *SMALL):
                made = [index["make"] for index in again.get(table, [])]
                group.create_task(filling.upkeep(table, made))
        await pool.execute("CHECKPOINT", timeout=UPKEEP_TIMEOUT_S)
    took_s = time.monotonic() - filling.began
    progress(
        f"filled {last - first + 1:,} accounts: rows {filled_s:.0f} s,"
        f" indexes, vacuum and sync {took_s - filled_s:.0f} s"
    )


def chunks(first: int, last: int) -> Chunks:
    """Return the accounts of each statement."""
    for start in range(first, last + 1, ACCOUNTS_A_STATEMENT):
        yield start, min(start + ACCOUNTS_A_STATEMENT - 1, last)


@dataclass(slots=True, kw_only=True)
class Filling:
    """A fill under way, on several connections."""

    pool: asyncpg.Pool[asyncpg.Record]
    began: float
    progress: Callable[[str], None]
    events: int = 0

    async def rows(self, taken: Chunks) -> None:
        """Fill chunk after chunk until none is left."""
        for start, end in taken:
            await self.pool.execute(ROWS, start, end, timeout=STATEMENT_TIMEOUT_S)
            before = self.events
            self.events += (end - start + 1) * EVENTS_AN_ACCOUNT
            if before // PROGRESS_EVENTS != self.events // PROGRESS_EVENTS:
                took_s = time.monotonic() - self.began
                self.progress(f"filled {self.events:,} events in {took_s:.0f} s")

    async def upkeep(self, table: str, indexes: list[str]) -> None:
        """Make the indexes of a table, and leave nothing to a later vacuum."""
        for make in indexes:
            await self.pool.execute(make, timeout=UPKEEP_TIMEOUT_S)
        await self.pool.execute(f"VACUUM (ANALYZE, PARALLEL 0) {table}", timeout=UPKEEP_TIMEOUT_S)
