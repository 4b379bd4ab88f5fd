"""The bookkeeping of the relay: acknowledged rows leave the outbox, refused ones are counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from saldo.record.relay import Relay
from tests.support.controls import income, stored_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saldo.record.cloud_events import KafkaRecord
    from saldo.record.intent import StoredEvent


class Rows:
    """An outbox that keeps what it was told to delete."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, int, bool]] = []
        self.done = asyncio.Event()

    async def claim(self) -> list[StoredEvent]:
        return []

    async def acknowledge(self, sent: Sequence[tuple[str, int, bool]]) -> None:
        self.deleted += sent
        self.done.set()

    async def note_sweep(self, found: int) -> None:
        raise NotImplementedError


class Taken:
    """A sender that takes everything and says nothing."""

    def send(self, record: KafkaRecord) -> bool:
        return bool(record.value)

    async def flush(self, timeout_s: float) -> None:
        raise NotImplementedError


async def test_a_record_refused_by_kafka_stays_and_is_counted() -> None:
    rows = Rows()
    relay = Relay(rows, asyncio.sleep)
    relay.use(Taken())
    events = stored_stream(income("1"), income("2", "b"), income("3", "c"), income("4", "d"))
    relay.send_committed(events)
    assert (relay.sent, relay.in_flight) == (4, 4)
    relay.delivered([("wesley", 1, True), ("b", 1, False), ("d", 1, True)])
    assert (relay.acknowledged, relay.failed, relay.in_flight) == (2, 1, 1)
    async with asyncio.timeout(120):
        await rows.done.wait()
    assert rows.deleted == [("d", 1, False), ("wesley", 1, False)]
