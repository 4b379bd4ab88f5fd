"""The outbox and the relay: every committed event reaches Kafka, and no 201 waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, Message
from msgspec.structs import replace

from saldo.record.cloud_events import kafka_record
from saldo.record.kafka import KafkaSender
from saldo.record.postgres import CLAIM_ROWS_MAX, PostgresOutbox
from saldo.record.relay import Relay
from saldo.serve.settings import KafkaSettings
from tests.support.controls import ACCOUNT, income, limit
from tests.support.servers import NO_KAFKA
from tests.support.sides import Connection, Writer, age_outbox, is_outbox_empty, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from saldo.record.cloud_events import KafkaRecord
    from tests.support.servers import Kafka

POLL_S = 0.1
READ_TIMEOUT_S = 120.0


def read_topic(kafka: Kafka, topic: str, count: int) -> list[Message]:
    """Return the first ``count`` records of ``topic``, of all its partitions."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": topic,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    messages: list[Message] = []
    try:
        while len(messages) < count:
            message = consumer.poll(READ_TIMEOUT_S)
            assert message is not None, f"{len(messages)} of {count} records came"
            assert message.error() is None
            messages.append(message)
        assert consumer.poll(POLL_S) is None
    finally:
        consumer.close()
    return messages


@contextlib.asynccontextmanager
async def relay_to(bootstrap: str, topic: str, writer: Writer) -> AsyncIterator[Relay]:
    relay = Relay(writer.outbox, asyncio.sleep)
    settings = KafkaSettings(
        bootstrap_servers=bootstrap,
        topic=topic,
        security="plaintext",
        username=None,
        password=None,
        region=None,
    )
    sender = KafkaSender(settings, relay.delivered)
    relay.use(sender)
    try:
        yield relay
    finally:
        await sender.close()


async def test_a_committed_row_is_sent_with_headers_and_deleted(
    kafka: Kafka, topic: str, writer: Writer, superuser: Connection
) -> None:
    stored = await writer.record(income("1", description="é"), income("2", "b"), limit("5"))
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    async with relay_to(kafka.bootstrap_servers, topic, writer) as relay:
        relay.send_committed([replace(stored[0], traceparent=trace), *stored[1:]])
        await until(lambda: is_outbox_empty(superuser))
    messages = {_place(m): m for m in await asyncio.to_thread(read_topic, kafka, topic, 3)}
    for event, traceparent in zip(stored, [trace, None, None], strict=True):
        message = messages[event.account_id, event.position]
        record = kafka_record(event, traceparent)
        assert message.key() == event.account_id.encode()
        assert message.value() == record.value
        assert message.headers() == [(name, _bytes(text)) for name, text in record.headers]
    partitions = {m.key(): m.partition() for m in messages.values()}
    assert all(partitions[m.key()] == m.partition() for m in messages.values())
    data = json.loads(messages[ACCOUNT, 1].value() or b"")
    assert data["event"]["amountMinor"] == 100
    assert data["private"]["description"] == "é"


def _place(message: Message) -> tuple[str, int]:
    headers = dict(message.headers() or [])
    return (message.key() or b"").decode(), int(headers["ce_sequence"] or b"0")


def _bytes(text: str | bytes | None) -> bytes:
    assert isinstance(text, str)
    return text.encode()


async def test_rows_left_by_a_crash_are_sent_by_the_sweep(
    kafka: Kafka, topic: str, writer: Writer, superuser: Connection
) -> None:
    """The process that recorded them ended right after its commit."""
    await writer.record(*[income("1", f"a{number}") for number in range(CLAIM_ROWS_MAX + 7)])
    await age_outbox(superuser)
    async with relay_to(kafka.bootstrap_servers, topic, writer) as relay:
        assert await relay.sweep() == CLAIM_ROWS_MAX + 7
        await until(lambda: is_outbox_empty(superuser))
        assert await relay.sweep() == 0
    messages = await asyncio.to_thread(read_topic, kafka, topic, CLAIM_ROWS_MAX + 7)
    assert len({_place(message) for message in messages}) == CLAIM_ROWS_MAX + 7


async def test_young_rows_belong_to_the_relay_that_wrote_them(
    writer: Writer, superuser: Connection
) -> None:
    await writer.record(income("1"))
    assert await writer.outbox.claim() == []
    await age_outbox(superuser)
    assert [row.position for row in await writer.outbox.claim()] == [1]


