"""The simulated Kafka, the relay's sender, and a KafkaSource that uses local/delivery.py."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

from local.knative.delivery import (
    Answer,
    Delivered,
    DeliveryOptions,
    GivenUp,
    OffsetLedger,
    Record,
    RetryAfter,
    SourceName,
    decide,
    event_from_record,
)
from tests.reliability.simulation.world import NoAnswer, Process, World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from saldo.record.cloud_events import KafkaRecord

TOPIC = "transactions"
PARTITIONS = 3
DELIVERY_TIMEOUT_S = 8.0
SOURCE = SourceName(namespace="default", name="transactions")
DELIVERY = DeliveryOptions(
    retry=2, backoff_policy="exponential", backoff_delay_ms=200, timeout_ms=10_000
)
IN_FLIGHT_MAX = 8
LOOK_S = 0.4
COMMIT_INTERVAL_S = 5.0


@dataclass(slots=True)
class Broker:
    """Partitions of records, and the offsets that the source's group has committed."""

    world: World
    partitions: list[list[Record]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    committed: list[int] = field(default_factory=lambda: [0] * PARTITIONS)

    def append(self, record: KafkaRecord) -> None:
        """Write it to its key's partition."""
        key = record.account_id.encode()
        partition = crc32(key) % PARTITIONS
        records = self.partitions[partition]
        headers = [(n, v.encode() if isinstance(v, str) else v) for n, v in record.headers]
        records.append(
            Record(
                topic=TOPIC,
                partition=partition,
                offset=len(records),
                timestamp_ms=1_700_000_000_000 + round(self.world.loop.time() * 1000),
                key=key,
                value=record.value,
                headers=headers,
            )
        )

    def texts(self) -> list[tuple[str, str]]:
        """Return event id and public text of every record."""
        found = []
        for records in self.partitions:
            for record in records:
                text = (record.value or b"").decode()
                ids = [value for name, value in record.headers if name == "ce_id"]
                public = text.removeprefix('{"event":').partition(',"private":')[0]
                found.append(((ids[0] or b"").decode(), public))
        return found


class Sender:
    """The relay's Sender: takes records, loses, doubles and reorders them on the way."""

    def __init__(
        self,
        broker: Broker,
        process: Process,
        delivered: Callable[[Sequence[tuple[str, int, bool]]], None],
    ) -> None:
        self._broker = broker
        self._world = broker.world
        self._process = process
        self._delivered = delivered
        self._unsettled = 0

    def send(self, record: KafkaRecord) -> bool:
        world = self._world
        if self._process.is_dead or world.happens(world.faults.sender_full):
            return False
        world.trace(f"{self._process.name} send {record.account_id} {record.position}")
        self._unsettled += 1
        world.loop.call_later(world.delay_s(), self._arrive, record)
        return True

    async def flush(self, timeout_s: float) -> None:
        await self._world.until(lambda: not self._unsettled, timeout_s, LOOK_S)

    def _arrive(self, record: KafkaRecord) -> None:
        # What was handed over may arrive after its process has died.
        world = self._world
        lost = world.kafka_is_down or world.happens(world.faults.send_lost)
        if lost:
            world.note("send-lost")
        else:
            self._broker.append(record)
            if world.happens(world.faults.send_doubled):
                world.note("send-doubled")
                self._broker.append(record)
        if not lost and world.happens(world.faults.acknowledgement_lost):
            world.note("acknowledgement-lost")
            lost = True
        delay_s = DELIVERY_TIMEOUT_S if lost else world.delay_s()
        world.loop.call_later(delay_s, self._settle, record, not lost)

    def _settle(self, record: KafkaRecord, acknowledged: bool) -> None:
        self._unsettled -= 1
        outcome = (record.account_id, record.position, acknowledged)
        self._process.call_soon(self._delivered, [outcome])


class Source:
    """One life of the KafkaSource: unordered, many in flight, from the last committed offsets."""

    def __init__(
        self,
        broker: Broker,
        process: Process,
        sink: Callable[[Mapping[str, str], object], Awaitable[int]],
        dead_letters: dict[tuple[int, int], None],
    ) -> None:
        self._broker = broker
        self._world = broker.world
        self._process = process
        self._sink = sink
        self._dead_letters = dead_letters
        self._ledgers = [OffsetLedger() for _ in range(PARTITIONS)]
        self._next = list(broker.committed)
        # What has an outcome; beyond it nothing may be committed.
        self._with_outcome: list[set[int]] = [set() for _ in range(PARTITIONS)]
        self._from = list(broker.committed)
        self._in_flight = 0
        self._newest_done = -1

    async def run(self) -> None:
        """Poll until the process ends."""
        commit_at_s = self._world.loop.time() + COMMIT_INTERVAL_S
        while True:
            await self._world.step("source poll")
            for partition in range(PARTITIONS):
                self._take(partition)
            if self._world.loop.time() >= commit_at_s:
                commit_at_s += COMMIT_INTERVAL_S
                self._commit()
            await asyncio.sleep(LOOK_S)

    def _take(self, partition: int) -> None:
        records = self._broker.partitions[partition]
        while (
            self._next[partition] < len(records)
            and self._in_flight < IN_FLIGHT_MAX
            and not self._world.kafka_is_down
        ):
            record = records[self._next[partition]]
            self._next[partition] += 1
            self._ledgers[partition].received(record.offset)
            if self._world.happens(self._world.faults.record_lost):
                self._world.note("record-lost", f"{partition} {record.offset}")
                self._has_outcome(record)
                continue
            self._in_flight += 1
            self._process.start(self._deliver(record))

    def _commit(self) -> None:
        if self._world.kafka_is_down:
            return
        for partition, ledger in enumerate(self._ledgers):
            offset = ledger.committable()
            if offset is None:
                continue
            unanswered = set(range(self._from[partition], offset)) - self._with_outcome[partition]
            if unanswered:
                self._world.note("committed-unanswered", f"{partition} {sorted(unanswered)}")
            self._broker.committed[partition] = offset
            ledger.committed(offset)
            self._world.note("offset-committed", f"{partition} {offset}")

    async def _deliver(self, record: Record) -> None:
        event = event_from_record(record, SOURCE)
        data = json.loads(event.body or b"null")
        place = (record.partition, record.offset)
        given_up = await self._attempt(event.attributes, data)
        if given_up is not None:
            if self._world.happens(self._world.faults.dead_letter_lost):
                self._world.note("dead-letter-lost", place)
            else:
                self._world.note("dead-letter", place)
                self._dead_letters[place] = None
        if record.offset < self._newest_done:
            self._world.note("delivered-out-of-order")
        self._newest_done = max(self._newest_done, record.offset)
        self._has_outcome(record)
        self._in_flight -= 1

    def _has_outcome(self, record: Record) -> None:
        self._with_outcome[record.partition].add(record.offset)
        self._ledgers[record.partition].done(record.offset)

    async def _attempt(self, attributes: Mapping[str, str], data: object) -> GivenUp | None:
        retries = 0
        while True:
            await self._world.step("source deliver")
            answer = None
            try:
                status = await self._sink(attributes, data)
                answer = Answer(status=status, headers=(), body=b"")
            except NoAnswer:
                self._world.note("delivery-unanswered")
            match decide(DELIVERY, retries, answer):
                case Delivered():
                    return None
                case GivenUp() as given_up:
                    return given_up
                case RetryAfter(delay_ms=delay_ms):
                    self._world.note("redelivered")
                    await asyncio.sleep(delay_ms / 1000)
                    retries += 1
