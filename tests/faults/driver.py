"""Clients that record, repeat, read and list against the functions, and log all of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.history.history import Attempt, History, Line, Read, Receipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tests.history.history import Kind, Outcome

CLIENTS = 12
# Attempts at one intent; a client gives some up earlier, so that unknown outcomes stay unknown.
ATTEMPTS_MAX = 8
GIVES_UP = 0.15
UNKEYED = 0.25
REQUEST_TIMEOUT_S = 6.0  # short: clients that give up are part of the load
THINK_S = 0.02
RETRY_PAUSE_S = 0.1
STOP_TIMEOUT_S = 120.0
ZIPF_ACCOUNTS = 20
BINARY_ACCOUNTS = 3
BITS_MAX = 45
LIMITED_ACCOUNTS = 2
LIMIT_MINOR = 20_000
# Problems that say "nothing was recorded". Any other 5xx, and no answer at all, says nothing.
REFUSALS = frozenset({"too-busy", "store-busy", "store-unavailable", "insufficient-funds"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a client wants recorded, once.

    One that is not keyed bears its key in the description alone: the client cannot attempt it
    again, and nothing but the recorder's own care keeps it from being recorded twice.
    """

    account_id: str
    kind: Kind
    amount_minor: int
    key: str
    keyed: bool = True


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
        """Clients at work until the block is left; then each finishes what it has begun."""
        connector = aiohttp.TCPConnector(limit=clients * 2)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        self._stopping = False
        self.going_on.set()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            self._tasks = [
                asyncio.create_task(_Client(self, session, next(self._numbers)).run())
                for _ in range(clients)
            ]
            try:
                yield
            finally:
                self._stopping = True
                self.going_on.set()
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await asyncio.gather(*self._tasks)

    def has_recorded(self, operations: int) -> bool:
        """Whether so many were recorded; raises what a client met that it cannot go on from."""
        for task in self._tasks:
            if task.done():
                task.result()
        return self.recorded >= operations

    @property
    def stopping(self) -> bool:
        """Whether the clients are to come to their end."""
        return self._stopping

    def next_bit(self, account_id: str) -> int | None:
        """The amount by which the account's next income is told apart from all others."""
        bits = self._bits.get(account_id)
        bit = None if bits is None else next(bits)
        return None if bit is None or bit >= BITS_MAX else 1 << bit

    def is_binary(self, account_id: str) -> bool:
        """Whether every income of the account has a bit of its own."""
        return account_id in self._bits

    def latencies_s(self, since_s: float, until_s: float) -> list[float]:
        """How long the recorded requests took that were asked for in that time."""
        return [
            each.completed_s - each.invoked_s
            for each in self.history.attempts()
            if each.outcome == "recorded"
            and each.completed_s is not None
            and since_s <= each.invoked_s <= until_s
        ]


def p99_ms(latencies_s: list[float]) -> float:
    """The 99th percentile in milliseconds; 0 of nothing."""
    if len(latencies_s) < 2:
        return 0.0
    return statistics.quantiles(latencies_s, n=100, method="inclusive")[98] * 1_000


