"""The KafkaSource of the local stack: delivers a topic's records to a sink as Knative's does.

Held against Knative's documentation, point by point (what a record, an answer and a failure mean is
in `delivery.py`, which does no I/O):

=====================================  ============================================================
one POST a record, never a batch       `_Deliveries._attempt`
ordering: ordered                      one request in flight a partition: `_Deliveries._work_off`
ordering: unordered                    50 to 99 in flight a consumer, for any keys:
                                       `_Intake._overfull`
retry, backoffPolicy, backoffDelay     `_Deliveries._send`, for the dead letter sink too
timeout                                of one request, from connecting to the answer's end
deadLetterSink                         `_Deliveries._dispatch`; without one, or when it fails too,
                                       the record is dropped and its offset committed
offsets                                committed every 5 s, contiguous, only after the outcome
rebalance                              records still queued are forgotten, what is answered is
                                       committed, what is in flight is finished but not committed:
                                       the next owner delivers it again
crash                                  everything since the last commit is delivered again
consumers                              as many members of the group, each with its own bounds
initialOffset                          where a group without a commit begins; Knative's own default
                                       is `latest`
sink.audience                          `Authorization: Bearer`, from a file here
=====================================  ============================================================

Not here: SASL and TLS to Kafka, CloudEvent overrides, key types other than text, autoscaling.

A consumer has a thread, since the Kafka client blocks; every request runs on the one event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import gc
import json
import logging
import random
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import uvloop
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from local.knative.delivery import (
    DELIVERY_DEFAULT,
    DELIVERY_UNSAID,
    Delivered,
    DeliveryOptions,
    GivenUp,
    OffsetLedger,
    Record,
    RetryAfter,
    SourceName,
    Target,
    UnsendableEvent,
    child_traceparent,
    dead_letter,
    decide,
    event_from_record,
    parse_duration_ms,
    parse_target,
    request_head,
)
from local.knative.sink_client import NoAnswer, SinkClient

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from local.knative.delivery import Answer, Event, RecordHeader

log = logging.getLogger("local.knative.kafka_source")

# The dispatcher's `max.poll.records`. Unordered, it polls whenever fewer are in flight, and takes
# up to as many again: 50 to 99 in flight.
POLL_RECORDS_MAX = 50
COMMIT_INTERVAL_S = 5.0
SESSION_TIMEOUT_MS_DEFAULT = 10_000

# A partition is paused while this many of its records are open (received and not committable yet),
# and goes on at half of it. Ordered, they wait in a queue. Unordered, most of them are answered and
# wait for a slow one before them, at a hundred bytes each.
ORDERED_OPEN_MAX = 1000
UNORDERED_OPEN_MAX = 250_000

# How long the consumer's thread waits: for a record; for one when a partition may have to be
# resumed; for room in flight, before it looks after its membership in the group.
POLL_S = 0.1
POLL_PAUSED_S = 0.01
ROOM_WAIT_S = 1.0  # short: it is waited for again

# SIGTERM: requests in flight are waited for this long; a record in backoff is for the next start.
DRAIN_S_MAX = 10.0
# Then the last commit and the group's leave; Kafka may be gone already.
LEAVE_S_MAX = 5.0
TOKEN_CHECK_S = 1.0

# A delivery leaves the garbage collector next to nothing, and a collection stops every request.
GC_ALLOCATIONS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One KafkaSource: its spec, and where Kafka is."""

    bootstrap: str
    topic: str
    group: str
    source: SourceName
    sink: Target
    dead_letter_sink: Target | None
    ordering: Literal["ordered", "unordered"]
    delivery: DeliveryOptions
    initial_offset: Literal["earliest", "latest"]
    consumers: int
    session_timeout_ms: int
    token: TokenFile | None


class SourceError(Exception):
    """The source cannot start or go on; the message is one line for a person."""


# --- deliveries: on the event loop ------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class _Lane:
    """One partition, from its assignment to its revocation. Assigned again, it is another lane.

    `ledger` is used by both threads, under the intake's lock; `queue` and `worker` by the loop.
    """

    intake: _Intake
    partition: int
    ledger: OffsetLedger = field(default_factory=OffsetLedger)
    revoked: bool = False
    queue: deque[Record] = field(default_factory=deque)
    worker: asyncio.Task[None] | None = None


