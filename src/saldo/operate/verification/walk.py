"""A range of accounts: reads events and statement lines side by side, in both sides' snapshots."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from saldo.operate.settings import connected
from saldo.operate.verification.account import AccountCheck
from saldo.operate.verification.findings import NO_EVENT, Counts, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

PREFETCH_ROWS = 2_000

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Each range is read in the order of the primary keys; the sides' texts are compared byte by byte,
# as Python compares them.
IN_RANGE = "($1::text IS NULL OR account_id >= $1) AND ($2::text IS NULL OR account_id < $2)"
STREAMS = f"SELECT * FROM event_store.stream WHERE {IN_RANGE} ORDER BY account_id"
EVENTS = f"""
SELECT e.*, t.erased_at AS traced_at FROM event_store.event AS e
LEFT JOIN event_store.erasure AS t USING (account_id, position)
WHERE {IN_RANGE} ORDER BY account_id, position
"""
REVERSED = f"SELECT reverses FROM event_store.event WHERE reverses IS NOT NULL AND {IN_RANGE}"
BALANCES = f"SELECT * FROM read_model.balance WHERE {IN_RANGE} ORDER BY account_id"
LINES = f"SELECT * FROM read_model.statement WHERE {IN_RANGE} ORDER BY account_id, position"
TOTALS = f"SELECT * FROM read_model.daily_total WHERE {IN_RANGE} ORDER BY account_id, day"


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
        return await _check_accounts(work, event_store, read_model)


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


def _by_account(rows: list[asyncpg.Record]) -> dict[str, asyncpg.Record]:
    return {row["account_id"]: row for row in rows}


def _lists_by_account(rows: list[asyncpg.Record]) -> dict[str, list[asyncpg.Record]]:
    lists: dict[str, list[asyncpg.Record]] = {}
    for row in rows:
        lists.setdefault(row["account_id"], []).append(row)
    return lists


async def _check_accounts(
    work: Work, event_store: Connection, read_model: Connection
) -> tuple[Counts, list[Fault]]:
    """Check events and statement lines in pairs; the other rows of a range are held."""
    bounds = (work.first, work.end)
    streams = _by_account(await event_store.fetch(STREAMS, *bounds))
    reversed_ids = set(map(itemgetter(0), await event_store.fetch(REVERSED, *bounds)))
    balances = _by_account(await read_model.fetch(BALANCES, *bounds))
    totals = _lists_by_account(await read_model.fetch(TOTALS, *bounds))
    counts, faults = Counts(), list[Fault]()

    check_of = partial(AccountCheck, reversed_ids=reversed_ids, now=work.now, latest=work.latest)

    def finish(check: AccountCheck | None) -> None:
        if check is not None:
            account_id = check.account_id
            check.finish(streams.pop(account_id, None), totals.pop(account_id, ()))
            counts.add(check.counts)
            faults.extend(check.faults)

    check: AccountCheck | None = None
    events = event_store.cursor(EVENTS, *bounds, prefetch=PREFETCH_ROWS)
    lines = read_model.cursor(LINES, *bounds, prefetch=PREFETCH_ROWS)
    async for event, line in _paired(aiter(events), aiter(lines)):
        if event is not None:
            if check is None or check.account_id != event["account_id"]:
                finish(check)
                account_id = event["account_id"]
                check = check_of(account_id, balances.pop(account_id, None))
            check.event(event, line)
        elif line is not None:
            account_id = line["account_id"]
            if check is not None and check.account_id == account_id:
                check.line_without_event(line)
            elif not faults or faults[-1].account_id != account_id:  # once for its neighbours
                place = (account_id, line["position"])
                faults.append(Fault("statement", "position", NO_EVENT, *place))
    finish(check)
    # Accounts that have another row, but no event.
    for account_id in sorted(streams.keys() | balances.keys() | totals.keys()):
        finish(check_of(account_id, balances.pop(account_id, None)))
    return counts, faults