class _Client:
    """One client: it does one thing at a time."""

    def __init__(self, load: Load, session: aiohttp.ClientSession, number: int) -> None:
        self._load = load
        self._session = session
        self._number = number
        # The order of a client's deeds is the seed's; when they meet others' is the machine's.
        self._chance = random.Random(f"{load.seed}-{number}")  # noqa: S311 - deeds, no secrets
        self._intents: list[Intent] = []
        self._seen: dict[str, int] = {}
        self._keys = itertools.count()

    async def run(self) -> None:
        await self._set_limits()
        while not self._load.stopping:
            # Clients start on another foot each, or the hot accounts would queue in step.
            await asyncio.sleep(self._chance.expovariate(1 / THINK_S))
            await self._load.going_on.wait()
            deed = self._chance.random()
            if deed < 0.6:
                await self._record()
            elif deed < 0.68 and self._intents:
                await self._attempt(self._chance.choice(self._intents))
            elif deed < 0.9:
                await self._read_balance()
            else:
                await self._read_statement()

    async def _set_limits(self) -> None:
        for account_id in self._load.accounts[-LIMITED_ACCOUNTS:]:
            key = f"{self._number}-limit-{account_id}"
            await self._insist(
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
            )
            await (self._insist(intent) if intent.keyed else self._attempt(intent))

    async def _insist(self, intent: Intent) -> None:
        """Attempt it until its outcome is certain, or until this client gives it up."""
        for _ in range(ATTEMPTS_MAX):
            outcome, final = await self._attempt(intent)
            if outcome == "recorded":
                self._intents.append(intent)
            if final or self._chance.random() < GIVES_UP:
                return
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _attempt(self, intent: Intent) -> tuple[Outcome, bool]:
        """One request; its outcome, and whether another would come to the same."""
        path, body = _request_of(intent)
        headers = {"Content-Type": "application/json"}
        if intent.keyed:
            headers["Idempotency-Key"] = intent.key
        method = "PUT" if intent.kind == "LIMIT" else "POST"
        invoked_s = time.monotonic()
        outcome: Outcome = "unknown"
        receipt, said, completed_s = None, "", None
        try:
            async with self._session.request(
                method,
                f"{self._load.record_url}{path}",
                data=body,
                headers=headers,
            ) as answer:
                status, text = answer.status, await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            status, said = 0, type(error).__name__
        else:
            completed_s = time.monotonic()
            content = json.loads(text, parse_float=str)
            if status in {200, 201}:
                outcome, receipt = "recorded", _receipt_of(content)
            else:
                problem = content["type"].rpartition(":")[2]
                said = f"{status} {problem}"
                outcome = "refused" if problem in REFUSALS else "unknown"
                # Anything else, an internal error above all, is a finding.
                assert problem in REFUSALS | {"outcome-unknown"}, text
        self._load.history.operations.append(
            Attempt(
                client=self._number,
                account_id=intent.account_id,
                key=intent.key,
                kind=intent.kind,
                amount_minor=intent.amount_minor,
                invoked_s=invoked_s,
                completed_s=completed_s,
                outcome=outcome,
                receipt=receipt,
                said=said,
            )
        )
        self._load.recorded += outcome == "recorded"
        if receipt is not None:
            seen = self._seen.get(intent.account_id, 0)
            self._seen[intent.account_id] = max(seen, receipt.position)
        return outcome, status in {200, 201, 422}

    async def _read_balance(self) -> None:
        account_id = self._chance.choice(sorted(self._seen) or self._load.accounts)
        query = {"accountId": account_id}
        headers = {}
        minimum = self._seen.get(account_id, 0) if self._chance.random() < 0.5 else 0
        if minimum:
            query["minPosition"], headers["Prefer"] = str(minimum), "wait=2"
        await self._read("/balances", query, headers, minimum)

    async def _read_statement(self) -> None:
        account_id = self._chance.choice(sorted(self._seen) or self._load.accounts)
        await self._read("/transactions", {"accountId": account_id, "limit": "20"}, {}, 0)

    async def _read(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str], minimum: int
    ) -> None:
        invoked_s = time.monotonic()
        try:
            async with self._session.get(
                f"{self._load.balance_url}{path}", params=query, headers=headers
            ) as answer:
                status, text = answer.status, await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            self._load.refused_reads += 1
            return
        if status != 200:
            # Behind, unavailable, or an account that has no event yet: no balance was shown.
            assert status in {404, 503}, text
            self._load.refused_reads += 1
            return
        read = _read_of(json.loads(text, parse_float=str))
        if read is not None:
            position, balance_minor, lines = read
            self._load.history.operations.append(
                Read(
                    client=self._number,
                    account_id=query["accountId"],
                    invoked_s=invoked_s,
                    completed_s=time.monotonic(),
                    position=position,
                    balance_minor=balance_minor,
                    min_position=minimum,
                    lines=lines,
                )
            )


def _request_of(intent: Intent) -> tuple[str, str]:
    value = f"{intent.amount_minor // 100}.{intent.amount_minor % 100:02d}"
    if intent.kind == "LIMIT":
        return f"/accounts/{intent.account_id}/limit", f'{{"overdraftLimit":{value}}}'
    body = {"accountId": intent.account_id, "type": intent.kind, "value": value}
    if not intent.keyed:
        body["description"] = intent.key
    return "/transactions", json.dumps(body)


def _receipt_of(content: Any) -> Receipt:  # noqa: ANN401 - JSON
    return Receipt(
        event_id=content["id"],
        position=content["position"],
        balance_minor=minor(content.get("balance", 0)),
        hash=content["hash"],
    )


def _read_of(content: Any) -> tuple[int, int, tuple[Line, ...]] | None:  # noqa: ANN401 - JSON
    """Position, balance and lines of an answer; None for a statement without a line."""
    if "transactions" not in content:
        return content["position"], minor(content["value"]), ()
    lines = tuple(
        Line(position=t["position"], event_id=t["id"], balance_minor=minor(t["balance"]))
        for t in content["transactions"]
    )
    return (lines[0].position, lines[0].balance_minor, lines) if lines else None


def minor(value: int | str) -> int:
    """The minor units of a JSON number of two digits or none."""
    whole, _, digits = str(value).partition(".")
    sign = -1 if whole.startswith("-") else 1
    return int(whole) * 100 + sign * int(digits or "0")
