"""A Kafka of this test's own, which may be killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer

from local import processes
from local.broker import Broker, BrokerError, create_topic, start_kafka

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 120.0
DAY_MS = 24 * 60 * 60 * 1000


def consumed(broker: Broker) -> bytes | None:
    """The first record of the topic."""
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


@pytest.mark.slow
def test_a_killed_broker_goes_on_with_its_records_on_other_ports(tmp_path: Path) -> None:
    """An unclean end loses nothing that Kafka acknowledged; `stop` ends it in order."""
    broker = start_kafka(tmp_path, processes.free_port())
    try:
        create_topic(broker.bootstrap_servers, "t", 2, DAY_MS)
        for there_already in (2, 1):
            create_topic(broker.bootstrap_servers, "t", there_already, DAY_MS)
        with pytest.raises(BrokerError, match="has 2 partitions, not 3"):
            create_topic(broker.bootstrap_servers, "t", 3, DAY_MS)
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
