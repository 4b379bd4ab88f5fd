"""The write side and the read side of a database, as their processes hold them but without HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

import asyncpg

from saldo.domain.events import chain_hash, genesis_hash
from saldo.project.catch_up import CatchUp, CaughtUp
from saldo.project.metrics import ProjectMetrics
from saldo.project.postgres import PostgresDatabases
from saldo.project.projector import Projector
from saldo.query.balances import Balances
from saldo.record.batch import Dependencies, record_batch
from saldo.record.decision import Decided, Outcome, decide_batch
from saldo.record.ports import Lookup
from saldo.record.postgres import PostgresEventStore, PostgresOutbox
from saldo.record.stored_events import StoredEvents
from saldo.serve.clock import StoreClock
from saldo.serve.database import open_pool
from tests.support.controls import BRL, Clock, events_of, intent, ledger
from tests.support.proxy import APPENDS, Proxy, Rule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime
    from uuid import UUID

    from saldo.domain.commands import Command, RecordTransaction
    from saldo.record.intent import Intent, StoredEvent
    from saldo.record.ports import Transaction
    from tests.support.servers import Database

DEADLINE_S = 120.0
LOOK_S = 0.01
POOL_SIZE_MAX = 8

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until ``condition`` holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(LOOK_S)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Yield a separate connection."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def with_options(url: str, **settings: str) -> str:
    """Return ``url`` with server settings for its sessions."""
    said = "".join(f"&{name}={value}" for name, value in settings.items())
    return url + said


@dataclass(slots=True)
class Writer:
    """The write side: one process's pool."""

    pool: asyncpg.Pool[asyncpg.Record]
    store: PostgresEventStore
    outbox: PostgresOutbox
    clock: Clock
    deps: Dependencies
    committed: list[Decided] = field(default_factory=list)

    @property
    def events(self) -> StoredEvents:
        """The event store as clients read it."""
        return StoredEvents(self.pool)

    async def outcomes(self, *intents: Intent) -> list[Outcome]:
        """Record a batch of these intents and return the outcomes."""
        return await record_batch(intents, self.deps, self.committed.append)

    async def record(self, *commands: Command) -> list[StoredEvent]:
        """Record the commands in one batch, each as a separate request."""
        outcomes = await self.outcomes(*map(intent, commands)) if commands else []
        return [event for outcome in outcomes for event in events_of(outcome)]

    async def record_at(self, moment: datetime, *commands: RecordTransaction) -> None:
        """Record the commands as if the clock by which they are dated stood at ``moment``."""
        for command in commands:
            transaction = await self.append_uncommitted(command, moment)
            await transaction.commit()

    async def append_uncommitted(
        self, command: RecordTransaction, moment: datetime | None = None
    ) -> Transaction:
        """Write the command's event; the caller ends the transaction."""
        account_id = command.account_id
        transaction = await self.store.begin()
        looked = await transaction.look(Lookup([account_id], [], []))
        known = ledger(looked.accounts[account_id])
        drafted = decide_batch([intent(command)], known, moment or looked.now, BRL)
        drafted.decided_at = looked.now
        await transaction.append(drafted)
        return transaction


@contextlib.asynccontextmanager
async def writer_on(url: str) -> AsyncIterator[Writer]:
    """Yield a write side on ``url``; its waits pass at once on a fake clock."""
    clock = Clock()
    async with open_pool(url, size_max=4, application="test-writer") as pool:
        store = PostgresEventStore(pool)
        deps = Dependencies(
            store=store,
            monotonic=clock.monotonic,
            sleep=clock.sleep,
            default_currency=BRL,
        )
        yield Writer(pool, store, PostgresOutbox(pool), clock, deps)


@dataclass(slots=True)
class Reader:
    """The read side: the projector's pools, and the reader's."""

    pool: asyncpg.Pool[asyncpg.Record]
    rounds: CatchUp
    balances: Balances

    async def catch_up(self, *account_ids: str) -> list[CaughtUp]:
        """Run one round for these accounts."""
        caught_up = await self.rounds.round(account_ids)
        return [caught_up[account_id] for account_id in account_ids]

    async def balance(self, account_id: str) -> tuple[int, int]:
        """Return position and minor units of a balance; zeros without one."""
        row = await self.pool.fetchrow(
            "SELECT position, balance_minor FROM read_model.balance WHERE account_id = $1",
            account_id,
        )
        return (0, 0) if row is None else (row["position"], row["balance_minor"])


@contextlib.asynccontextmanager
async def reader_on(url: str) -> AsyncIterator[Reader]:
    """Yield a read side on ``url`` in the projector's role."""
    async with open_pool(url, size_max=4, application="test-reader") as pool:
        rounds = CatchUp(PostgresDatabases(pool, pool), Clock().sleep)
        yield Reader(pool, rounds, Balances(pool, pool))


@contextlib.asynccontextmanager
async def projector_on(url: str) -> AsyncIterator[Projector]:
    """Yield a projector without its timer: it sweeps on request."""
    async with (
        open_pool(url, size_max=POOL_SIZE_MAX, application="test-streams") as streams,
        open_pool(url, size_max=POOL_SIZE_MAX, application="test-read-model") as read_model,
    ):
        yield Projector(PostgresDatabases(streams, read_model), StoreClock(), ProjectMetrics())


# --- what must always hold --------------------------------------------------------------------

