"""How the whole system stands, for an operator: throughput, outbox, lag, dead letters.

A process queries the databases once for all callers. It keeps the result for REMEMBERED_S, and for
at least REMEMBERED_TIMES as long as the query took, so that it costs a bounded share of them.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from saldo.domain.events import format_time
from saldo.query.balances import with_bounded_times
from saldo.query.errors import UNAVAILABLE
from saldo.query.responses import SystemStatus
from saldo.serve.database import translating

if TYPE_CHECKING:
    import asyncpg

REMEMBERED_S = 0.9
REMEMBERED_TIMES = 10

READ_STORE = with_bounded_times("""
SELECT clock_timestamp() AS measured_at, events_last_10_s, events_last_60_s,
       bounded(last_appended_at) AS last_recorded_at, outbox_rows,
       coalesce(outbox_age_s, 0) AS outbox_age_seconds, outbox_swept_at
FROM event_store.system
""")
READ_MODEL = with_bounded_times("""
SELECT coalesce(lag_s, 0) AS lag_seconds, lag_swept_at, dead_letters,
       bounded(dead_letter_oldest_at) AS dead_letter_oldest_at, blocked_accounts,
       bounded(blocked_oldest_at) AS blocked_oldest_at
FROM read_model.system
""")
# Positions have no gaps, so their sum is the number of events. One wrong position must not make it
# larger than a bigint.
READ_RECORDED = """
SELECT count(*) AS accounts,
       least(coalesce(sum(position), 0), 9223372036854775807)::bigint AS events
FROM event_store.stream WHERE position > 0
"""
READ_PROJECTED = """
SELECT least(coalesce(sum(position), 0), 9223372036854775807)::bigint AS events
FROM read_model.balance
"""


class System:
    """Reads both sides' figures, each from its own server."""

    def __init__(
        self, read_model: asyncpg.Pool[asyncpg.Record], streams: asyncpg.Pool[asyncpg.Record]
    ) -> None:
        self._read_model = read_model
        self._streams = streams
        self._reading = asyncio.Lock()
        self._text = b""
        self._good_until = 0.0

    async def json(self) -> bytes:
        """Return the figures; raises ReadModelUnavailable."""
        async with self._reading:
            began = time.monotonic()
            if began >= self._good_until:
                with translating(UNAVAILABLE):
                    self._text = msgspec.json.encode(await self._read())
                now = time.monotonic()
                self._good_until = now + max(REMEMBERED_S, REMEMBERED_TIMES * (now - began))
            return self._text

    async def _read(self) -> SystemStatus:
        [store] = await self._streams.fetch(READ_STORE)
        # What was recorded is counted before what is projected: an event that is projected in
        # between makes nothing look as if it lagged.
        recorded = await _whole(self._streams, READ_RECORDED)
        projected = await _whole(self._read_model, READ_PROJECTED)
        [model] = await self._read_model.fetch(READ_MODEL)
        return SystemStatus(
            accounts=recorded["accounts"],
            events=recorded["events"],
            behind=max(0, recorded["events"] - projected["events"]),
            **{name: _shown(value) for row in (store, model) for name, value in row.items()},
        )


async def _whole(pool: asyncpg.Pool[asyncpg.Record], statement: str) -> asyncpg.Record:
    """Return the row of a statement that reads a whole table, which the role's settings avoid."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = on")
        [row] = await connection.fetch(statement)
    return row


def _shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    # Of seconds. Two clocks may differ by a little: nothing is younger than nothing.
    return max(0.0, round(value, 1)) if isinstance(value, float) else value
