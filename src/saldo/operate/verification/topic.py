"""Verifying the topic: it holds every committed event that it must still hold, and nothing else.

An event whose outbox row is gone was acknowledged, so it is below the topic's end as read after the
snapshot. A record may be of an event that came after the snapshot: the store is read again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from saldo.operate.settings import connected, kafka_client_config
from saldo.operate.verification.findings import NO_EVENT, Fault
from saldo.operate.verification.other_tables import TEXTS
from saldo.serve.clock import store_now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import asyncpg

    from saldo.serve.settings import KafkaSettings

TIMEOUT_S = 10.0
BATCH_RECORDS = 2_000
# A record is as old as the segment that it is in says; near the border it may just have gone.
RETENTION_MARGIN = timedelta(minutes=5)
FAULTS_MAX = 1_000
FOR_EVER = timedelta(days=20_000)
_TEXT_START = b'{"event":'
_TEXT_END = b',"private":'

# Rows still in the outbox may or may not have been sent.
COMMITTED = """
SELECT e.account_id, e.position FROM event_store.event AS e
WHERE e.appended_at > $1 AND NOT EXISTS (
    SELECT FROM event_store.outbox AS o
    WHERE o.account_id = e.account_id AND o.position = e.position)
"""


@dataclass(slots=True)
class TopicReport:
    """The result of the walk over the topic."""

    records: int = 0
    repeated: int = 0
    lost_to_restore: int = 0
    faults: list[Fault] = field(default_factory=list)


class _Seen(dict[str, bytearray]):
    """The positions of each account that are on the topic, one byte each."""

    def add(self, account_id: str, position: int) -> bool:
        """Note one; return whether it is new."""
        held = self.setdefault(account_id, bytearray())
        held.extend(bytes(max(0, position + 1 - len(held))))
        is_new = not held[position]
        held[position] = 1
        return is_new

    def has(self, account_id: str, position: int) -> bool:
        """Return whether it was noted."""
        return any(self.get(account_id, b"")[position : position + 1])


async def check_topic(
    snapshot: asyncpg.Connection[asyncpg.Record],
    event_store_url: str,
    kafka: KafkaSettings,
    progress: Callable[[int, int], None],
    restored_at: datetime | None,
) -> TopicReport:
    """Walk the topic once. Records before `restored_at` may be of events that a restore lost."""
    report, seen = TopicReport(), _Seen()
    config = kafka_client_config(kafka)
    retention = await asyncio.to_thread(_retention, config, kafka.topic)
    consumer = Consumer({**config, "group.id": "saldo-verify", "enable.auto.commit": False})
    try:
        async with connected(event_store_url) as fresh:
            ends = await asyncio.to_thread(_assign, consumer, kafka.topic)
            total = sum(ends.values())
            while ends:
                messages = await asyncio.to_thread(consumer.consume, BATCH_RECORDS, 1.0)
                await _check_records(messages, fresh, seen, report, restored_at)
                for message in messages:
                    partition, offset = message.partition(), message.offset()
                    if offset is not None and partition in ends and offset + 1 >= ends[partition]:
                        del ends[partition]
                progress(report.records, max(total, report.records))
            since = await store_now(fresh) - retention + RETENTION_MARGIN
        async for row in snapshot.cursor(COMMITTED, since, prefetch=BATCH_RECORDS):
            if not seen.has(row["account_id"], row["position"]):
                _fault(report, row["account_id"], row["position"], "position", "it is missing")
    finally:
        await asyncio.to_thread(consumer.close)
    return report


def _retention(config: dict[str, Any], topic: str) -> timedelta:
    """Return how long the topic keeps records."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = AdminClient(config)  # named, or it would be closed before it has answered
    futures = admin.describe_configs([resource], request_timeout=TIMEOUT_S)
    retention_ms = int(futures[resource].result(TIMEOUT_S)["retention.ms"].value)
    # -1 is for ever.
    return timedelta(milliseconds=retention_ms) if retention_ms >= 0 else FOR_EVER


def _assign(consumer: Consumer, topic: str) -> dict[int, int]:
    """Read all partitions from their beginning; return each one's end, where it has a record."""
    metadata = consumer.list_topics(topic, TIMEOUT_S).topics[topic]
    if metadata.error is not None:
        raise KafkaException(metadata.error)
    ends, assigned = {}, []
    for partition in metadata.partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), TIMEOUT_S)
        if high > low:
            ends[partition] = high
            assigned.append(TopicPartition(topic, partition, low))
    consumer.assign(assigned)
    return ends


async def _check_records(
    messages: Sequence[Message],
    store: asyncpg.Connection[asyncpg.Record],
    seen: _Seen,
    report: TopicReport,
    restored_at: datetime | None,
) -> None:
    records: list[tuple[str, int, bytes, Message]] = []
    for message in messages:
        if message.error() is not None:
            raise KafkaException(message.error())
        report.records += 1
        account_id = (message.key() or b"").decode("utf-8", "replace")
        headers = dict(message.headers() or ())
        sequence = headers.get("ce_sequence") or b""
        value = message.value() or b""
        # The public text has no such member, so its end is the first; the private text may.
        text = value[len(_TEXT_START) : max(0, value.find(_TEXT_END))]
        if not sequence.isdigit() or headers.get("ce_subject") != message.key():
            _fault(report, account_id or None, None, "headers", "it is not a record of Saldo")
            continue
        records.append((account_id, int(sequence), text, message))
    rows = await store.fetch(TEXTS, [r[0] for r in records], [r[1] for r in records])
    stored = {(row["account_id"], row["position"]): row["public_text"].encode() for row in rows}
    for account_id, position, text, message in records:
        held = stored.get((account_id, position))
        if held == text:
            report.repeated += not seen.add(account_id, position)
            continue
        _, timestamp_ms = message.timestamp()
        if restored_at is not None and timestamp_ms < restored_at.timestamp() * 1000:
            report.lost_to_restore += 1
            continue
        reason = NO_EVENT if held is None else "the store has another event"
        _fault(report, account_id, position, "value", reason)


def _fault(
    report: TopicReport, account_id: str | None, position: int | None, column: str, reason: str
) -> None:
    if len(report.faults) < FAULTS_MAX:
        report.faults.append(Fault("topic", column, reason, account_id, position))
