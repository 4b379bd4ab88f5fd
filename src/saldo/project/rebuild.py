"""Rebuilding the read model from the event store while traffic goes on.

New tables are filled by the same catch-up as the projector's, and compared with the old ones. The
switch is one database transaction: writers are locked out of the old tables, readers are not; the
rest is caught up, every balance is checked, and the new tables replace the old. The server plans
the functions' prepared statements again, since the columns are the same; a statement that waits for
the switch finds the new tables by their names.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from saldo.project import postgres
from saldo.project.catch_up import CatchUp
from saldo.project.errors import RebuildRefused
from saldo.project.lag_sweep import OVERLAP
from saldo.project.next_tables import (
    Difference,
    NextDatabases,
    compare_tables,
    drop_tables,
    make_tables,
    move_tables,
)
from saldo.serve.clock import store_now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from saldo.project.next_tables import Connection
    from saldo.project.ports import States

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]

# One rebuild at a time; held by the connection, so it ends with the process.
REBUILD_LOCK = 0x5A1D1
PAGE_ACCOUNTS = 2_000
BATCH_ACCOUNTS = 100
PASSES_MAX = 50
# What is left to catch up while writers wait; more is done in a further pass first.
REST_ACCOUNTS_MAX = 200
SWITCHES_MAX = 60
SWITCH_LOCK_TIMEOUT_MS = 200
SWITCH_PAUSE_S = 0.25

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
UNBLOCK_NEXT = """
UPDATE read_model_next.balance SET blocked_at = NULL, blocked_reason = NULL, blocked_schema = NULL
WHERE blocked_schema IS NOT NULL
"""
NEXT_PAGE = """
SELECT account_id FROM read_model_next.balance
WHERE account_id > $1 ORDER BY account_id LIMIT $2
"""
HAVE_EVENTS = """
SELECT account_id FROM event_store.stream
WHERE account_id = ANY ($1::text[]) AND position > 0
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
ERASE_NEXT_COPIES = postgres.ERASE_COPIES.replace("read_model.", "read_model_next.")
KEEP_BLOCK_TIMES = """
UPDATE read_model_next.balance AS n SET blocked_at = o.blocked_at FROM read_model.balance AS o
WHERE o.account_id = n.account_id AND n.blocked_at IS NOT NULL AND o.blocked_at IS NOT NULL
"""


@dataclass(slots=True)
class Rebuilt:
    """The result of a rebuild."""

    accounts: int = 0
    resumed: bool = False
    blocked: int = 0
    differences: list[Difference] = field(default_factory=list)
    switched: bool = False
    switch_attempts: int = 0
    switch_ms: float = 0.0


async def discard_rebuild(read_model: Pool) -> bool:
    """Drop what an earlier rebuild has left; return whether there was anything."""
    async with _alone(read_model) as connection:
        return await drop_tables(connection)


@contextlib.asynccontextmanager
async def _alone(read_model: Pool) -> AsyncIterator[Connection]:
    """Hold a connection and the lock of a rebuild; raise RebuildRefused if another holds it."""
    async with read_model.acquire() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", REBUILD_LOCK):
            raise RebuildRefused("another rebuild is running")
        try:
            yield connection
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1)", REBUILD_LOCK)


