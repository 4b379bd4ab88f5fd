"""Balances as they stand and as they stood."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import msgspec

from saldo.domain.tag import tag_of
from saldo.query.errors import UNAVAILABLE, AccountNotFound, ProjectionBehind
from saldo.serve.clock import StoreClock
from saldo.serve.database import translating

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import asyncpg


_BOUNDED_TIME = (
    r"CASE WHEN \1 IS NOT NULL"
    r" THEN greatest(least(\1, '9999-12-31T23:59:59Z'), '0001-01-01T00:00:00Z') END"
)


def with_bounded_times(statement: str) -> str:
    """Return the SQL with each `bounded(COLUMN)` written out: the nearest time that Python holds.

    Without it one wrong row would fail the read of all accounts.
    """
    return re.sub(r"\bbounded\((\w+)\)", _BOUNDED_TIME, statement)


READ_BALANCES = with_bounded_times("""
SELECT account_id, currency, balance_minor, position, hash,
       bounded(recorded_at) AS recorded_at, bounded(blocked_at) AS blocked_at
FROM read_model.balance WHERE account_id = ANY ($1::text[])
""")
READ_STREAMS = """
SELECT account_id, position, hash, clock_timestamp() AS now FROM event_store.stream
WHERE account_id = ANY ($1::text[]) AND position > 0
"""
# Of balances (account, position) that are not at the end of their streams: that end, and the hash
# that the stream has at the balance's position. Read later than the balances, so the end of a
# stream that they stand on cannot lie before them.
READ_PLACES = """
SELECT s.account_id, s.position, e.hash
FROM unnest($1::text[], $2::bigint[]) AS b (account_id, position)
JOIN event_store.stream AS s ON s.account_id = b.account_id
LEFT JOIN event_store.event AS e ON e.account_id = b.account_id AND e.position = b.position
"""
READ_STATES = with_bounded_times("""
SELECT account_id, position, hash, bounded(blocked_at) AS blocked_at FROM read_model.balance
WHERE account_id = ANY ($1::text[])
""")
_LINE = """
SELECT position, balance_minor, currency, hash, recorded_at FROM read_model.statement
WHERE account_id = $1
"""
AT_POSITION = _LINE + "AND position = $2"
# One row always, with nulls where nothing was recorded by then; of one snapshot. It is final once
# a line is recorded later than the moment: no further one can be recorded earlier than that. At the
# same moment one can. A line from the future proves nothing before the store's clock ($3) is there.
AS_OF = (
    """