async def test_a_row_committed_late_is_swept(writer: Writer, superuser: Connection) -> None:
    """It is stamped before its commit, when younger rows have been swept already."""
    await writer.record(income("1", "late"))
    await superuser.execute("DELETE FROM event_store.outbox")
    late = await writer.append_uncommitted(income("2", "late"))
    await writer.record(income("1", "soon"))
    await age_outbox(superuser)
    assert [row.account_id for row in await writer.outbox.claim()] == ["soon"]
    await late.commit()
    await superuser.execute(
        "UPDATE event_store.outbox SET appended_at = appended_at - interval '1 hour'"
        " WHERE account_id = 'late'"
    )
    assert [row.account_id for row in await writer.outbox.claim()] == ["late"]


async def test_a_claim_skips_claimed_rows_and_expires(
    writer: Writer, superuser: Connection
) -> None:
    await writer.record(*[income("1")] * 6)
    await age_outbox(superuser)
    async with superuser.transaction():
        await superuser.execute("SELECT FROM event_store.outbox WHERE position <= 2 FOR UPDATE")
        async with asyncio.timeout(READ_TIMEOUT_S):
            claimed = await writer.outbox.claim()
    assert [row.position for row in claimed] == [3, 4, 5, 6]
    assert [row.position for row in await writer.outbox.claim()] == [1, 2]
    assert await writer.outbox.claim() == []
    await age_outbox(superuser)
    assert len(await writer.outbox.claim()) == 6


async def test_two_sweeps_divide_the_rows(writer: Writer, superuser: Connection) -> None:
    await writer.record(*[income("1", f"a{number}") for number in range(CLAIM_ROWS_MAX * 2)])
    await age_outbox(superuser)
    claims = await asyncio.gather(writer.outbox.claim(), writer.outbox.claim())
    rows = [(row.account_id, row.position) for claim in claims for row in claim]
    assert len(rows) == len(set(rows))


class Full:
    """A sender that takes so many records and then no more, and acknowledges none."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.offered = 0

    def send(self, record: KafkaRecord) -> bool:
        assert record.value
        self.offered += 1
        return self.offered <= self.takes

    async def flush(self, timeout_s: float) -> None:
        assert timeout_s > 0


async def test_a_full_sender_ends_the_sweep(writer: Writer, superuser: Connection) -> None:
    """Going on would claim the whole outbox, and keep every other sweep from it."""
    await writer.record(*[income("1", f"a{number}") for number in range(CLAIM_ROWS_MAX + 50)])
    await age_outbox(superuser)
    relay, full = Relay(writer.outbox, asyncio.sleep), Full(takes=0)
    relay.use(full)
    assert await relay.sweep() == 0
    claimed = await superuser.fetchval(
        "SELECT count(*) FROM event_store.outbox WHERE claimed_until IS NOT NULL"
    )
    assert (claimed, full.offered) == (CLAIM_ROWS_MAX, 1)


class Keeping(Full):
    """A sender that keeps what it was handed; the test says when Kafka acknowledges."""

    def __init__(self) -> None:
        super().__init__(takes=10_000)
        self.sent: list[KafkaRecord] = []

    def send(self, record: KafkaRecord) -> bool:
        self.sent.append(record)
        return super().send(record)


async def test_an_erasure_is_sent_while_its_row_is_in_flight(
    writer: Writer, superuser: Connection
) -> None:
    """The acknowledgement of the record with the text must not delete the row without it."""
    [stored] = await writer.record(income("1", description="rent"))
    relay, sender = Relay(writer.outbox, asyncio.sleep), Keeping()
    relay.use(sender)
    relay.send_committed([stored])
    await writer.events.erase_private(ACCOUNT, 1)
    relay.delivered([(ACCOUNT, 1, True)])
    await relay.drain()
    await age_outbox(superuser)
    sweep = asyncio.create_task(relay.sweep())

    async def is_sent_again() -> bool:
        return len(sender.sent) == 2

    await until(is_sent_again)
    assert [b"rent" in record.value for record in sender.sent] == [True, False]
    relay.delivered([(ACCOUNT, 1, True)])
    assert await sweep == 1
    await until(lambda: is_outbox_empty(superuser))


async def test_unsendable_rows_of_an_account_delay_no_other(
    kafka: Kafka, topic: str, writer: Writer, superuser: Connection
) -> None:
    """More of each kind than one claim holds, and all of them older than the others' rows."""
    many = CLAIM_ROWS_MAX + 1
    await writer.record(*[income("1", "damaged")] * many, *[income("1", "large")] * 3)
    await superuser.execute(
        "UPDATE event_store.event SET public_text = '[' WHERE account_id = 'damaged'"
    )
    await superuser.execute(
        "UPDATE event_store.event SET private_text = repeat('x', 1200000)"
        " WHERE account_id = 'large'"
    )
    await superuser.execute(
        "INSERT INTO event_store.outbox (account_id, position)"
        " SELECT 'gone', n FROM generate_series(1, $1) AS n",
        many,
    )
    await superuser.execute(
        "UPDATE event_store.outbox SET appended_at = appended_at - interval '1 hour'"
    )
    await writer.record(income("1", "a"), income("1", "c"))
    await superuser.execute(
        "WITH moved AS (UPDATE event_store.event SET account_id = 'a,c' WHERE account_id = 'c')"
        " UPDATE event_store.outbox SET account_id = 'a,c' WHERE account_id = 'c'"
    )
    await age_outbox(superuser)
    async with relay_to(kafka.bootstrap_servers, topic, writer) as relay:
        assert await relay.sweep() == 1
    [message] = await asyncio.to_thread(read_topic, kafka, topic, 1)
    assert message.key() == b"a"


