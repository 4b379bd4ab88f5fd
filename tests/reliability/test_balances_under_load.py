"""The whole system under load and under faults of Kafka: every balance equals its sum.

The quick form runs in `make test`, the long one (10,000 transactions) in `make check`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
from confluent_kafka import Consumer

from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support.sides import (
    NOTHING_IS_SWEPT,
    SWEEPS_AGAIN,
    Connection,
    check_event_store,
    check_read_model,
    connected,
    is_outbox_empty,
    is_projected,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from tests.support.stack import Stack

CONNECTIONS = 64
ACCOUNTS = 500
HOT_CONNECTIONS = 10
HOT = "hot"
WITHHELD = 0.05
DEADLINE_S = 120.0
LOOK_S = 0.1
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=120)
READ_TIMEOUT_S = 120.0
POLL_S = 0.5

SIZES = pytest.mark.parametrize(
    "transactions",
    [2_000, pytest.param(10_000, marks=pytest.mark.slow)],
)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(LOOK_S)


async def load(url: str, transactions: int) -> dict[str, int]:
    """Post so many over all accounts, a tenth more on one; what each account's sum must be."""
    chance = random.Random(11)
    sums: dict[str, int] = {}
    statuses: set[int] = set()

    def drawn(account_id: str) -> dict[str, object]:
        minor = chance.randint(1, 100_000)
        kind = chance.choice(["INCOME", "EXPENSE"])
        sums[account_id] = sums.get(account_id, 0) + (minor if kind == "INCOME" else -minor)
        value = f"{minor // 100}.{minor % 100:02d}"
        return {"accountId": account_id, "description": "load", "type": kind, "value": value}

    bodies = [drawn(f"account-{number % ACCOUNTS}") for number in range(transactions)]
    hot = [drawn(HOT) for _ in range(transactions // 10)]

    async def post_all(session: aiohttp.ClientSession, waiting: list[dict[str, object]]) -> None:
        while waiting:
            async with session.post(f"{url}/transactions", json=waiting.pop()) as answer:
                statuses.add(answer.status)
                await answer.read()

    connector = aiohttp.TCPConnector(limit=CONNECTIONS + HOT_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=REQUEST_TIMEOUT) as session:
        await asyncio.gather(
            *(post_all(session, bodies) for _ in range(CONNECTIONS)),
            *(post_all(session, hot) for _ in range(HOT_CONNECTIONS)),
        )
    assert statuses == {201}
    return sums


async def check_balances(url: str, sums: dict[str, int]) -> None:
    """Assert what a client sees of every account."""
    accounts = sorted(sums)
    async with aiohttp.ClientSession(timeout=REQUEST_TIMEOUT) as session:
        for start in range(0, len(accounts), 100):
            asked = accounts[start : start + 100]
            query = "&".join(f"accountId={account_id}" for account_id in asked)
            async with session.get(f"{url}/balances?{query}") as answer:
                # A number of two decimals is read back exactly by its text; one account is no list.
                body = json.loads(await answer.text(), parse_float=str)
            found = body.get("balances", [body])
            assert [(each["accountId"], minor(each["value"])) for each in found] == [
                (account_id, sums[account_id]) for account_id in asked
            ]


def minor(value: int | str) -> int:
    """Return the minor units of a JSON number of two digits or none."""
    whole, _, digits = str(value).partition(".")
    sign = -1 if whole.startswith("-") else 1
    return int(whole) * 100 + sign * int(digits or "0")


async def check_all(superuser: Connection, url: str, sums: dict[str, int]) -> None:
    await until(lambda: is_projected(superuser))
    await check_read_model(superuser)
    assert await superuser.fetchval("SELECT count(*) FROM read_model.dead_letter") == 0
    await check_balances(url, sums)


@SIZES
async def test_every_balance_equals_its_sum(stack: Stack, transactions: int) -> None:
    record, balance, project = (stack.serve(f) for f in (RECORD, BALANCE, PROJECT))
    stack.deliver(project)
    sums = await load(record.url, transactions)
    async with connected(stack.database.dsn()) as superuser:
        assert await check_event_store(superuser) == transactions + transactions // 10
        await until(lambda: is_outbox_empty(superuser))
        await check_all(superuser, balance.url, sums)


FORGET = """
TRUNCATE read_model.balance, read_model.statement, read_model.daily_total, read_model.dead_letter,
         read_model.sweep
"""


@SIZES
async def test_every_balance_equals_its_sum_whatever_kafka_does(
    stack: Stack, transactions: int
) -> None:
    """One load, projected three times from nothing: late, twice in any order, with records lost."""
    record, balance = stack.serve(RECORD), stack.serve(BALANCE)
    sums = await load(record.url, transactions)
    async with connected(stack.database.dsn()) as superuser:
        events = await check_event_store(superuser)
        await until(lambda: is_outbox_empty(superuser))

        # The projector starts only after the load.
        project = stack.serve(PROJECT)
        source = stack.deliver(project)
        await check_all(superuser, balance.url, sums)
        stack.stop(source)
        stack.stop(project.child)

        records = await asyncio.to_thread(read_topic, stack, events)
        chance = random.Random(5)

        # Every record comes twice, in any order. Without a sweep the deliveries alone must do it.
        await superuser.execute(FORGET)
        await superuser.execute(NOTHING_IS_SWEPT)
        project = stack.serve(PROJECT)
        twice = records * 2
        chance.shuffle(twice)
        assert await replay(project.url, twice) == {200}
        assert await is_projected(superuser)
        await check_all(superuser, balance.url, sums)
        stack.stop(project.child)

        # Some never come, whole accounts among them: the accounts' next events and the sweep.
        await superuser.execute(FORGET)
        await superuser.execute(SWEEPS_AGAIN)
        project = stack.serve(PROJECT)
        withheld = {f"account-{number}" for number in range(0, ACCOUNTS, 25)}
        kept = [
            each
            for each in records
            if each[0]["ce-subject"] not in withheld and chance.random() >= WITHHELD
        ]
        assert len(kept) < events
        assert await replay(project.url, kept) == {200}
        await check_all(superuser, balance.url, sums)


Delivery = tuple[dict[str, str], bytes]


def read_topic(stack: Stack, at_least: int) -> list[Delivery]:
    """Return every record of the topic as KafkaSource's request."""
    consumer = Consumer(
        {
            "bootstrap.servers": stack.kafka.bootstrap_servers,
            "group.id": f"replay-{stack.topic}",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([stack.topic])
    deliveries: list[Delivery] = []
    seen: set[str] = set()
    try:
        deadline = time.monotonic() + READ_TIMEOUT_S
        while len(seen) < at_least:
            assert time.monotonic() < deadline, f"{len(seen)} of {at_least} records came"
            for message in consumer.consume(1_000, POLL_S):
                assert message.error() is None
                headers: dict[str, str] = {}
                for name, text in dict(message.headers() or []).items():
                    assert isinstance(text, bytes)
                    headers[name.replace("ce_", "ce-")] = text.decode()
                seen.add(headers["ce-id"])
                deliveries.append((headers, message.value() or b""))
    finally:
        consumer.close()
    return deliveries


async def replay(url: str, deliveries: Iterable[Delivery]) -> set[int]:
    """Deliver all, as many at a time as KafkaSource does; the answers' statuses."""
    statuses: set[int] = set()
    waiting = iter(deliveries)

    async def deliver(session: aiohttp.ClientSession) -> None:
        for headers, body in waiting:
            async with session.post(f"{url}/", headers=headers, data=body) as answer:
                statuses.add(answer.status)
                await answer.read()

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=REQUEST_TIMEOUT) as session:
        await asyncio.gather(*(deliver(session) for _ in range(CONNECTIONS)))
    return statuses