SELECT line.*, EXISTS (
    SELECT FROM read_model.statement
    WHERE account_id = $1 AND recorded_at > $2 AND recorded_at <= $3
) AS is_final
FROM (VALUES (0)) AS one LEFT JOIN LATERAL ("""
    + _LINE
    + """AND recorded_at <= $2 ORDER BY recorded_at DESC, position DESC LIMIT 1
) AS line ON true
"""
)
# Whole days from the totals, the last day from its lines; one statement, so one snapshot.
EFFECTIVE_AT = """
SELECT coalesce((
    SELECT sum(income_minor - expense_minor) FROM read_model.daily_total
    WHERE account_id = $1 AND day < ($2::timestamptz AT TIME ZONE 'UTC')::date
), 0) + coalesce((
    SELECT sum(CASE kind WHEN 'INCOME' THEN amount_minor ELSE -amount_minor END)
    FROM read_model.statement
    WHERE account_id = $1 AND kind <> 'LIMIT' AND occurred_at <= $2
      AND occurred_at >= date_trunc('day', $2::timestamptz AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
), 0) AS balance_minor
"""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One account as read: its balance, with position 0 until it is projected, and its stream.

    A balance that is not on its stream counts as not projected. ``stream_position`` 0 means that
    the account does not exist. ``now`` is the event store's time as its stream was read.
    """

    account_id: str
    stream_position: int
    now: datetime | None = None
    position: int = 0
    balance_minor: int = 0
    currency: str | None = None
    hash: bytes | None = None
    recorded_at: datetime | None = None
    blocked_at: datetime | None = None

    @property
    def behind(self) -> int:
        """How many positions the stream has and the balance lacks."""
        return max(0, self.stream_position - self.position)

    @property
    def tag(self) -> str:
        """What the body is a function of."""
        tag = tag_of(self.position, self.hash or b"")
        return tag if self.blocked_at is None else f"{tag}-blocked"

    @property
    def is_projected(self) -> bool:
        """Whether there is a balance to show."""
        return self.position > 0 or self.blocked_at is not None

    def require_projected(self) -> None:
        """Raise AccountNotFound or ProjectionBehind unless there is a balance to show."""
        if not self.is_projected:
            if self.stream_position == 0:
                raise AccountNotFound
            raise ProjectionBehind(position=0)


class Balances:
    """Reads balances and streams, each from its own server."""

    def __init__(
        self, read_model: asyncpg.Pool[asyncpg.Record], streams: asyncpg.Pool[asyncpg.Record]
    ) -> None:
        self.read_model = read_model
        self.streams = streams
        self.clock = StoreClock()

    async def read(self, account_ids: Sequence[str]) -> list[Standing]:
        """Return each account as it stands, in the given order; one query to each side for all."""
        wanted = list(set(account_ids))
        asked_s = time.time()
        with translating(UNAVAILABLE):
            balances, streams = await asyncio.gather(
                self.read_model.fetch(READ_BALANCES, wanted),
                self.streams.fetch(READ_STREAMS, wanted),
            )
            now = streams[-1]["now"] if streams else None
            if now is not None:
                self.clock.note(asked_s, now)
            hashes = {row["account_id"]: row["hash"] for row in streams}
            elsewhere = [
                (row["account_id"], row["position"])
                for row in balances
                if row["position"] and row["hash"] != hashes.get(row["account_id"])
            ]
            places = (
                await self.streams.fetch(READ_PLACES, *map(list, zip(*elsewhere, strict=True)))
                if elsewhere
                else []
            )
        hashes |= {row["account_id"]: row["hash"] for row in places}
        ends = {row["account_id"]: row["position"] for row in (*streams, *places)}
        standings = {
            row["account_id"]: Standing(
                stream_position=ends.get(row["account_id"], 0), now=now, **row
            )
            for row in balances
            if not row["position"] or row["hash"] == hashes.get(row["account_id"])
        }
        return [
            standings.get(account_id)
            or Standing(account_id=account_id, stream_position=ends.get(account_id, 0))
            for account_id in account_ids
        ]

    async def states(self, account_ids: Sequence[str]) -> dict[str, Standing]:
        """Return the projected state of each account, whether it is on its stream or not."""
        rows = await self.fetch(READ_STATES, list(account_ids))
        return {row["account_id"]: Standing(stream_position=0, **row) for row in rows}

    async def as_of(
        self, account_id: str, moment: datetime, now: datetime | None
    ) -> asyncpg.Record:
        """Return the last line recorded by ``moment``, and whether no other can become it.

        ``now`` is the event store's time, read before; without it no balance is final.
        """
        [row] = await self.fetch(AS_OF, account_id, moment, now)
        return row

    async def at_position(self, account_id: str, position: int) -> asyncpg.Record | None:
        """Return the line at ``position``."""
        rows = await self.fetch(AT_POSITION, account_id, position)
        return rows[0] if rows else None

    async def effective_at(self, account_id: str, moment: datetime) -> int:
        """Return the sum of what occurred up to ``moment``, in minor units."""
        rows = await self.fetch(EFFECTIVE_AT, account_id, moment)
        return int(rows[0]["balance_minor"])

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Return rows of the read model; raises ReadModelUnavailable."""
        with translating(UNAVAILABLE):
            return await self.read_model.fetch(statement, *arguments)