async def test_an_unencodable_row_delays_no_other(
    kafka: Kafka, topic: str, writer: Writer, superuser: Connection
) -> None:
    """It stays, so that `saldo verify` and the outbox's age tell of it; the others are sent."""
    await writer.record(income("1", "a"), income("1", "b"), income("1", "c"))
    damage = "UPDATE event_store.event SET public_text = $2 WHERE account_id = $1"
    await superuser.execute(damage, "b", '{"schema":99}')
    await age_outbox(superuser)
    async with relay_to(kafka.bootstrap_servers, topic, writer) as relay:
        assert await relay.sweep() == 2
        messages = await asyncio.to_thread(read_topic, kafka, topic, 2)
        assert {message.key() for message in messages} == {b"a", b"c"}

        async def is_alone() -> bool:
            rows = await superuser.fetch("SELECT account_id FROM event_store.outbox")
            return [row["account_id"] for row in rows] == ["b"]

        await until(is_alone)


async def test_other_rows_in_flight_do_not_delay_the_sweep(
    writer: Writer, superuser: Connection
) -> None:
    """Under load something always is: a backlog must not wait for a moment of silence."""

    class AllButTheFirst(Full):
        def send(self, record: KafkaRecord) -> bool:
            taken = super().send(record)
            if self.offered > 1:
                asyncio.get_running_loop().call_soon(
                    relay.delivered, [(record.account_id, record.position, True)]
                )
            return taken

    [live] = await writer.record(income("1", "live"))
    await writer.record(*[income("1", f"a{number}") for number in range(CLAIM_ROWS_MAX + 50)])
    relay = Relay(writer.outbox, asyncio.sleep)
    relay.use(AllButTheFirst(takes=10_000))
    relay.send_committed([live])
    await age_outbox(superuser)
    # Had it waited for the first, it would have stopped after its first round.
    assert await relay.sweep() == CLAIM_ROWS_MAX + 50
    assert relay.in_flight == 1


async def test_an_unreachable_kafka_delays_no_request(
    writer: Writer, superuser: Connection
) -> None:
    stored = await writer.record(*[income("1")] * 50)
    async with relay_to(NO_KAFKA, "transactions", writer) as relay:
        relay.send_committed(stored)
        assert [e.position for e in await writer.record(income("1"))] == [51]
        # Kafka's client gives a record up after 8 s: had anybody waited, these had failed.
        assert (relay.in_flight, relay.failed) == (50, 0)
    assert await superuser.fetchval("SELECT count(*) FROM event_store.outbox") == 51


async def test_a_refused_record_and_later_ones_wait_for_the_sweep(writer: Writer) -> None:
    stored = await writer.record(*[income("1")] * 5)
    relay, full = Relay(writer.outbox, asyncio.sleep), Full(takes=2)
    relay.use(full)
    relay.send_committed(stored)
    assert (relay.in_flight, full.offered) == (2, 3)


async def test_rows_that_could_not_be_deleted_are_sent_again(
    writer: Writer, superuser: Connection
) -> None:
    """A lost acknowledgement costs a duplicate, never a record."""

    class AtOnce(Full):
        def send(self, record: KafkaRecord) -> bool:
            asyncio.get_running_loop().call_soon(
                relay.delivered, [(record.account_id, record.position, True)]
            )
            return super().send(record)

    class Failing(PostgresOutbox):
        failures = 1

        async def acknowledge(self, sent: Sequence[tuple[str, int, bool]]) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError("gone")
            await super().acknowledge(sent)

    stored = await writer.record(income("1"))
    outbox = Failing(writer.pool)
    relay, sender = Relay(outbox, asyncio.sleep), AtOnce(takes=9)
    relay.use(sender)
    relay.send_committed(stored)

    async def failed() -> bool:
        return outbox.failures == 0

    await until(failed)
    assert not await is_outbox_empty(superuser)
    await age_outbox(superuser)
    assert await relay.sweep() == 1
    await until(lambda: is_outbox_empty(superuser))
    assert sender.offered == 2
