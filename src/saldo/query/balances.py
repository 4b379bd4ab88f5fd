"""Balances as they stand and as they stood: the statements, and what is read in one go."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

import msgspec

from saldo.domain.events import format_time
from saldo.domain.money import value_members
from saldo.serve.clock import StoreClock
from saldo.serve.database import Failure, translating

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import asyncpg

# The original's ``id`` of a balance: stable, and nobody's to choose.
BALANCE_IDS_MAX = 10_000
BALANCE_NAMESPACE = UUID("5a1d0000-5a1d-5a1d-85a1-d05a1d05a1d0")

READ_BALANCES = """
SELECT account_id, currency, balance_minor, position, hash, recorded_at, blocked_at, blocked_reason
FROM read_model.balance WHERE account_id = ANY ($1::text[])
"""
READ_STREAMS = """
SELECT account_id, position, clock_timestamp() AS now FROM event_store.stream
WHERE account_id = ANY ($1::text[]) AND position > 0
"""
READ_POSITIONS = """
SELECT account_id, position FROM read_model.balance WHERE account_id = ANY ($1::text[])
"""
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


class ReadModelUnavailable(Exception):  # noqa: N818 - an ordinary outcome of an outage
    """The balances cannot be read right now."""


UNAVAILABLE = dict.fromkeys(set(Failure) - {Failure.VALUE}, ReadModelUnavailable)


class AccountNotFound(Exception):  # noqa: N818 - it is what the account is
    """There is no such account."""


class PositionNotFound(Exception):  # noqa: N818 - it is what the position is
    """The account has no such position."""


class ProjectionBehind(Exception):  # noqa: N818 - it is where the projection is
    """The balance has not reached the position asked for yet."""

    def __init__(
        self, *, position: int, wanted: int | None = None, applied: Mapping[str, str] | None = None
    ) -> None:
        asked = "its first event" if wanted is None else f"position {wanted}"
        super().__init__(f"The balance is at position {position}: it has not reached {asked} yet.")
        self.position = position
        self.wanted = wanted
        self._applied = applied or {}

    def headers(self) -> Mapping[str, str]:
        """Headers of the response: that it was waited for, and how long."""
        return self._applied


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One account as read: its balance (None when not projected yet) and its stream's position.

    ``stream_position`` 0 means that the account does not exist. ``now`` is the event store's time
    as its stream was read.
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
    blocked_reason: str | None = None

    @property
    def behind(self) -> int:
        """Positions that the stream has and the balance lacks."""
        return max(0, self.stream_position - self.position)

    def etag(self) -> str:
        """What the body is a function of."""
        return f'"{self.position}"' if self.blocked_at is None else f'"{self.position}-blocked"'

    def require_projected(self) -> None:
        """Raise AccountNotFound or ProjectionBehind unless there is a balance to show."""
        if self.position == 0 and self.blocked_at is None:
            if self.stream_position == 0:
                raise AccountNotFound
            raise ProjectionBehind(position=0)

    def json(self) -> str:
        """The balance's object."""
        currency = self.currency or "XXX"
        blocked = ""
        if self.blocked_at is not None:
            # The reason is the operator's to read; the client learns that there is one.
            blocked = f',"blocked":{{"since":"{format_time(self.blocked_at)}"}}'
        recorded_at = "null" if self.recorded_at is None else f'"{format_time(self.recorded_at)}"'
        return (
            f'{{"id":"{balance_id(self.account_id)}","accountId":"{self.account_id}",'
            f"{value_members(self.balance_minor, self.currency)},"
            f'"currency":"{currency}","position":{self.position},'
            f'"hash":"{(self.hash or b"").hex()}","recordedAt":{recorded_at}{blocked}}}'
        )


@functools.lru_cache(maxsize=BALANCE_IDS_MAX)
def balance_id(account_id: str) -> str:
    """UUIDv5 of the account id."""
    return str(uuid5(BALANCE_NAMESPACE, account_id))


class Balances:
    """Reads balances and streams, each from its own server."""

    def __init__(
        self,
        read_model: asyncpg.Pool[asyncpg.Record],
        streams: asyncpg.Pool[asyncpg.Record],
    ) -> None:
        self.read_model = read_model
        self.streams = streams
        self.clock = StoreClock()

    async def read(self, account_ids: Sequence[str]) -> list[Standing]:
        """Each account as it stands, in the order asked; one query to each side for all."""
        wanted = list(set(account_ids))
        asked_s = time.time()
        with translating(UNAVAILABLE):
            balances, streams = await asyncio.gather(
                self.read_model.fetch(READ_BALANCES, wanted),
                self.streams.fetch(READ_STREAMS, wanted),
            )
        ends = {row["account_id"]: row["position"] for row in streams}
        now = streams[-1]["now"] if streams else None
        if now is not None:
            self.clock.note(asked_s, now)
        standings = {
            row["account_id"]: Standing(
                account_id=row["account_id"],
                stream_position=ends.get(row["account_id"], 0),
                now=now,
                position=row["position"],
                balance_minor=row["balance_minor"],
                currency=row["currency"],
                hash=row["hash"],
                recorded_at=row["recorded_at"],
                blocked_at=row["blocked_at"],
                blocked_reason=row["blocked_reason"],
            )
            for row in balances
        }
        return [
            standings.get(account_id)
            or Standing(account_id=account_id, stream_position=ends.get(account_id, 0))
            for account_id in account_ids
        ]

    async def positions(self, account_ids: Sequence[str]) -> dict[str, int]:
        """The projected position of each account that has one."""
        rows = await self.fetch(READ_POSITIONS, list(account_ids))
        return {row["account_id"]: row["position"] for row in rows}

    async def as_of(
        self, account_id: str, moment: datetime, now: datetime | None
    ) -> asyncpg.Record:
        """The last line recorded at or before ``moment``, and whether no other can become it.

        ``now`` is the event store's time, read before; without it no answer is final.
        """
        [row] = await self.fetch(AS_OF, account_id, moment, now)
        return row

    async def at_position(self, account_id: str, position: int) -> asyncpg.Record | None:
        """The line at ``position``."""
        rows = await self.fetch(AT_POSITION, account_id, position)
        return rows[0] if rows else None

    async def effective_at(self, account_id: str, moment: datetime) -> int:
        """The sum of what occurred up to ``moment``, in minor units."""
        rows = await self.fetch(EFFECTIVE_AT, account_id, moment)
        return int(rows[0]["balance_minor"])

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Rows of the read model; raises ReadModelUnavailable."""
        with translating(UNAVAILABLE):
            return await self.read_model.fetch(statement, *arguments)