EVENTS = """
SELECT account_id, position, event_id, public_text, hash, balance_minor,
       public_text::json ->> 'kind' AS kind, (public_text::json ->> 'amountMinor')::bigint AS amount
FROM event_store.event ORDER BY account_id, position
"""
STREAMS = """
SELECT account_id, position, balance_minor, hash FROM event_store.stream
WHERE position > 0 ORDER BY account_id
"""
BALANCES = """
SELECT account_id, position, balance_minor, hash FROM read_model.balance ORDER BY account_id
"""
LINES = """
SELECT account_id, position, event_id, hash, balance_minor, kind, amount_minor AS amount
FROM read_model.statement ORDER BY account_id, position
"""
TOTALS = """
SELECT account_id, sum(income_minor - expense_minor)::bigint AS balance_minor,
       sum(transactions)::bigint AS transactions
FROM read_model.daily_total GROUP BY account_id ORDER BY account_id
"""


async def check_event_store(connection: Connection) -> int:
    """Assert that every balance is its events' sum, gap-free and chained; the number of events."""
    ends: dict[str, tuple[int, int, bytes]] = {}
    ids: set[UUID] = set()
    rows = await connection.fetch(EVENTS)
    for row in rows:
        account_id = row["account_id"]
        position, balance, previous = ends.get(account_id, (0, 0, genesis_hash(account_id)))
        assert row["position"] == position + 1
        assert row["hash"] == chain_hash(previous, row["public_text"])
        if row["kind"] is not None:
            balance += row["amount"] if row["kind"] == "INCOME" else -row["amount"]
        assert row["balance_minor"] == balance
        ids.add(row["event_id"])
        ends[account_id] = (row["position"], balance, row["hash"])
    assert len(ids) == len(rows)
    streams = {r["account_id"]: tuple(r)[1:] for r in await connection.fetch(STREAMS)}
    assert streams == ends
    return len(rows)


async def check_read_model(connection: Connection) -> None:
    """Assert that the read model is what the event store says, line by line."""
    assert await connection.fetch(BALANCES) == await connection.fetch(STREAMS)
    lines = await connection.fetch(LINES)
    columns = ("account_id", "position", "event_id", "hash", "balance_minor", "amount")
    events = await connection.fetch(EVENTS)
    assert [[row[c] for c in columns] for row in lines] == [
        [row[c] for c in columns] for row in events
    ]
    moving = [row for row in events if row["kind"] is not None]
    totals = {row["account_id"]: row for row in await connection.fetch(TOTALS)}
    for account_id in {row["account_id"] for row in moving}:
        own = [row for row in moving if row["account_id"] == account_id]
        assert totals[account_id]["transactions"] == len(own)
        assert totals[account_id]["balance_minor"] == own[-1]["balance_minor"]


async def is_projected(connection: Connection) -> bool:
    """Return whether every stream's end has reached the read model."""
    lagging = await connection.fetchval(
        "SELECT count(*) FROM event_store.stream AS s LEFT JOIN read_model.balance AS b"
        " USING (account_id) WHERE s.position > coalesce(b.position, 0)"
    )
    return bool(lagging == 0)


async def is_outbox_empty(connection: Connection) -> bool:
    """Return whether Kafka has acknowledged all, and the relay noted it."""
    return not await connection.fetchval("SELECT EXISTS (SELECT FROM event_store.outbox)")


# The lag sweep fails, and deliveries alone project.
NOTHING_IS_SWEPT = "REVOKE SELECT ON read_model.sweep FROM saldo_project"
SWEEPS_AGAIN = "GRANT SELECT ON read_model.sweep TO saldo_project"

# As after a restore of the event store to a moment before its last events: account, position.
CUT = """
WITH gone AS (DELETE FROM event_store.event WHERE account_id = $1 AND position > $2),
     unsent AS (DELETE FROM event_store.outbox WHERE account_id = $1)
UPDATE event_store.stream AS s
SET position = e.position, balance_minor = e.balance_minor, hash = e.hash
FROM event_store.event AS e
WHERE s.account_id = $1 AND e.account_id = $1 AND e.position = $2
"""

AGE = timedelta(minutes=1)


async def age_outbox(connection: Connection, age: timedelta = AGE) -> None:
    """Make what waits in the outbox older, as if time had passed."""
    await connection.execute(
        "UPDATE event_store.outbox SET appended_at = appended_at - $1::interval,"
        " claimed_until = claimed_until - $1::interval",
        age,
    )


class Unreachable(Clock):
    """From the first wait on, ``proxy`` refuses all connections; those that are open stay."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self._proxy = proxy

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        self._proxy.refusing = True


def on_clock(writer: Writer, clock: Clock) -> Writer:
    """Return the writer, with its waits on another clock."""
    deps = replace(writer.deps, monotonic=clock.monotonic, sleep=clock.sleep)
    return Writer(writer.pool, writer.store, writer.outbox, clock, deps, writer.committed)


Cut: TypeAlias = Literal["cut-before", "cut-after", "cut-late"]


def through(proxy: Proxy, database: Database) -> str:
    return f"postgresql://saldo_record@127.0.0.1:{proxy.port}/{database.name}?sslmode=disable"


def cut(proxy: Proxy, action: Cut) -> Rule:
    """Have the next commit cut: before it arrives, once carried out, or to be carried out late."""
    rule = Rule(begins="COMMIT", alone=APPENDS, action=action, hits_max=1)
    proxy.rules.append(rule)
    return rule