class _Deliveries:
    """What happens to records once they are consumed. All of it runs on the event loop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._ordered = options.ordering == "ordered"
        self._sink = SinkClient(options.sink)
        dead_letter_sink = options.dead_letter_sink
        self._dead_letter_sink = SinkClient(dead_letter_sink) if dead_letter_sink else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._backing_off: set[asyncio.Task[Any]] = set()
        self._closing = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def accept(self, batch: Sequence[tuple[_Lane, Record]]) -> None:
        """Take consumed records over from an intake's thread (called on the loop)."""
        for lane, record in batch:
            if self._closing:
                lane.intake.left(lane, record, done=False)
            elif not self._ordered:
                self._start(self._deliver(lane, record))
            else:
                lane.queue.append(record)
                if lane.worker is None:
                    lane.worker = self._start(self._work_off(lane))

    async def close(self) -> None:
        """Wait for the requests in flight; give up the rest."""
        self._closing = True
        log.info("stopping, %d records in flight", len(self._tasks))
        for task in self._backing_off:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(tuple(self._tasks), timeout=DRAIN_S_MAX)
            for task in late:
                task.cancel()
            if late:
                log.warning("%d requests were not answered in time to stop", len(late))
                await asyncio.wait(late)
        await self._sink.close()
        if self._dead_letter_sink is not None:
            await self._dead_letter_sink.close()

    def fail(self, error: BaseException) -> None:
        """End the process: an error that nothing here expects must not pass for an outcome."""
        if not self.failed.done():
            self.failed.set_exception(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def _work_off(self, lane: _Lane) -> None:
        """Send a partition's records in order, each after the outcome of the one before."""
        while lane.queue and not lane.revoked and not self._closing:
            await self._deliver(lane, lane.queue.popleft())
        lane.worker = None

    async def _deliver(self, lane: _Lane, record: Record) -> None:
        done = False
        try:
            await self._dispatch(record)
            done = True
        finally:
            # Cancelled (the source stops) is no outcome: such a record is delivered again.
            lane.intake.left(lane, record, done=done)

    async def _dispatch(self, record: Record) -> None:
        """Deliver a record to the sink, else to the dead letter sink, else drop it."""
        event = event_from_record(record, self._options.source)
        try:
            given_up = await self._send(self._sink, self._options.sink, event, record)
            if given_up is None:
                return
            why = given_up.answer.status if given_up.answer else "no answer"
            where = f"{record.topic} partition {record.partition} offset {record.offset}"
            if self._dead_letter_sink is None or self._options.dead_letter_sink is None:
                log.warning("dropped %s (%s): there is no dead letter sink", where, why)
                return
            letter = dead_letter(event, self._options.sink, given_up.answer)
            failed = await self._send(
                self._dead_letter_sink, self._options.dead_letter_sink, letter, record
            )
        except UnsendableEvent as error:
            # The real one tries such a request as often as any other, in vain.
            log.warning("dropped: %s cannot be an HTTP header", error)
            return
        if failed is None:
            log.info("dead letter: %s (%s)", where, why)
        else:
            log.warning("dropped %s (%s): the dead letter sink failed too", where, why)

    async def _send(
        self, client: SinkClient, target: Target, event: Event, record: Record
    ) -> GivenUp | None:
        """Retry an event until it is delivered (None) or given up."""
        options = self._options.delivery
        retries = 0
        while True:
            try:
                answer = await self._attempt(client, target, event, record)
            except NoAnswer:
                answer = None
            match decide(options, retries, answer):
                case Delivered():
                    return None
                case GivenUp() as given_up:
                    return given_up
                case RetryAfter(delay_ms=delay_ms):
                    await self._back_off(delay_ms / 1000)
                    retries += 1

    async def _attempt(
        self, client: SinkClient, target: Target, event: Event, record: Record
    ) -> Answer:
        further = []
        if self._options.token is not None:
            further.append(("Authorization", self._options.token.authorization()))
        if record.headers:
            further += child_traceparent(record.headers, f"{random.getrandbits(64) or 1:016x}")
        head = request_head(
            target, event, namespace=self._options.source.namespace, further=further
        )
        return await client.post(head, event.body, self._options.delivery.timeout_ms / 1000)

    async def _back_off(self, delay_s: float) -> None:
        if self._closing:
            raise asyncio.CancelledError
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._backing_off.add(task)
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._backing_off.discard(task)


# --- intake: on a thread of each consumer -----------------------------------------------------


class _Intake:
    """One consumer of the group: polls, hands records to the loop, commits what is done."""

    def __init__(
        self, options: Options, deliveries: _Deliveries, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._options = options
        self._deliveries = deliveries
        self._loop = loop
        self._unordered = options.ordering == "unordered"
        self._open_max = UNORDERED_OPEN_MAX if self._unordered else ORDERED_OPEN_MAX
        self._lanes: dict[int, _Lane] = {}
        self._paused: set[int] = set()
        self._in_flight = 0
        self._reachable = True
        # Guards the ledgers and the count of records in flight; notified when there is room.
        self._room = threading.Condition()
        self._stopping = threading.Event()
        self._drained = threading.Event()
        self.assigned = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-consumer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop_polling(self) -> None:
        """Take no further record; the thread stays for the last commit."""
        self._stopping.set()
        with self._room:
            self._room.notify()

    async def close(self) -> None:
        """Commit what is done, and leave the group. To be called when deliveries are closed."""
        self._drained.set()
        await asyncio.to_thread(self._thread.join, LEAVE_S_MAX)
        if self._thread.is_alive():
            log.warning("Kafka did not take the last offsets: their records come again")

    def left(self, lane: _Lane, record: Record, *, done: bool) -> None:
        """Note that a record is no longer in flight (called on the loop)."""
        with self._room:
            self._in_flight -= 1
            if done:
                lane.ledger.done(record.offset)
            if self._in_flight == POLL_RECORDS_MAX - 1:
                self._room.notify()

    def _run(self) -> None:
        try:
            consumer = Consumer({**self._consumer_config(), "error_cb": self._on_error})
            try:
                self._consume(consumer)
            finally:
                # Leaving the group calls _on_revoke, which commits.
                consumer.close()
        except Exception as error:  # noqa: BLE001 - told to the loop, which ends the process
            self._loop.call_soon_threadsafe(self._deliveries.fail, error)

    def _consumer_config(self) -> dict[str, str | int | bool]:
        options = self._options
        return {
            "bootstrap.servers": options.bootstrap,
            "group.id": options.group,
            "client.id": f"{options.source.namespace}-{options.source.name}",
            "auto.offset.reset": options.initial_offset,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_uncommitted",
            "session.timeout.ms": options.session_timeout_ms,
            "heartbeat.interval.ms": options.session_timeout_ms // 3,
            "reconnect.backoff.max.ms": 1000,
            # The client's own log has a line for each attempt to connect; see _on_error.
            "log_level": 0,
            # A resumed partition waits for the fetch that is under way without it.
            "fetch.wait.max.ms": 100,
            # What is fetched ahead, in memory.
            "queued.min.messages": 2000,
            "queued.max.messages.kbytes": 16 * 1024,
        }

    def _consume(self, consumer: Consumer) -> None:
        consumer.subscribe(
            [self._options.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        commit_at = time.monotonic() + COMMIT_INTERVAL_S
        while not self._stopping.is_set():
            if time.monotonic() >= commit_at:
                commit_at += COMMIT_INTERVAL_S
                self._commit(consumer, self._lanes.values())
            overfull = self._overfull()
            self._pause(consumer, overfull)
            # One record as soon as there is one, then all others that are there: `consume` alone
            # would wait for a full batch.
            first = consumer.poll(POLL_PAUSED_S if overfull else POLL_S)
            if first is not None:
                # Taken before the next call, which may revoke its partition.
                batch = self._take([first])
                batch += self._take(consumer.consume(POLL_RECORDS_MAX - 1, 0))
                if batch:
                    self._loop.call_soon_threadsafe(self._deliveries.accept, batch)
        self._drained.wait()
        self._commit(consumer, self._lanes.values())

    def _take(self, messages: Sequence[Message]) -> list[tuple[_Lane, Record]]:
        batch = []
        with self._room:
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.fatal():
                        raise SourceError(f"Kafka: {error.str()}")
                    log.warning("Kafka: %s", error.str())
                    continue
                record = _record(message)
                lane = self._lanes.get(record.partition)
                if lane is None:  # Revoked meanwhile: the next owner delivers it.
                    continue
                lane.ledger.received(record.offset)
                batch.append((lane, record))
            self._in_flight += len(batch)
        return batch

    def _overfull(self) -> set[int]:
        """Return the partitions that must not fetch more records now."""
        with self._room:
            if self._unordered and not self._room.wait_for(
                lambda: self._in_flight < POLL_RECORDS_MAX or self._stopping.is_set(), ROOM_WAIT_S
            ):
                # Nothing moves: poll without partitions, so that the group can still rebalance.
                return set(self._lanes)
            low = self._open_max // 2
            return {
                partition
                for partition, lane in self._lanes.items()
                if lane.ledger.open_count()
                >= (low if partition in self._paused else self._open_max)
            }

    def _pause(self, consumer: Consumer, wanted: set[int]) -> None:
        # Pausing drops what was fetched ahead, so it is not for the usual wait of milliseconds.
        if wanted == self._paused:
            return
        topic = self._options.topic
        consumer.pause([TopicPartition(topic, partition) for partition in wanted - self._paused])
        consumer.resume([TopicPartition(topic, partition) for partition in self._paused - wanted])
        self._paused = wanted

    def _commit(self, consumer: Consumer, lanes: Iterable[_Lane]) -> None:
        with self._room:
            offsets = [
                (lane, offset)
                for lane in lanes
                if (offset := lane.ledger.committable()) is not None
            ]
        if not offsets:
            return
        topic = self._options.topic
        wanted = [TopicPartition(topic, lane.partition, offset) for lane, offset in offsets]
        try:
            consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:
            log.warning("the offsets were not committed: %s", error.args[0].str())
            return
        self._reachable = True
        with self._room:
            for lane, offset in offsets:
                lane.ledger.committed(offset)

    def _on_error(self, error: KafkaError) -> None:
        # Told once an outage: the client goes on trying by itself.
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._reachable:  # noqa: SLF001
            self._reachable = False
            log.warning("Kafka cannot be reached")

    def _on_assign(self, _: Consumer, partitions: Sequence[TopicPartition]) -> None:
        for assigned in partitions:
            lane = _Lane(intake=self, partition=assigned.partition)
            self._lanes[assigned.partition] = lane
        self._reachable = True
        log.info("assigned partitions %s", sorted(self._lanes))
        self._loop.call_soon_threadsafe(self.assigned.set)

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._commit(consumer, self._leave(partitions))

    def _on_lost(self, _: Consumer, partitions: Sequence[TopicPartition]) -> None:
        # They are another member's already: a commit would be refused.
        self._leave(partitions)

    def _leave(self, partitions: Sequence[TopicPartition]) -> list[_Lane]:
        numbers = {revoked.partition for revoked in partitions} & self._lanes.keys()
        lanes = [self._lanes.pop(number) for number in numbers]
        self._paused -= numbers
        for lane in lanes:
            lane.revoked = True
        log.info("revoked partitions %s", sorted(numbers))
        return lanes


def _record(message: Message) -> Record:
    # The client's types allow for messages that were not consumed.
    return Record(
        topic=cast("str", message.topic()),
        partition=cast("int", message.partition()),
        offset=cast("int", message.offset()),
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=cast("list[RecordHeader] | None", message.headers()) or (),
    )


# --- the sender's identity --------------------------------------------------------------------


class TokenFile:
    """The token that the source shows its sinks; the file may be renewed while it runs.

    In a cluster the source asks for a token for `spec.sink.audience`. Here something else wrote it,
    so that it is for that audience is checked instead. One audience serves both sinks.
    """

    def __init__(self, path: Path, audience: str) -> None:
        self._path = path
        self._audience = audience
        self._modified_ns = 0
        self._checked_at = time.monotonic()
        self._authorization = self._read()

    def authorization(self) -> str:
        """Return the Authorization header's value."""
        if time.monotonic() >= self._checked_at + TOKEN_CHECK_S:
            self._checked_at = time.monotonic()
            try:
                if self._path.stat().st_mtime_ns != self._modified_ns:
                    self._authorization = self._read()
            except (OSError, SourceError) as error:
                log.warning("the token before is still used: %s", error)
        return self._authorization

    def _read(self) -> str:
        try:
            modified_ns = self._path.stat().st_mtime_ns
            token = self._path.read_text(encoding="ascii").strip()
            claims = token.split(".")[1]
            audience = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))[
                "aud"
            ]
        except OSError as error:
            raise SourceError(f"cannot read the token: {error}") from error
        except (ValueError, binascii.Error, LookupError, TypeError) as error:
            raise SourceError(f"{self._path} holds no JWT with an audience") from error
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise SourceError(f"the token in {self._path} is not for {self._audience!r}")
        self._modified_ns = modified_ns
        return f"Bearer {token}"


# --- the process ------------------------------------------------------------------------------


async def run(options: Options, stop: asyncio.Event) -> None:
    """Deliver until `stop` is set, then drain. Prints `ready` when partitions are assigned.

    SourceError or KafkaException when it cannot go on.
    """
    loop = asyncio.get_running_loop()
    deliveries = _Deliveries(options)
    intakes = [_Intake(options, deliveries, loop) for _ in range(options.consumers)]
    for intake in intakes:
        intake.start()
    announcing = asyncio.create_task(_announce(intakes))
    ended: list[asyncio.Future[Any]] = [asyncio.create_task(stop.wait()), deliveries.failed]
    await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
    announcing.cancel()
    for intake in intakes:
        intake.stop_polling()
    await deliveries.close()
    await asyncio.gather(*(intake.close() for intake in intakes))
    if deliveries.failed.done():
        await deliveries.failed


async def _run_until_signal(options: Options) -> None:
    # What is loaded by now lives as long as the process.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(options, stop)


async def _announce(intakes: Sequence[_Intake]) -> None:
    for intake in intakes:
        await intake.assigned.wait()
    print("ready", flush=True)


def parse_arguments(arguments: Sequence[str]) -> Options:
    """Return the options of the command line; end the process if they are wrong.

    The defaults are the KafkaSource's, the trap of `spec.delivery` included: given in part, it
    loses the defaults of the parts that are not given.
    """
    parser = argparse.ArgumentParser(
        prog="python -m local.knative.kafka_source",
        description="Deliver a topic as a KafkaSource does.",
    )
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--sink", required=True, type=parse_target, metavar="URL")
    parser.add_argument("--dead-letter-sink", type=parse_target, metavar="URL")
    parser.add_argument("--ordering", choices=("ordered", "unordered"), default="ordered")
    parser.add_argument("--retry", type=int)
    parser.add_argument("--backoff-policy", choices=("exponential", "linear"))
    parser.add_argument("--backoff-delay", type=parse_duration_ms, metavar="DURATION")
    parser.add_argument("--timeout", type=parse_duration_ms, metavar="DURATION")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--name", required=True)
    parser.add_argument("--initial-offset", choices=("earliest", "latest"), default="latest")
    parser.add_argument("--consumers", type=int, default=1)
    parser.add_argument(
        "--session-timeout",
        type=parse_duration_ms,
        default=SESSION_TIMEOUT_MS_DEFAULT,
        metavar="DURATION",
        help="after which the group misses a source that was killed",
    )
    parser.add_argument("--sink-audience", metavar="AUDIENCE")
    parser.add_argument("--token-file", type=Path)
    given = parser.parse_args(arguments)
    if given.consumers < 1:
        parser.error("--consumers is at least 1")
    if given.retry is not None and given.retry < 0:
        parser.error("--retry is at least 0")
    if (given.sink_audience is None) != (given.token_file is None):
        parser.error("--sink-audience and --token-file go together")
    said = (
        given.retry,
        given.backoff_policy,
        given.backoff_delay,
        given.timeout,
        given.dead_letter_sink,
    )
    unsaid = DELIVERY_DEFAULT if said == (None,) * len(said) else DELIVERY_UNSAID
    return Options(
        bootstrap=given.bootstrap,
        topic=given.topic,
        group=given.group,
        source=SourceName(namespace=given.namespace, name=given.name),
        sink=given.sink,
        dead_letter_sink=given.dead_letter_sink,
        ordering=given.ordering,
        delivery=DeliveryOptions(
            retry=unsaid.retry if given.retry is None else given.retry,
            backoff_policy=given.backoff_policy or unsaid.backoff_policy,
            backoff_delay_ms=(
                unsaid.backoff_delay_ms if given.backoff_delay is None else given.backoff_delay
            ),
            # A timeout of zero is none: the dispatcher's own limit holds.
            timeout_ms=given.timeout or unsaid.timeout_ms,
        ),
        initial_offset=given.initial_offset,
        consumers=given.consumers,
        session_timeout_ms=given.session_timeout,
        token=TokenFile(given.token_file, given.sink_audience) if given.token_file else None,
    )


def main(arguments: Sequence[str]) -> int:
    """Run the source; 0 after a signal, 1 with one line when it cannot go on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        uvloop.run(_run_until_signal(parse_arguments(arguments)))
    except (SourceError, KafkaException) as error:
        print(f"kafka_source: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
