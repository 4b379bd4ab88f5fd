"""A range of accounts: reads events and statement lines side by side, in both sides' snapshots."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.operate.settings import connected
from saldo.operate.verification.account import AccountCheck
from saldo.operate.verification.findings import NO_EVENT, Counts, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

PREFETCH_ROWS = 2_000

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Each range is read in the order of the primary keys; the sides' texts are compared byte by byte,
# as Python compares them.
STREAMS = """
SELECT * FROM event_store.stream
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id
"""
EVENTS = """
SELECT e.*, t.erased_at AS traced_at FROM event_store.event AS e
LEFT JOIN event_store.erasure AS t ON t.account_id = e.account_id AND t.position = e.position
WHERE ($1::text IS NULL OR e.account_id >= $1) AND ($2::text IS NULL OR e.account_id < $2)
ORDER BY e.account_id, e.position
"""
REVERSED = """
SELECT reverses FROM event_store.event
WHERE reverses IS NOT NULL
  AND ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
"""
BALANCES = """
SELECT * FROM read_model.balance
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id
"""
LINES = """
SELECT * FROM read_model.statement
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id, position
"""
TOTALS = """
SELECT * FROM read_model.daily_total
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id, day
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One database in one snapshot, as a worker joins it."""

    url: str
    snapshot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A range of accounts, from `first` up to but without `end`; None is open."""

    event_store: Side
    read_model: Side
    first: str | None
    end: str | None
    now: datetime
    latest: datetime


async def verify_range(work: Work) -> tuple[Counts, list[Fault]]:
    """Verify the accounts of one range, in the snapshots that `work` names."""
    async with (
        _joined(work.event_store) as event_store,
        _joined(work.read_model) as read_model,
    ):
        check = _RangeCheck(work)
        await check.run(event_store, read_model)
        return check.counts, check.faults


@contextlib.asynccontextmanager
async def _joined(side: Side) -> AsyncIterator[Connection]:
    async with connected(side.url) as connection:
        await connection.execute(f"{BEGIN}; SET TRANSACTION SNAPSHOT '{side.snapshot}'")
        yield connection


async def _paired(
    events: AsyncIterator[asyncpg.Record], lines: AsyncIterator[asyncpg.Record]
) -> AsyncIterator[tuple[asyncpg.Record | None, asyncpg.Record | None]]:
    """Yield each event with the line of its position; a line without an event comes alone.

    Both come in the order of account and position, the first columns of their tables.
    """
    line = await anext(lines, None)
    async for event in events:
        key = (event[0], event[1])
        while line is not None and (line[0], line[1]) < key:
            yield None, line
            line = await anext(lines, None)
        if line is None or (line[0], line[1]) != key:
            yield event, None
        else:
            yield event, line
            line = await anext(lines, None)
    while line is not None:
        yield None, line
        line = await anext(lines, None)


class _RangeCheck:
    """Reads events and statement lines in pairs; the rest of a range is held."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.counts = Counts()
        self.faults: list[Fault] = []
        self._reversed_ids: set[UUID] = set()
        self._streams: dict[str, asyncpg.Record] = {}
        self._balances: dict[str, asyncpg.Record] = {}
        self._totals: dict[str, list[asyncpg.Record]] = {}

    async def run(self, event_store: Connection, read_model: Connection) -> None:
        """Check all accounts of the range."""
        bounds = (self._work.first, self._work.end)
        self._streams = {
            row["account_id"]: row for row in await event_store.fetch(STREAMS, *bounds)
        }
        self._reversed_ids = {row[0] for row in await event_store.fetch(REVERSED, *bounds)}
        self._balances = {
            row["account_id"]: row for row in await read_model.fetch(BALANCES, *bounds)
        }
        for row in await read_model.fetch(TOTALS, *bounds):
            self._totals.setdefault(row["account_id"], []).append(row)
        check: AccountCheck | None = None
        events = event_store.cursor(EVENTS, *bounds, prefetch=PREFETCH_ROWS)
        lines = read_model.cursor(LINES, *bounds, prefetch=PREFETCH_ROWS)
        async for event, line in _paired(aiter(events), aiter(lines)):
            if event is not None:
                if check is None or check.account_id != event["account_id"]:
                    self._finish(check)
                    check = self._check_of(event["account_id"])
                check.event(event, line)
            elif line is not None:
                self._stray(check, line)
        self._finish(check)
        # Accounts that have another row, but no event.
        for account_id in sorted(
            self._streams.keys() | self._balances.keys() | self._totals.keys()
        ):
            self._finish(self._check_of(account_id))

    def _check_of(self, account_id: str) -> AccountCheck:
        return AccountCheck(
            account_id,
            self._balances.pop(account_id, None),
            self._reversed_ids,
            self._work.now,
            self._work.latest,
        )

    def _finish(self, check: AccountCheck | None) -> None:
        if check is not None:
            account_id = check.account_id
            check.finish(self._streams.pop(account_id, None), self._totals.pop(account_id, ()))
            self.counts.add(check.counts)
            self.faults += check.faults

    def _stray(self, check: AccountCheck | None, line: asyncpg.Record) -> None:
        """Report a line of no event, once for neighbours of one account."""
        account_id = line["account_id"]
        if check is not None and check.account_id == account_id:
            check.line_without_event(line)
        elif not self.faults or self.faults[-1].account_id != account_id:
            self.faults.append(
                Fault("statement", "position", NO_EVENT, account_id, line["position"])
            )
