"""Fills both sides with so many accounts and events, as if they had been recorded long ago.

The events are chained by their hashes, and the read model stands at the end of each stream:
recording and projecting go on from there. It is done by SQL, a few hundred thousand events a
statement: through the product it would take hours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stack import Stack

EVENTS_AN_ACCOUNT = 10
ACCOUNTS_A_STATEMENT = 20_000
STATEMENT_TIMEOUT_S = 300.0
VACUUM_TIMEOUT_S = 1_800.0

# Older than anything that the lag sweep looks at.
CHAIN = f"""
CREATE TEMP TABLE filled ON COMMIT DROP AS
WITH RECURSIVE chain AS (
    SELECT 'bench-' || n AS account_id, 0::bigint AS position, NULL::uuid AS event_id,
           NULL::text AS public_text, sha256(convert_to('bench-' || n, 'UTF8')) AS hash
    FROM generate_series($1::int, $2::int) AS n
    UNION ALL
    SELECT c.account_id, e.position, e.event_id, t.public_text,
           sha256(c.hash || convert_to(t.public_text, 'UTF8'))
    FROM chain AS c
    CROSS JOIN LATERAL (
        SELECT c.position + 1 AS position, md5(c.account_id || c.position)::uuid AS event_id
    ) AS e
    CROSS JOIN LATERAL (SELECT format(
        '{{"schema":2,"account":"%s","position":%s,"id":"%s","type":"transaction-recorded",'
        '"kind":"INCOME","amountMinor":1050,"currency":"BRL",'
        '"occurredAt":"2026-01-01T00:00:00.000000Z","recordedAt":"2026-01-01T00:00:00.000000Z",'
        '"reverses":null,"privateHash":"%s","requestHash":"%s"}}',
        c.account_id, e.position, e.event_id, encode(c.hash, 'hex'), encode(c.hash, 'hex')
    ) AS public_text) AS t
    WHERE c.position < {EVENTS_AN_ACCOUNT}
)
SELECT * FROM chain WHERE position > 0
"""  # noqa: S608 - a constant
EVENTS = """
INSERT INTO event_store.event (account_id, position, event_id, public_text, private_text, hash,
    balance_minor, key_hash, key_line, fingerprint, appended_at)
SELECT account_id, position, event_id, public_text,
       '{"description":"Coffee beans","metadata":{},"issuer":"http://127.0.0.1/issuer",'
       '"subject":"benchmark","idempotencyKey":null,"fingerprint":null,"salt":"'
       || encode(substr(hash, 1, 16), 'hex') || '"}',
       hash, 1050 * position, substr(hash, 1, 16), 0, substr(hash, 17), timestamptz '2026-01-01Z'
FROM filled ORDER BY account_id, position
"""
STREAMS = f"""
INSERT INTO event_store.stream (account_id, currency, position, balance_minor, hash, recorded_at)
SELECT account_id, 'BRL', position, 1050 * position, hash, timestamptz '2026-01-01Z'
FROM filled WHERE position = {EVENTS_AN_ACCOUNT}
"""  # noqa: S608
BALANCES = f"""
INSERT INTO read_model.balance
    (account_id, currency, balance_minor, position, hash, recorded_at)
SELECT account_id, 'BRL', 1050 * position, position, hash, timestamptz '2026-01-01Z'
FROM filled WHERE position = {EVENTS_AN_ACCOUNT}
"""  # noqa: S608
LINES = """
INSERT INTO read_model.statement (account_id, position, event_id, kind, amount_minor, currency,
    balance_minor, description, metadata, occurred_at, recorded_at, hash)
SELECT account_id, position, event_id, 'INCOME', 1050, 'BRL', 1050 * position, 'Coffee beans', '{}',
       timestamptz '2026-01-01Z', timestamptz '2026-01-01Z', hash
FROM filled ORDER BY account_id, position
"""
TOTALS = f"""
INSERT INTO read_model.daily_total
SELECT DISTINCT account_id, date '2026-01-01', 1050 * {EVENTS_AN_ACCOUNT}, 0, {EVENTS_AN_ACCOUNT}
FROM filled
"""  # noqa: S608


def fill(stack: Stack, first: int, last: int, progress: Callable[[str], None]) -> None:
    """Make the accounts bench-``first`` to bench-``last``, with EVENTS_AN_ACCOUNT events each."""
    uvloop.run(_fill(stack.server.dsn(), first, last, progress))


async def _fill(dsn: str, first: int, last: int, progress: Callable[[str], None]) -> None:
    connection = await asyncpg.connect(dsn, timeout=STATEMENT_TIMEOUT_S)
    try:
        for start in range(first, last + 1, ACCOUNTS_A_STATEMENT):
            end = min(start + ACCOUNTS_A_STATEMENT - 1, last)
            async with connection.transaction():
                await connection.execute(CHAIN, start, end, timeout=STATEMENT_TIMEOUT_S)
                for statement in (STREAMS, EVENTS, BALANCES, LINES, TOTALS):
                    await connection.execute(statement, timeout=STATEMENT_TIMEOUT_S)
            progress(f"filled {end:,} accounts, {end * EVENTS_AN_ACCOUNT:,} events")
        await connection.execute("VACUUM ANALYZE", timeout=VACUUM_TIMEOUT_S)
        await connection.execute("CHECKPOINT", timeout=VACUUM_TIMEOUT_S)
    finally:
        await connection.close()
