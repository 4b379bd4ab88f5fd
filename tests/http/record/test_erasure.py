"""Erasure of the private part of a transaction: the text is gone, the chain still verifies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from local import postgres
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support.live import fresh
from tests.support.servers import REQUEST_TIMEOUT_S, TOPIC_PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Serve
    from tests.support.servers import Database, Kafka

DEADLINE_S = 120.0

# Every column of every table, of any type and any migration.
TABLES = """
SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables
WHERE table_schema IN ('event_store', 'read_model') AND table_type = 'BASE TABLE'
"""


def tables_with(database: Database, text: str) -> set[str]:
    """Return the tables that hold ``text`` in any column, as text or as bytes."""
    tables = postgres.run_sql(database.dsn(), TABLES).split()
    assert len(tables) >= 8
    searches = (
        f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table} AS t WHERE t::text LIKE '%{form}%')"
        for table in tables
        for form in (text, text.encode().hex())
    )
    return set(postgres.run_sql(database.dsn(), " UNION ALL ".join(searches)).split())


def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline


def records_of(consumer: Consumer, account_id: str, count: int) -> list[Message]:
    """Return the first ``count`` Kafka records of an account."""
    found: list[Message] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records"
        message = consumer.poll(0.2)
        if message is not None and message.key() == account_id.encode():
            assert message.error() is None
            found.append(message)
    return found


def deliver(url: str, message: Message) -> None:
    """Post a Kafka record to the projector as KafkaSource does."""
    headers = {
        name.replace("ce_", "ce-"): value.decode()
        for name, value in dict(message.headers() or []).items()
        if isinstance(value, bytes)
    }
    assert (
        httpx.post(
            url, headers=headers, content=message.value(), timeout=REQUEST_TIMEOUT_S
        ).status_code
        == 200
    )


def test_erasure_removes_the_text_and_keeps_chain_and_key(
    database: Database, kafka: Kafka, topic: str, serve: Serve
) -> None:
    secret, account_id = secrets.token_hex(12), fresh()
    record = serve(RECORD, KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers, KAFKA_TOPIC=topic)
    project, reader = serve(PROJECT), serve(BALANCE)
    body: dict[str, Any] = {
        "accountId": account_id,
        "type": "INCOME",
        "value": 10,
        "description": f"for {secret}",
        "metadata": {"note": secret},
    }
    headers = {"Idempotency-Key": f"key-{secret}"}
    url = f"{record.url}/transactions"
    first = httpx.post(url, json=body, headers=headers, timeout=REQUEST_TIMEOUT_S).json()
    later = httpx.post(
        url, json=body | {"description": None, "metadata": None}, timeout=REQUEST_TIMEOUT_S
    ).json()
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": fresh("group")})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(TOPIC_PARTITIONS)])
    try:
        published = records_of(consumer, account_id, 2)
        for message in published:
            deliver(project.url, message)
        assert secret in str(published[0].value())
        # The test finds what it looks for, as long as it is there.
        assert tables_with(database, secret) == {"event_store.event", "read_model.statement"}

        path = f"{url}/{first['id']}"
        assert httpx.delete(f"{path}/private", timeout=REQUEST_TIMEOUT_S).status_code == 204
        [erased] = records_of(consumer, account_id, 1)
        deliver(project.url, erased)
    finally:
        consumer.close()

    assert secret not in str(erased.value())
    assert json.loads(erased.value() or b"")["private"] is None
    assert tables_with(database, secret) == set()
    statement = httpx.get(
        f"{reader.url}/transactions", params={"accountId": account_id}, timeout=REQUEST_TIMEOUT_S
    ).json()
    assert [line["description"] for line in statement["transactions"]] == [None, None]
    assert secret not in record.log() + project.log() + reader.log()

    # The chain verifies by the texts alone.
    page = httpx.get(f"{record.url}/accounts/{account_id}/events", timeout=REQUEST_TIMEOUT_S).json()
    chained = hashlib.sha256(account_id.encode()).digest()
    for event in page["events"]:
        chained = hashlib.sha256(chained + event["event"].encode()).digest()
        assert chained.hex() == event["hash"]
    assert page["events"][-1]["hash"] == later["hash"]

    # The key is remembered, the text is not; another request under it is still refused.
    again = httpx.post(url, json=body, headers=headers, timeout=REQUEST_TIMEOUT_S)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json() == first | {"description": None, "metadata": {}}
    assert (
        httpx.post(
            url, json=body | {"value": 11}, headers=headers, timeout=REQUEST_TIMEOUT_S
        ).status_code
        == 422
    )
    found = httpx.get(path, timeout=REQUEST_TIMEOUT_S).json()
    assert (found["erased"], found["description"]) == (True, None)
    # Once more is no fault, and erases nothing else.
    assert httpx.delete(f"{path}/private", timeout=REQUEST_TIMEOUT_S).status_code == 204


def test_sweep_erases_the_copy_when_kafka_lost_the_record(database: Database, serve: Serve) -> None:
    secret, account_id = secrets.token_hex(12), fresh()
    record = serve(RECORD)  # its Kafka is down
    serve(PROJECT)
    body: dict[str, Any] = {"accountId": account_id, "type": "INCOME", "value": 1}
    body |= {"description": secret, "metadata": {"note": secret}}
    posted = httpx.post(f"{record.url}/transactions", json=body, timeout=REQUEST_TIMEOUT_S).json()
    until(lambda: "read_model.statement" in tables_with(database, secret))
    httpx.delete(f"{record.url}/transactions/{posted['id']}/private", timeout=REQUEST_TIMEOUT_S)
    until(lambda: tables_with(database, secret) == set())


@pytest.mark.parametrize("delay_s", [0, 0.02])
async def test_every_erasure_reaches_the_topic(
    kafka: Kafka, topic: str, serve: Serve, delay_s: float
) -> None:
    """The record with the text is in flight, or its row is about to be deleted."""
    record = serve(RECORD, KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers, KAFKA_TOPIC=topic)
    url = f"{record.url}/transactions"
    waiting = {fresh() for _ in range(15)}
    async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S) as client:
        for account_id in waiting:
            body = {"accountId": account_id, "type": "INCOME", "value": 1, "description": "rent"}
            posted = (await client.post(url, json=body)).json()
            await asyncio.sleep(delay_s)
            erased = await client.delete(f"{url}/{posted['id']}/private")
            assert erased.status_code == 204
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": fresh("group")})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(TOPIC_PARTITIONS)])
    deadline = time.monotonic() + 120.0
    try:
        while waiting:
            assert time.monotonic() < deadline, f"{len(waiting)} of 15 did not come"
            message = consumer.poll(0.2)
            if message is not None and json.loads(message.value() or b"")["private"] is None:
                waiting.discard((message.key() or b"").decode())
    finally:
        consumer.close()
