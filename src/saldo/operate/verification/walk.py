"""A range of accounts: walks events and statement lines side by side, in both sides' snapshots."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.operate.settings import connect
from saldo.operate.verification.account import AccountCheck
from saldo.operate.verification.findings import Counts, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

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
       key_line, fingerprint, reverses, appended_at, erased_at
FROM event_store.event
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


async def verify_range(work: Work) -> tuple[Counts, list[Fault]]:
    """Verify the accounts of one range, in the snapshots that ``work`` names."""
    async with (
        _joined(work.event_store) as event_store,
        _joined(work.read_model) as read_model,
    ):
        return await _RangeCheck(work, event_store, read_model).run()


@contextlib.asynccontextmanager
async def _joined(side: Side) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await connect(side.url)
    try:
        await connection.execute(f"{BEGIN}; SET TRANSACTION SNAPSHOT '{side.snapshot}'")
        yield connection
    finally:
        await connection.close()


class _RangeCheck:
    """Walks events and statement lines side by side; the rest of a range is small and held."""

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
        self._streams: dict[str, asyncpg.Record] = {}
        self._balances: dict[str, asyncpg.Record] = {}
        self._totals: dict[str, list[asyncpg.Record]] = {}

    async def run(self) -> tuple[Counts, list[Fault]]:
        bounds = (self._work.first, self._work.end)
        for row in await self._event_store.fetch(STREAMS, *bounds):
            self._streams[row["account_id"]] = row
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
        lines = aiter(self._read_model.cursor(LINES, *bounds, prefetch=PREFETCH_ROWS))
        line = await anext(lines, None)
        check: AccountCheck | None = None
        async for row in self._event_store.cursor(EVENTS, *bounds, prefetch=PREFETCH_ROWS):
            account_id, position = row[0], row[1]
            if check is None or check.account_id != account_id:
                if check is not None:
                    self._finish(check)
                check = self._check_of(account_id)
            key = (account_id, position)
            while line is not None and (line[0], line[1]) < key:
                self._stray(check, line)
                line = await anext(lines, None)
            if line is not None and line[0] == account_id and line[1] == position:
                check.event(row, line)
                line = await anext(lines, None)
            else:
                check.event(row, None)
        while line is not None:
            self._stray(check, line)
            line = await anext(lines, None)
        if check is not None:
            self._finish(check)

    def _check_of(self, account_id: str) -> AccountCheck:
        return AccountCheck(
            account_id=account_id,
            balance=self._balances.pop(account_id, None),
            now=self._work.now,
        )

    def _finish(self, check: AccountCheck) -> None:
        account_id = check.account_id
        check.finish(self._streams.pop(account_id, None), self._totals.pop(account_id, ()))
        self._counts.add(check.counts)
        self._faults += check.faults

    def _stray(self, check: AccountCheck | None, line: asyncpg.Record) -> None:
        """A line beside which there is no event."""
        account_id = line["account_id"]
        if check is not None and check.account_id == account_id:
            check.line_without_event(line)
            return
        if not self._faults or self._faults[-1].account_id != account_id:
            self._faults.append(
                Fault(
                    account_id=account_id,
                    position=line["position"],
                    table="statement",
                    column="account_id",
                    reason="the store has no such event",
                )
            )
