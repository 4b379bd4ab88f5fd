"""Streams and read models on a real database, made by the product's own recording and catch-up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg
from msgspec.structs import replace

from saldo.domain.account import evolve
from saldo.domain.events import TransactionRecorded, chain_hash, public_text
from saldo.operate.settings import OperatorSettings
from saldo.operate.verification.run import Report, verify
from saldo.project.catch_up import CatchUp
from saldo.project.postgres import PostgresDatabases
from saldo.record.batch import Dependencies, record_batch
from saldo.record.decision import Decided
from saldo.record.intent import StoredEvent
from saldo.record.postgres import PostgresEventStore
from saldo.record.stored_events import StoredEvents
from tests.support.controls import BRL, events_of, income, intent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from saldo.domain.commands import Command
    from saldo.domain.events import Event
    from tests.support.servers import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """A database, written and projected as the functions do it, without their processes."""

    pool: asyncpg.Pool[asyncpg.Record]
    settings: OperatorSettings

    async def record(self, *commands: Command, key: str | None = None) -> list[StoredEvent]:
        """Record one request; the events it became."""
        deps = Dependencies(
            store=PostgresEventStore(self.pool),
            monotonic=time.monotonic,
            sleep=asyncio.sleep,
            default_currency=BRL,
        )
        [outcome] = await record_batch([intent(*commands, key=key)], deps, lambda _: None)
        return events_of(outcome)

    async def erase(self, account_id: str, position: int) -> None:
        """Erase the private part of one event."""
        await StoredEvents(self.pool).erase_private(account_id, position)

    async def project(self, *account_ids: str) -> None:
        """Catch the accounts up to the end of their streams."""
        await CatchUp(PostgresDatabases(self.pool, self.pool)).to_end(account_ids)

    async def verify(self, workers: int = 1) -> Report:
        """Return the report of `saldo verify`."""
        return await verify(self.settings, workers=workers, progress=lambda _done, _total: None)


def operator_settings(database: Database, role: str = "saldo_operate") -> OperatorSettings:
    """Return the operator's settings, in its own role."""
    url = database.dsn(role)
    return OperatorSettings(event_store_url=url, read_model_url=url, kafka=None)


@contextlib.asynccontextmanager
async def opened(database: Database) -> AsyncIterator[Ledger]:
    """Yield the ledger in ``database``, written in the owner's role."""
    async with asyncpg.create_pool(database.dsn(), min_size=0, max_size=4) as pool:
        yield Ledger(pool=pool, settings=operator_settings(database))


async def append_forged(ledger: Ledger, fact: Event) -> StoredEvent:
    """Append an event with a valid chain hash, without checking the rules."""
    account = await StoredEvents(ledger.pool).find_account(fact.account_id)
    assert account is not None
    line = intent(income("1", fact.account_id)).lines[0]
    fact = replace(fact, position=account.position + 1, private_hash=line.private_hash)
    text = public_text(fact)
    decided = Decided(read={fact.account_id: account}, decided_at=datetime.now(UTC))
    account = evolve(account, fact, chain_hash(account.hash, text))
    stored = StoredEvent(
        account_id=fact.account_id,
        position=fact.position,
        event_id=fact.event_id,
        public_text=text,
        private_text=line.private_text,
        hash=account.hash,
        balance_minor=account.balance_minor,
        key_hash=None,
        key_line=None,
        fingerprint=None,
        reverses=fact.reverses if isinstance(fact, TransactionRecorded) else None,
    )
    decided.events = [stored]
    decided.accounts = {fact.account_id: account}
    await PostgresEventStore(ledger.pool).append(decided)
    return stored


async def append_unreadable(ledger: Ledger, account_id: str, text: str) -> None:
    """Append an event that chains rightly, and that this version cannot read."""
    stream = await ledger.pool.fetchrow(
        "SELECT * FROM event_store.stream WHERE account_id = $1", account_id
    )
    assert stream is not None
    event_hash = chain_hash(stream["hash"], text)
    await ledger.pool.execute(
        """
        INSERT INTO event_store.event (account_id, position, event_id, public_text, private_text,
                                       hash, balance_minor)
        VALUES ($1, $2, gen_random_uuid(), $3, '{}', $4, $5)
        """,
        account_id,
        stream["position"] + 1,
        text,
        event_hash,
        stream["balance_minor"],
    )
    await ledger.pool.execute(
        "UPDATE event_store.stream SET position = position + 1, hash = $2 WHERE account_id = $1",
        account_id,
        event_hash,
    )