class Rebuild:
    """One rebuild, on the operator's own pools.

    `progress` is called with (accounts done, accounts in all).
    """

    def __init__(
        self, streams: Pool, read_model: Pool, progress: Callable[[int, int], None]
    ) -> None:
        self._streams = streams
        self._pool = read_model
        self._progress = progress
        self._next = CatchUp(NextDatabases(streams, read_model))
        self._result = Rebuilt()
        # Erased since then: may still be in the new tables.
        self._erased_since = postgres.FIRST_ERASED
        self._pass_started = postgres.FIRST_ERASED

    async def run(self, *, accept_differences: bool) -> Rebuilt:
        """Fill, compare and switch; with differences, switch only if they are accepted.

        Raise RebuildRefused. If it is interrupted or refused, the new tables stay, and the next run
        continues with them.
        """
        async with _alone(self._pool) as connection:
            self._pass_started = await store_now(self._streams)
            self._result.resumed = await make_tables(connection)
            if self._result.resumed:
                await self._fold_lost(connection)
            self._erased_since = (
                postgres.FIRST_ERASED if self._result.resumed else self._pass_started
            )
            await self._fill()
            await self._pass_until_level()
            self._result.differences = await compare_tables(connection)
            if not self._result.differences or accept_differences:
                await self._switch(connection, accept_differences=accept_differences)
        return self._result

    async def _fold_lost(self, connection: Connection) -> None:
        """Fold again the accounts that are suspended or have no stream any more.

        Filling does not reach them. The catch-up empties those that are not on their streams.
        """
        await connection.execute(UNBLOCK_NEXT)
        last = ""
        while page := [row[0] for row in await connection.fetch(NEXT_PAGE, last, PAGE_ACCOUNTS)]:
            last = page[-1]
            kept = {row[0] for row in await self._streams.fetch(HAVE_EVENTS, page)}
            await self._next.to_end([each for each in page if each not in kept])

    async def _fill(self) -> None:
        total = await self._streams.fetchval(STREAMS_COUNT)
        done, last = 0, ""
        self._progress(0, total)
        while page := await self._streams.fetch(STREAMS_PAGE, last, PAGE_ACCOUNTS):
            last = page[-1]["account_id"]
            await self._catch_up(_ends(page))
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

    async def _appended_since_pass(self) -> States:
        """Return the ends of the streams that have grown since the last pass began."""
        return _ends(await self._streams.fetch(APPENDED_SINCE, self._pass_started - OVERLAP))

    async def _lagging(self, ends: States) -> list[str]:
        """Return the accounts whose new balance is not at `ends`; a blocked one never will be."""
        rows = await self._pool.fetch(STANDING, list(ends))
        standing = {row["account_id"]: row for row in rows}
        return [
            account_id
            for account_id, end in ends.items()
            if (row := standing.get(account_id)) is None
            or ((row["position"], row["hash"]) != end and row["blocked_schema"] is None)
        ]

    async def _catch_up(self, ends: States) -> int:
        """Bring the new balances to `ends`; return how many lagged."""
        lagging = await self._lagging(ends)
        for start in range(0, len(lagging), 2 * BATCH_ACCOUNTS):
            middle = start + BATCH_ACCOUNTS
            batches = lagging[start:middle], lagging[middle : middle + BATCH_ACCOUNTS]
            for caught_up in await asyncio.gather(*map(self._next.to_end, batches)):
                self._result.blocked += sum(each.blocked for each in caught_up.values())
        return len(lagging)

    async def _switch(self, connection: Connection, *, accept_differences: bool) -> None:
        loop = asyncio.get_running_loop()
        for attempt in range(1, SWITCHES_MAX + 1):
            self._result.switch_attempts = attempt
            await self._pass_until_level()
            began = loop.time()
            # A lock that is held longer, as by a verification, is waited for outside of the
            # database transaction: nobody queues behind it.
            with contextlib.suppress(asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                async with connection.transaction():
                    self._result.switched = await self._try_switch(
                        connection, accept_differences=accept_differences
                    )
            if self._result.switched:
                self._result.switch_ms = (loop.time() - began) * 1000
                return
            await asyncio.sleep(SWITCH_PAUSE_S)
        raise RebuildRefused(
            f"the tables were in use at each of {SWITCHES_MAX} attempts to switch: "
            "run it again, it goes on from here"
        )

    async def _try_switch(self, connection: Connection, *, accept_differences: bool) -> bool:
        """Move the new tables over; return False if more lags than writers may wait for."""
        await connection.execute(f"SET LOCAL lock_timeout = '{SWITCH_LOCK_TIMEOUT_MS}ms'")
        await connection.execute(LOCK_OLD)
        # What the last pass did not see. By the store, not by the old balances: after a restore
        # they may know of events that it has lost. On other connections, in database transactions
        # of their own: nobody else uses the new tables.
        ends = await self._appended_since_pass()
        if len(await self._lagging(ends)) > REST_ACCOUNTS_MAX:
            return False
        await self._catch_up(ends)
        if not accept_differences and await connection.fetchval(UNEQUAL):
            raise RebuildRefused(
                "a balance knows of events that the store does not have: see saldo verify. "
                "--accept-differences replaces it"
            )
        # An erasure that the sweep has just done in the old statement is done in the new one; one
        # that comes later finds the new one in place.
        if erased := await self._streams.fetch(ERASED_SINCE, self._erased_since):
            await connection.execute(ERASE_NEXT_COPIES, *map(list, zip(*erased, strict=True)))
        await connection.execute(KEEP_BLOCK_TIMES)
        await move_tables(connection)
        return True


def _ends(rows: Sequence[asyncpg.Record]) -> States:
    return {row["account_id"]: (row["position"], row["hash"]) for row in rows}
