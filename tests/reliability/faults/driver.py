"""The clients of a load: they record, retry, read and list, and log every request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from tests.reliability.faults.intents import (
    FINAL,
    Intent,
    Known,
    Response,
    dependent,
    request_of,
    response_of,
)
from tests.reliability.faults.reads import Reads
from tests.reliability.history.history import Attempt, History

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.reliability.history.history import Kind

CLIENTS = 12
# Attempts at one intent; a client gives some up earlier, so that unknown outcomes stay unknown.
ATTEMPTS_MAX = 8
GIVES_UP = 0.15
UNKEYED = 0.25
EXPECTING = 0.1  # requests that are to be recorded only in the state that their client has seen
REQUEST_TIMEOUT_S = 6.0  # short: clients that give up are part of the load
THINK_S = 0.02
RETRY_PAUSE_S = 0.1
STOP_TIMEOUT_S = 120.0
ZIPF_ACCOUNTS = 20
BINARY_ACCOUNTS = 3
BITS_MAX = 45
LIMITED_ACCOUNTS = 2
LIMIT_MINOR = 20_000
NOT_FOUND = 404
# Transactions that a client may still reverse.
KNOWN_MAX = 20


@dataclass(slots=True, eq=False)
class Load:
    """Clients on accounts whose ids begin with ``prefix``; what they saw is in ``history``."""

    record_url: str
    balance_url: str
    prefix: str
    seed: int
    history: History = field(default_factory=History)
    refused_reads: int = 0
    recorded: int = 0
    accounts: list[str] = field(default_factory=list)
    _bits: dict[str, itertools.count[int]] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _stopping: bool = False
    # Cleared while the clients are to begin nothing new.
    going_on: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        hot = [f"{self.prefix}-hot-{rank}" for rank in range(ZIPF_ACCOUNTS)]
        binary = [f"{self.prefix}-binary-{number}" for number in range(BINARY_ACCOUNTS)]
        limited = [f"{self.prefix}-limited-{number}" for number in range(LIMITED_ACCOUNTS)]
        self.accounts = hot + binary + limited
        self._bits = {account_id: itertools.count() for account_id in binary}

    @contextlib.asynccontextmanager
    async def running(self, clients: int = CLIENTS) -> AsyncIterator[None]:
        """Run the clients until the block is left; then each finishes what it has begun."""
        connector = aiohttp.TCPConnector(limit=clients * 2)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        self._stopping = False
        self.going_on.set()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            self._tasks = [asyncio.create_task(self.client(session).run()) for _ in range(clients)]
            try:
                yield
            finally:
                self._stopping = True
                self.going_on.set()
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await asyncio.gather(*self._tasks)

    def client(self, session: aiohttp.ClientSession, record_url: str | None = None) -> Client:
        """Return a new client, of all recorders or of that at ``record_url``."""
        return Client(self, session, next(self._numbers), record_url or self.record_url)

    def has_recorded(self, operations: int) -> bool:
        """Return whether so many were recorded; raise the error that stopped a client."""
        for task in self._tasks:
            if task.done():
                task.result()
        return self.recorded >= operations

    @property
    def stopping(self) -> bool:
        """Whether the clients are to come to their end."""
        return self._stopping

    def next_bit(self, account_id: str) -> int | None:
        """Return an amount that no other income of the account has, or None."""
        bits = self._bits.get(account_id)
        bit = None if bits is None else next(bits)
        return None if bit is None or bit >= BITS_MAX else 1 << bit

    def is_binary(self, account_id: str) -> bool:
        """Return whether every income of the account is a different power of two."""
        return account_id in self._bits

    def latencies_s(self, since_s: float, until_s: float) -> list[float]:
        """Return the durations of the recorded requests that were sent in that time."""
        return [
            each.completed_s - each.invoked_s
            for each in self.history.attempts()
            if each.outcome == "recorded"
            and each.completed_s is not None
            and since_s <= each.invoked_s <= until_s
        ]


def p99_ms(latencies_s: list[float]) -> float:
    """Return the 99th percentile in milliseconds; 0 of nothing."""
    if len(latencies_s) < 2:
        return 0.0
    return statistics.quantiles(latencies_s, n=100, method="inclusive")[98] * 1_000


class Client:
    """One client: it does one thing at a time."""

    def __init__(
        self, load: Load, session: aiohttp.ClientSession, number: int, record_url: str
    ) -> None:
        self._load = load
        self._record_url = record_url
        self._session = session
        self._number = number
        # The order of a client's deeds is the seed's; when they meet others' is the machine's.
        self._chance = random.Random(f"{load.seed}-{number}")
        self._intents: list[Intent] = []
        self._known: list[Known] = []
        self._keys = itertools.count()
        self.reads = Reads(load, session, number, self._chance)

    async def run(self) -> None:
        await self._set_limits()
        while not self._load.stopping:
            # Clients start on another foot each, or the hot accounts would queue in step.
            await asyncio.sleep(self._chance.expovariate(1 / THINK_S))
            await self._load.going_on.wait()
            deed = self._chance.random()
            if deed < 0.6:
                await self._record()
            elif deed < 0.66 and self._intents:
                await self.attempt(self._chance.choice(self._intents))
            elif deed < 0.7 and self._known:
                await self._depend()
            elif deed < 0.85:
                await self.reads.balance()
            elif deed < 0.92:
                await self.reads.past()
            else:
                await self.reads.statement()

    async def _set_limits(self) -> None:
        for account_id in self._load.accounts[-LIMITED_ACCOUNTS:]:
            key = f"{self._number}-limit-{account_id}"
            await self.insist(
                Intent(account_id=account_id, kind="LIMIT", amount_minor=LIMIT_MINOR, key=key)
            )

    async def _record(self) -> None:
        accounts = self._load.accounts
        weights = [1 / (rank + 1) for rank in range(len(accounts))]
        [account_id] = self._chance.choices(accounts, weights)
        if self._load.is_binary(account_id):
            amount = self._load.next_bit(account_id)
            kind: Kind = "INCOME"
        else:
            amount = self._chance.randint(1, 10_000)
            kind = self._chance.choice(("INCOME", "EXPENSE"))
        if amount is not None:
            intent = Intent(
                account_id=account_id,
                kind=kind,
                amount_minor=amount,
                key=f"{self._number}-{next(self._keys)}",
                keyed=self._chance.random() > UNKEYED,
                expected=self._expected(account_id),
            )
            await (self.insist(intent) if intent.keyed else self.attempt(intent))

    def _expected(self, account_id: str) -> str:
        """Return the expected state: a tag, a position, or any state."""
        held = self.reads.held.get(account_id)
        if held is None or self._chance.random() > EXPECTING:
            return ""
        return self._chance.choice((held.tag, str(held.position)))

    async def _depend(self) -> None:
        """Send requests at the same moment, each of which may decide another."""
        known = self._known.pop()
        other = self._chance.choice(self._load.accounts[:ZIPF_ACCOUNTS])
        requests = dependent(known, other, f"{self._number}-{next(self._keys)}")
        await asyncio.gather(*(self.insist(*request) for request in requests))

    async def insist(self, *intents: Intent, gives_up: float = GIVES_UP) -> None:
        """Retry an intent until its outcome is certain, or until this client gives up."""
        for _ in range(ATTEMPTS_MAX):
            response, final = await self.attempt(*intents)
            if response.outcome == "recorded" and len(intents) == 1:
                self._intents += intents
            if final or self._chance.random() < gives_up:
                return
            await asyncio.sleep(RETRY_PAUSE_S)

    async def attempt(self, *intents: Intent) -> tuple[Response, bool]:
        """Send one request, in bulk if needed; return whether a repeat would give the same."""
        method, path, body, headers = request_of(intents)
        invoked_s = time.monotonic()
        completed_s, status, tag, recorded_at = None, 0, "", ""
        try:
            async with self._session.request(
                method, f"{self._record_url}{path}", data=body, headers=headers
            ) as answer:
                status, text = answer.status, await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            response = Response(outcome="unknown", said=type(error).__name__)
        else:
            completed_s = time.monotonic()
            response = response_of(status, text)
            if len(intents) == 1 and response.receipts:
                tag = answer.headers["ETag"].strip('"')
                recorded_at = json.loads(text)["recordedAt"]
        for number, intent in enumerate(intents):
            receipt = response.receipts[number] if response.receipts else None
            self._load.history.operations.append(
                Attempt(
                    client=self._number,
                    account_id=intent.account_id,
                    key=intent.key,
                    kind=intent.kind,
                    amount_minor=intent.amount_minor,
                    invoked_s=invoked_s,
                    completed_s=completed_s,
                    outcome=response.outcome,
                    receipt=receipt,
                    said=response.said,
                    reverses=intent.reverses,
                    not_found=status == NOT_FOUND,
                    named=response.named,
                    stated=response.stated,
                    tag=tag,
                    expected=intent.expected,
                )
            )
            if receipt is not None:
                self._load.recorded += 1
                self.reads.remember(intent.account_id, receipt, tag, recorded_at)
                if intent.kind == "INCOME" and not self._load.is_binary(intent.account_id):
                    self._known = self._known[-KNOWN_MAX:]
                    self._known.append(
                        Known(
                            account_id=intent.account_id,
                            receipt=receipt,
                            amount_minor=intent.amount_minor,
                        )
                    )
        return response, status in FINAL
