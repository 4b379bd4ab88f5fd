"""The local Kafka broker, which these tests may kill."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from local import processes
from local.broker import Broker, BrokerError, _wait_until_ready, create_topic, start_kafka

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Kafka

DEADLINE_S = 120.0
DAY_MS = 24 * 60 * 60 * 1000


def consumed(broker: Broker) -> bytes | None:
    """Return the first record of the topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "g",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe(["t"])
        message = consumer.poll(DEADLINE_S)
        return None if message is None else message.value()
    finally:
        consumer.close()


def test_missing_partitions_are_added_to_a_topic(kafka: Kafka) -> None:
    """And it is said: `make up` on the data of an earlier version."""
    name, words = f"small-{secrets.token_hex(6)}", list[str]()
    for partitions in (1, 3, 2):
        create_topic(kafka.bootstrap_servers, name, partitions, DAY_MS, progress=words.append)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    assert len(admin.list_topics(name, timeout=DEADLINE_S).topics[name].partitions) == 3
    assert words == [f"topic {name} has 1 of 3 partitions: adding the others"]


@pytest.mark.parametrize("days", [-400, 400])
def test_a_record_is_accepted_with_any_producer_clock(kafka: Kafka, days: int) -> None:
    """Kafka refuses what is an hour ahead, where it goes by the producer's clock."""
    name = f"clock-{secrets.token_hex(6)}"
    create_topic(kafka.bootstrap_servers, name, 1, DAY_MS, progress=list[str]().append)
    errors: list[object] = []
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    stamp_ms = int(time.time() * 1_000) + days * DAY_MS
    producer.produce(name, b"v", timestamp=stamp_ms, on_delivery=lambda e, _: errors.append(e))
    assert producer.flush(DEADLINE_S) == 0
    assert errors == [None]


def test_a_foreign_kafka_does_not_make_a_broker_ready(kafka: Kafka, tmp_path: Path) -> None:
    """One that lost its port to it ends a moment later, and would have been taken for ready."""
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    log = tmp_path / "kafka.log"
    log.write_text("Address already in use\n")
    lost = Broker(
        bootstrap_servers=kafka.bootstrap_servers, pid=process.pid, log_path=log, process=process
    )
    try:
        with pytest.raises(BrokerError, match="ended while it started: Address already in use"):
            _wait_until_ready(lost, DEADLINE_S)
    finally:
        process.wait(DEADLINE_S)


@pytest.mark.slow
def test_a_killed_broker_restarts_with_its_records(tmp_path: Path) -> None:
    """An unclean end loses nothing that Kafka acknowledged; `stop` ends it in order."""
    broker = start_kafka(tmp_path, processes.free_port())
    try:
        create_topic(broker.bootstrap_servers, "t", 2, DAY_MS)
        for there_already in (2, 1):
            create_topic(broker.bootstrap_servers, "t", there_already, DAY_MS)
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        producer.produce("t", b"kept")
        assert producer.flush(DEADLINE_S) == 0
    finally:
        broker.kill()

    broker = start_kafka(tmp_path, processes.free_port())
    try:
        assert consumed(broker) == b"kept"
    finally:
        broker.stop()
    assert broker.process.poll() is not None
