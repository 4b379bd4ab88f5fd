"""Kafka's producer for the relay: confluent-kafka, with a thread of its own that polls.

The package's asyncio producer takes no headers; the plain one with a polling thread sends within a
fraction of a millisecond. Outcomes are gathered during a poll and reported to the loop together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from saldo.record.cloud_events import KafkaRecord
    from saldo.serve.settings import KafkaSettings

log = logging.getLogger(__name__)

POLL_S = 0.1
# How long what Kafka acknowledges gathers: each look takes the interpreter from the loop's thread,
# and nobody waits for it but the outbox's cleaning.
GATHER_S = 0.01
WARM_UP_S = 5.0


def producer_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return the client's configuration: all in-sync replicas acknowledge, no retry duplicates."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "saldo-record-transaction",
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 2,
        "delivery.timeout.ms": 8_000,
        "queue.buffering.max.messages": 50_000,
        "queue.buffering.max.kbytes": 65_536,
        # murmur2, as the Java client: the same account goes to the same partition from any client.
        "partitioner": "murmur2_random",
        "reconnect.backoff.max.ms": 1_000,
        "log_level": 2,
    }
    if settings.ca_file is not None:  # a cluster whose certificates are of an authority of its own
        config["ssl.ca.location"] = settings.ca_file
    if settings.security == "scram":
        config |= {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": settings.username,
            "sasl.password": settings.password,
        }
    elif settings.security == "msk-iam":
        config |= {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "OAUTHBEARER",
            "oauth_cb": lambda _: _msk_token(settings.region or ""),
        }
    return config


def _msk_token(region: str) -> tuple[str, float]:
    # Imported when used: botocore costs 31 MB. The signer gives milliseconds, librdkafka wants
    # seconds.
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider  # noqa: PLC0415

    token, expires_ms = MSKAuthTokenProvider.generate_auth_token(region)
    return token, expires_ms / 1000


class KafkaSender:
    """Sender, on a confluent-kafka producer."""

    def __init__(
        self,
        settings: KafkaSettings,
        delivered: Callable[[Sequence[tuple[str, int, bool]]], None],
    ) -> None:
        self._topic = settings.topic
        self._delivered = delivered
        self._loop = asyncio.get_running_loop()
        self._outcomes: deque[tuple[str, int, bool]] = deque()
        self._producer = Producer(producer_config(settings), logger=log)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-poll", daemon=True)
        self._thread.start()

    def send(self, record: KafkaRecord) -> bool:
        account_id = record.account_id
        try:
            self._producer.produce(
                self._topic,
                key=account_id,
                value=record.value,
                headers=record.headers,
                on_delivery=partial(self._on_delivery, account_id, record.position),
            )
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise ValueError("the record is larger than Kafka takes") from error
            return False
        return True

    def _on_delivery(
        self, account_id: str, position: int, error: KafkaError | None, _message: Message
    ) -> None:
        """Keep the outcome of one record. Runs on the polling thread."""
        self._outcomes.append((account_id, position, error is None))
        if error is not None:
            log.warning("Kafka did not take a record: %s", error.str())

    async def flush(self, timeout_s: float) -> None:
        await self._loop.run_in_executor(None, self._producer.flush, timeout_s)
        self._report()

    async def close(self) -> None:
        """Stop the polling thread. What is still unacknowledged stays in the outbox."""
        self._stopping.set()
        await self._loop.run_in_executor(None, self._thread.join, POLL_S * 10)

    def _poll(self) -> None:
        # Asks for the topic's partitions before the first record does: that one would wait for the
        # answer. A Kafka that is down is no reason not to start.
        with contextlib.suppress(KafkaException):
            self._producer.list_topics(self._topic, WARM_UP_S)
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)
            if self._outcomes:
                self._loop.call_soon_threadsafe(self._report)
                self._stopping.wait(GATHER_S)

    def _report(self) -> None:
        # The polling thread appends meanwhile: what comes after this count is the next report's.
        outcomes = [self._outcomes.popleft() for _ in range(len(self._outcomes))]
        if outcomes:
            self._delivered(outcomes)
