"""A range of accounts: walks events and statement lines side by side, in both sides' snapshots."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.operate.settings import connected
from saldo.operate.verification.account import AccountCheck
from saldo.operate.verification.findings import NO_EVENT, Counts, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime
    from uuid import UUID

    import asyncpg

PREFETCH_ROWS = 2_000

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Each range is read in the order of the primary keys; the sides' texts are compared byte by byte,
# as Python compares them.
STREAMS = """
SELECT account_id, currency, position, balance_minor, overdraft_limit_minor, hash, recorded_at
FROM event_store.stream
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id
"""
EVENTS = """
SELECT account_id, position, event_id, public_text, private_text, hash, balance_minor, key_hash,
       key_line, fingerprint, reverses, appended_at, erased_at,
       restored_at
FROM event_store.event
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id, position
"""
REVERSED = """
SELECT reverses FROM event_store.event
WHERE reverses IS NOT NULL
  AND ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
"""
ERASURES = """
SELECT account_id, position, erased_at FROM event_store.erasure
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id, position
"""
BALANCES = """
SELECT account_id, currency, balance_minor, position, hash, recorded_at, blocked_at,
       blocked_reason, blocked_schema
FROM read_model.balance
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id
"""
LINES = """
SELECT account_id, position, event_id, kind, amount_minor, currency, balance_minor, occurred_at,
       recorded_at, reverses, hash, reversed_by, description, metadata
FROM read_model.statement
WHERE ($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)
ORDER BY account_id, position
"""
TOTALS = """
SELECT account_id, day, income_minor, expense_minor, transactions
FROM read_model.daily_total
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
    """A range of accounts, from ``first`` up to but without ``end``; None is open."""

    event_store: Side
    read_model: Side
    first: str | None
    end: str | None
    now: datetime
    latest: datetime


async def verify_range(work: Work) -> tuple[Counts, list[Fault]]:
    """Verify the accounts of one range, in the snapshots that ``work`` names."""
    async with (
        _joined(work.event_store) as event_store,
        _joined(work.read_model) as read_model,
    ):
        return await _RangeCheck(work, event_store, read_model).run()


@contextlib.asynccontextmanager
async def _joined(side: Side) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    async with connected(side.url) as connection:
        await connection.execute(f"{BEGIN}; SET TRANSACTION SNAPSHOT '{side.snapshot}'")
        yield connection


class _Beside:
    """Rows of another table, walked in the order of the events: account and position come first."""

    __slots__ = ("_next", "_rows", "_stray")

    def __init__(
        self, rows: AsyncIterator[asyncpg.Record], stray: Callable[[asyncpg.Record], None]
    ) -> None:
        self._rows = rows
        self._stray = stray
        self._next: asyncpg.Record | None = None

    async def start(self) -> None:
        """Read the first row."""
        self._next = await anext(self._rows, None)

    def reaches(self, key: tuple[str, int]) -> bool:
        """Return whether a row is at ``key`` or before it: for tables that have few rows."""
        return self._next is not None and (self._next[0], self._next[1]) <= key

    async def at(self, key: tuple[str, int]) -> asyncpg.Record | None:
        """Return the row of the event ``key``, if there is one; those before it are stray."""
        row = self._next
        while row is not None and (row[0], row[1]) < key:
            self._stray(row)
            row = self._next = await anext(self._rows, None)
        if row is None or (row[0], row[1]) != key:
            return None
        self._next = await anext(self._rows, None)
        return row

    async def end(self) -> None:
        """Take the rows behind the last event: all are stray."""
        while self._next is not None:
            self._stray(self._next)
            self._next = await anext(self._rows, None)


class _RangeCheck:
    """Walks events with their statement lines and erasures; the rest of a range is held."""

    def __init__(
        self,
        work: Work,
        event_store: asyncpg.Connection[asyncpg.Record],
        read_model: asyncpg.Connection[asyncpg.Record],
    ) -> None:
        self._work = work
        self._event_store = event_store
        self._read_model = read_model
        self._counts = Counts()
        self._faults: list[Fault] = []
        self._check: AccountCheck | None = None
        self._reversed_ids: set[UUID] = set()
        self._streams: dict[str, asyncpg.Record] = {}
        self._balances: dict[str, asyncpg.Record] = {}
        self._totals: dict[str, list[asyncpg.Record]] = {}

    async def run(self) -> tuple[Counts, list[Fault]]:
        bounds = (self._work.first, self._work.end)
        for row in await self._event_store.fetch(STREAMS, *bounds):
            self._streams[row["account_id"]] = row
        self._reversed_ids = {row[0] for row in await self._event_store.fetch(REVERSED, *bounds)}
        for row in await self._read_model.fetch(BALANCES, *bounds):
            self._balances[row["account_id"]] = row
        for row in await self._read_model.fetch(TOTALS, *bounds):
            self._totals.setdefault(row["account_id"], []).append(row)
        await self._walk(bounds)
        for account_id in sorted(
            self._streams.keys() | self._balances.keys() | self._totals.keys()
        ):
            self._finish(self._check_of(account_id))  # there is a row of it, but no event
        return self._counts, self._faults

    async def _walk(self, bounds: tuple[str | None, str | None]) -> None:
        lines = _Beside(
            aiter(self._read_model.cursor(LINES, *bounds, prefetch=PREFETCH_ROWS)),
            self._stray_line,
        )
        erasures = _Beside(
            aiter(self._event_store.cursor(ERASURES, *bounds, prefetch=PREFETCH_ROWS)),
            self._stray_erasure,
        )
        await lines.start()
        await erasures.start()
        async for row in self._event_store.cursor(EVENTS, *bounds, prefetch=PREFETCH_ROWS):
            key = (row[0], row[1])
            check = self._check
            if check is None or check.account_id != key[0]:
                if check is not None:
                    self._finish(check)
                check = self._check = self._check_of(key[0])
            line = await lines.at(key)
            erasure = await erasures.at(key) if erasures.reaches(key) else None
            check.event(row, line, erasure)
        await lines.end()
        await erasures.end()
        if self._check is not None:
            self._finish(self._check)

    def _check_of(self, account_id: str) -> AccountCheck:
        return AccountCheck(
            account_id=account_id,
            balance=self._balances.pop(account_id, None),
            now=self._work.now,
            reversed_ids=self._reversed_ids,
            latest=self._work.latest,
        )

    def _finish(self, check: AccountCheck) -> None:
        account_id = check.account_id
        check.finish(self._streams.pop(account_id, None), self._totals.pop(account_id, ()))
        self._counts.add(check.counts)
        self._faults += check.faults

    def _stray_line(self, line: asyncpg.Record) -> None:
        check = self._check
        if check is not None and check.account_id == line["account_id"]:
            check.line_without_event(line)
        else:
            self._stray("statement", line)

    def _stray_erasure(self, erasure: asyncpg.Record) -> None:
        self._stray("erasure", erasure)

    def _stray(self, table: str, row: asyncpg.Record) -> None:
        """Report a row of no event, once for neighbours of one account."""
        fault = Fault(table, "position", NO_EVENT, row["account_id"], row["position"])
        last = self._faults[-1] if self._faults else None
        if last is None or (last.account_id, last.table) != (fault.account_id, table):
            self._faults.append(fault)
