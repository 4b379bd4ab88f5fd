"""The local KafkaSource with a real Kafka and a real HTTP sink.

First all recorded behaviour of the real dispatcher, then what a recording cannot show: concurrent
requests, offsets and responses, a killed source, a rebalance, a stop.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import signal
import sys
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.cimpl import OFFSET_INVALID

from local.broker import create_topic
from local.knative import kafka_source
from local.knative.kafka_source import parse_arguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from tests.support.servers import Kafka

TESTS = Path(__file__).parents[2]
RECORDING = json.loads((TESTS / "fixtures/recorded_deliveries.json").read_text(encoding="utf-8"))
CASES = {case["case"]: case for case in RECORDING["cases"]}

DEADLINE_S = 120.0
POLL_S = 0.02
DAY_MS = 24 * 60 * 60 * 1000
# A timer may end by the clock's grain too early.
CLOCK_SLACK_S = 0.02
# The recorder's timeout of 0.3 s would run out for an answer that a busy machine is late with.
SLOWER = 5

# The recorder's sink answered every failure so.
FAILURE_BODY = b'{"error":"boom"}'
RECORDED_AUTHORITY = "127.0.0.1:29181"


# --- the sink ---------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class Received:
    """One request as it came, and what was answered. `release` lets a held one be answered."""

    path: str
    headers: list[tuple[str, str]]
    body: bytes
    at_s: float
    status: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    answered: bool = False

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Sink:
    """An HTTP/1.1 server that reads requests byte by byte, so that nothing is normalised away."""

    def __init__(self, answer: Callable[[Received], Awaitable[int]]) -> None:
        self._answer = answer
        self._changed = asyncio.Condition()
        self.requests: list[Received] = []
        self.in_flight = 0
        self.in_flight_max = 0
        self.url = ""
        self._connections = 0
        self._ended = asyncio.Semaphore(0)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for request in self.requests:
            request.release.set()
        self._server.close()
        async with asyncio.timeout(DEADLINE_S):
            for _connection in range(self._connections):
                await self._ended.acquire()

    async def until(self, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Wait for what the requests so far must come to show."""
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            seen = [(request.path, request.body, request.status) for request in self.requests]
            pytest.fail(f"not within {deadline_s} s; requests: {seen}")

    def bodies(self) -> list[bytes]:
        return [request.body for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await self._read(reader)
                async with self._changed:
                    self.requests.append(request)
                    self.in_flight += 1
                    self.in_flight_max = max(self.in_flight_max, self.in_flight)
                    self._changed.notify_all()
                try:
                    request.status = await self._answer(request)
                    failed = request.status >= 300
                    body = FAILURE_BODY if failed else b""
                    head = f"HTTP/1.1 {request.status} X\r\nContent-Length: {len(body)}\r\n"
                    head += "Kne-reason: x\r\n\r\n" if failed else "\r\n"
                    writer.write(head.encode() + body)
                    await writer.drain()
                finally:
                    async with self._changed:
                        self.in_flight -= 1
                        request.answered = True
                        self._changed.notify_all()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self._ended.release()

    async def _read(self, reader: asyncio.StreamReader) -> Received:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        method, path, version = first.split(" ")
        assert (method, version) == ("POST", "HTTP/1.1")
        at_s = asyncio.get_running_loop().time()
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        length = next((int(value) for name, value in headers if name == "content-length"), 0)
        body = await reader.readexactly(length)
        return Received(path=path, headers=headers, body=body, at_s=at_s)


async def accepted(_: Received) -> int:
    return 200


async def held(request: Received) -> int:
    await request.release.wait()
    return 200


def held_if(condition: Callable[[Received], bool]) -> Callable[[Received], Awaitable[int]]:
    async def answer(request: Received) -> int:
        return await (held if condition(request) else accepted)(request)

    return answer


# --- Kafka ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic of one test, with the consumer group that reads it."""

    bootstrap: str
    name: str
    group: str

    def produce(self, *values: bytes, partition: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for value in values:
            producer.produce(self.name, value, partition=partition)
        assert producer.flush(DEADLINE_S) == 0

    def committed(self, partition: int = 0) -> int | None:
        """Return the committed offset of the group, or None."""
        reader = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        try:
            asked = [TopicPartition(self.name, partition)]
            offset = reader.committed(asked, timeout=DEADLINE_S)[0].offset
            return None if offset == OFFSET_INVALID else offset
        finally:
            reader.close()

    async def until_committed(self, wanted: int | None, partition: int = 0) -> None:
        await until(lambda: self.committed(partition) == wanted)

    def arguments(self, sink: str, *further: str) -> list[str]:
        """Return the command line of a source to `sink`; later options override earlier ones."""
        options = {
            "--bootstrap": self.bootstrap,
            "--topic": self.name,
            "--group": self.group,
            "--sink": sink,
            "--name": "source",
            "--ordering": "unordered",
            "--initial-offset": "earliest",
            "--retry": "10",
            "--backoff-policy": "exponential",
            "--backoff-delay": "PT0.3S",
            "--timeout": "PT30S",
            # A broker on a busy machine may not hear of a living source for seconds.
            "--session-timeout": "PT20S",
        }
        return [word for option in options.items() for word in option] + list(further)


def new_topic(kafka: Kafka, partitions: int) -> Topic:
    name = f"t-{uuid.uuid4().hex[:12]}"
    create_topic(kafka.bootstrap_servers, name, partitions, DAY_MS)
    return Topic(bootstrap=kafka.bootstrap_servers, name=name, group=f"g-{name}")


@pytest.fixture
def topic(kafka: Kafka) -> Topic:
    """Create a topic with one partition."""
    return new_topic(kafka, 1)


async def until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Ask until it holds; for what only asking can tell."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while not await asyncio.to_thread(condition):
        assert loop.time() < deadline, "not in time"
        await asyncio.sleep(POLL_S)


# --- the source -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def source(arguments: Sequence[str]) -> AsyncIterator[None]:
    """Run a source within this process, and drain it at the end."""
    stop = asyncio.Event()
    running = asyncio.create_task(kafka_source.run(parse_arguments(arguments), stop))
    try:
        yield
    finally:
        stop.set()
        await running


@dataclass(slots=True, kw_only=True)
class SourceProcess:
    """A source as `python -m local.knative.kafka_source`."""

    process: asyncio.subprocess.Process
    log: list[str] = field(default_factory=list)

    @classmethod
    async def start(cls, arguments: Sequence[str]) -> SourceProcess:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local.knative.kafka_source", *arguments),
            cwd=TESTS.parent,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(process=process)

    async def ready(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            assert await self.process.stdout.readline() == b"ready\n", self.log

    async def logged(self, text: str) -> None:
        """Read on until a line holds the text."""
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            while line := (await self.process.stderr.readline()).decode():
                self.log.append(line)
                if text in line:
                    return
        pytest.fail(f"{text!r} was not logged: {self.log}")

    async def end(self, number: signal.Signals) -> int:
        """Send the signal, if it still runs, and wait for its end."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            _, errors = await self.process.communicate()
        self.log += errors.decode().splitlines()
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.asynccontextmanager
async def source_process(arguments: Sequence[str]) -> AsyncIterator[SourceProcess]:
    """Yield a source process with its partitions assigned; kill it at the end."""
    started = await SourceProcess.start(arguments)
    try:
        await started.ready()
        yield started
    finally:
        await started.end(signal.SIGKILL)


# --- the recording ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What one case made the local source do, in the recording's words."""

    requests: list[dict[str, Any]]
    at_s: list[float]
    committed: int | None
    raw: list[Received]


@pytest.fixture(scope="module")
def replay(kafka: Kafka) -> dict[str, Replayed]:
    """Replay all recorded cases concurrently, each with its topic, group, source and sink."""

    async def all_cases() -> dict[str, Replayed]:
        replayed = await asyncio.gather(*(replay_case(kafka, case) for case in CASES.values()))
        return dict(zip(CASES, replayed, strict=True))

    return asyncio.run(all_cases())


async def replay_case(kafka: Kafka, case: dict[str, Any]) -> Replayed:
    run = uuid.uuid4().hex[:8]
    name = f"t-{case['case']}-{run}"
    topic = Topic(bootstrap=kafka.bootstrap_servers, name=name, group=f"g-{name}")
    await asyncio.to_thread(create_topic, kafka.bootstrap_servers, name, 1, DAY_MS)
    await asyncio.to_thread(produce_recorded, topic, case["messages"])
    expected = case["requests"]
    async with Sink(recorded_answer()) as sink:
        arguments = recorded_arguments(case, topic, sink.url)
        async with source(arguments):
            # What does not come is for the case's own test to tell.
            with contextlib.suppress(pytest.fail.Exception):
                await sink.until(
                    lambda: (
                        len(sink.requests) >= len(expected)
                        and all(request.answered for request in sink.requests)
                    )
                )
        requests = [as_recorded(request, sink.url, run) for request in sink.requests]
    return Replayed(
        requests=requests,
        at_s=[request.at_s for request in sink.requests],
        committed=await asyncio.to_thread(topic.committed),
        raw=sink.requests,
    )


def produce_recorded(topic: Topic, messages: list[dict[str, Any]]) -> None:
    producer = Producer({"bootstrap.servers": topic.bootstrap})
    for message in messages:
        producer.produce(
            topic.name,
            None if message["v"] is None else message["v"].encode(),
            None if message["k"] is None else message["k"].encode(),
            partition=0,
            headers=[(name, value.encode()) for name, value in message["h"]],
        )
    assert producer.flush(DEADLINE_S) == 0


def recorded_arguments(case: dict[str, Any], topic: Topic, url: str) -> list[str]:
    options = case["options"]
    refused = case["sink"] == "REFUSED"
    sink = "http://127.0.0.1:1/x" if refused else f"{url}/{case['case']}/{case['sink']}"
    arguments = topic.arguments(
        sink,
        *("--namespace", "ns1", "--name", f"ks-{case['case']}"),
        *("--ordering", options.get("order", "ORDERED").lower()),
        *("--retry", str(options.get("retry", 0))),
        *("--backoff-delay", f"PT{options.get('delay', 0) / 1000}S"),
        *("--timeout", f"PT{SLOWER * options.get('timeout', 0) / 1000}S"),
    )
    if options.get("dl"):
        arguments += ["--dead-letter-sink", f"{url}/{case['case']}/dls"]
    return arguments


def recorded_answer() -> Callable[[Received], Awaitable[int]]:
    """Return the sink of the recording: the path's last part says how it responds."""
    failures: Counter[str | None] = Counter()

    async def answer(request: Received) -> int:
        word = request.path.rpartition("/")[2]
        number = int(re.sub(r"\D", "", word) or 0)
        if word.startswith("flaky"):
            event = request.header("ce-id")
            failures[event] += 1
            return 500 if failures[event] <= number else 200
        if word.startswith("slow"):
            request.status = 200
            await asyncio.sleep(SLOWER * number / 1000)
            return 200
        if word == "poison":
            return 400 if b"poison" in request.body else 200
        return number or 200

    return answer


def as_recorded(request: Received, url: str, run: str) -> dict[str, Any]:
    """Return the request in the form of the recording, without what varies between runs."""
    headers = []
    for name, value in request.headers:
        if name in {"host", "ce-time"}:
            continue
        text = value.replace(run, "RUN").replace(url, f"http://{RECORDED_AUTHORITY}")
        headers.append((name, without_span(text) if name == "traceparent" else text))
    return {
        "path": request.path.rpartition("/")[2],
        "status": request.status,
        # The recorder read bodies as UTF-8, headers as Latin-1.
        "body": request.body.decode(),
        "headers": sorted(headers),
    }


def without_span(traceparent: str) -> str:
    return re.sub(r"-[0-9a-f]{16}-", "-SPAN-", traceparent)


def recorded_requests(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "path": request["path"],
            "status": request["status"],
            "body": request["body"],
            "headers": sorted(
                (name, without_span(value) if name == "traceparent" else value)
                for name, value in request["headers"]
            ),
        }
        for request in case["requests"]
    ]


def retried(case: dict[str, Any]) -> bool:
    """Return whether one event was sent to the sink more than once."""
    attempts = [request for request in case["requests"] if request["path"] != "dls"]
    return len(attempts) > len(case["messages"])


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_case_is_reproduced(replay: dict[str, Replayed], name: str) -> None:
    """The same requests with the same headers, bodies and statuses, in the same order."""
    case, replayed = CASES[name], replay[name]
    expected, requests = recorded_requests(case), replayed.requests
    if case["options"].get("order") == "UNORDERED":
        expected = sorted(expected, key=lambda request: str(request["body"]))
        requests = sorted(requests, key=lambda request: str(request["body"]))

    assert expected == requests
    # Every record has its outcome: delivered, dead-lettered or dropped.
    assert replayed.committed == len(case["messages"])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if retried(case)])
def test_retries_of_a_recorded_case_wait_as_recorded(
    replay: dict[str, Replayed], name: str
) -> None:
    """Each comes no sooner than its backoff after the request before it has come.

    A timeout begins when the request is sent, which a busy machine does long before it comes.
    """
    options, replayed = CASES[name]["options"], replay[name]
    recorded_s = [request["ms"] / 1000 for request in CASES[name]["requests"]]
    attempts = [i for i, r in enumerate(replayed.requests) if r["path"] != "dls"]
    assert len(attempts) > 1
    for retry, (before, after) in enumerate(itertools.pairwise(attempts), start=1):
        least_s = options["delay"] * 2**retry / 1000

        assert replayed.at_s[after] - replayed.at_s[before] >= least_s - CLOCK_SLACK_S
        assert recorded_s[after] - recorded_s[before] >= least_s - CLOCK_SLACK_S


def test_unrecorded_cases_are_covered(replay: dict[str, Replayed]) -> None:
    """Every request names its host; an event made of a plain record has the record's time."""
    for replayed in replay.values():
        for request in replayed.raw:
            assert len([name for name, _ in request.headers if name == "host"]) == 1
            time = request.header("ce-time")
            if request.header("ce-type") == "dev.knative.kafka.event":
                assert time is not None
                assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z", time)
            else:
                assert time is None


# --- in flight --------------------------------------------------------------------------------


async def test_unordered_delivery_completes_out_of_order(
    topic: Topic,
) -> None:
    """50 at the least, under one key's partition, and bounded; the last may be answered first."""
    values = [b"%d" % number for number in range(300)]
    topic.produce(*values)
    all_are_answered = False

    async def answer(request: Received) -> int:
        return await (accepted if all_are_answered else held)(request)

    async with Sink(answer) as sink, source(topic.arguments(sink.url)):
        await sink.until(lambda: sink.in_flight >= 50)
        first = sink.requests[:50]
        completed = []
        for request in reversed(first):
            request.release.set()
            await sink.until(lambda request=request: request.answered)  # type: ignore[misc]
            completed.append(request.body)
        assert completed == [request.body for request in reversed(first)]
        all_are_answered = True
        for request in sink.requests:
            request.release.set()
        await sink.until(lambda: len(sink.requests) == len(values) and sink.in_flight == 0)

        assert sorted(sink.bodies()) == sorted(values)
        assert 50 <= sink.in_flight_max <= 99
    assert await asyncio.to_thread(topic.committed) == len(values)


async def test_ordered_delivery_has_one_request_per_partition(kafka: Kafka) -> None:
    """And the partitions do not wait for each other."""
    topic = new_topic(kafka, 2)
    values = [b"%d" % number for number in range(8)]
    topic.produce(*values, partition=0)
    topic.produce(*values, partition=1)
    in_flight: Counter[str | None] = Counter()
    most: Counter[str | None] = Counter()

    async def answer(request: Received) -> int:
        partition = request.header("ce-knativekafkapartition")
        in_flight[partition] += 1
        most[partition] = max(most[partition], in_flight[partition])
        await request.release.wait()
        in_flight[partition] -= 1
        return 200

    async with Sink(answer) as sink, source(topic.arguments(sink.url, "--ordering", "ordered")):
        await sink.until(lambda: sink.in_flight == 2)
        # Partition 1 to its end while partition 0 waits for its first answer.
        for number in range(len(values)):
            await sink.until(lambda number=number: arrived(sink, "1") == number + 1)  # type: ignore[misc]
            sink.requests[-1 if number else partition_index(sink, "1")].release.set()
        assert arrived(sink, "0") == 1
        for number in range(len(values)):
            await sink.until(lambda number=number: arrived(sink, "0") == number + 1)  # type: ignore[misc]
            sink.requests[-1 if number else partition_index(sink, "0")].release.set()
        await sink.until(lambda: sink.in_flight == 0)

    assert dict(most) == {"0": 1, "1": 1}
    for partition in ("0", "1"):
        bodies = [
            r.body for r in sink.requests if r.header("ce-knativekafkapartition") == partition
        ]
        assert bodies == values


def arrived(sink: Sink, partition: str) -> int:
    return sum(r.header("ce-knativekafkapartition") == partition for r in sink.requests)


def partition_index(sink: Sink, partition: str) -> int:
    headers = [request.header("ce-knativekafkapartition") for request in sink.requests]
    return headers.index(partition)


# --- offsets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", ["ordered", "unordered"])
async def test_an_offset_is_never_committed_before_the_response(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, ordering: str
) -> None:
    """Rounds of commits pass, as another partition shows, and the held record stays uncommitted."""
    monkeypatch.setattr(kafka_source, "COMMIT_INTERVAL_S", 0.1)
    topic = new_topic(kafka, 2)
    topic.produce(b"held", partition=0)
    sink = Sink(held_if(lambda request: request.body == b"held"))
    async with sink, source(topic.arguments(sink.url, "--ordering", ordering)):
        await sink.until(lambda: len(sink.requests) == 1)
        for number in range(3):
            topic.produce(b"quick", partition=1)
            await topic.until_committed(number + 1, partition=1)
        assert await asyncio.to_thread(topic.committed, 0) is None
        sink.requests[0].release.set()
        await topic.until_committed(1, partition=0)


async def test_commits_wait_for_a_slow_record(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered behind it is not committed, since a commit covers all that lies before."""
    monkeypatch.setattr(kafka_source, "COMMIT_INTERVAL_S", 0.1)
    topic.produce(b"0", b"1", b"slow", b"3", b"4")
    sink = Sink(held_if(lambda request: request.body == b"slow"))
    async with sink, source(topic.arguments(sink.url)):
        await sink.until(lambda: len(sink.requests) == 5 and sink.in_flight == 1)
        await topic.until_committed(2)
        topic.produce(b"5")
        await sink.until(lambda: len(sink.requests) == 6 and sink.in_flight == 1)
        assert await asyncio.to_thread(topic.committed) == 2
        next(r for r in sink.requests if r.body == b"slow").release.set()
        await topic.until_committed(6)


# --- failures ---------------------------------------------------------------------------------


async def test_an_unreachable_dead_letter_sink_loses_the_event(topic: Topic) -> None:
    """It is retried like the sink; then the record is dropped, committed, and the next one sent."""
    topic.produce(b"poison", b"good")

    async def answer(request: Received) -> int:
        if request.path == "/dls":
            return 503
        return 400 if request.body == b"poison" else 200

    async with Sink(answer) as sink:
        arguments = topic.arguments(f"{sink.url}/sink", "--dead-letter-sink", f"{sink.url}/dls")
        arguments += ["--ordering", "ordered", "--retry", "2", "--backoff-delay", "PT0.01S"]
        async with source(arguments):
            await sink.until(lambda: len(sink.requests) == 5 and sink.in_flight == 0)

    assert [(request.path, request.body) for request in sink.requests] == [
        ("/sink", b"poison"),
        ("/dls", b"poison"),
        ("/dls", b"poison"),
        ("/dls", b"poison"),
        ("/sink", b"good"),
    ]
    assert await asyncio.to_thread(topic.committed) == 2


async def test_an_unsendable_header_fails_only_its_own_record(topic: Topic) -> None:
    """A line break in a record's header would be a second header, or a second request."""
    producer = Producer({"bootstrap.servers": topic.bootstrap})
    producer.produce(topic.name, b"bad", headers=[("h", b"x\r\nce-type: forged")])
    producer.produce(topic.name, b"good", headers=[("h", b"x")])
    assert producer.flush(DEADLINE_S) == 0
    async with Sink(accepted) as sink, source(topic.arguments(sink.url)):
        await sink.until(lambda: len(sink.requests) == 1)
    assert sink.bodies() == [b"good"]
    assert await asyncio.to_thread(topic.committed) == 2


async def test_the_token_is_sent_to_both_sinks(topic: Topic, tmp_path: Path) -> None:
    """As with `spec.sink.audience` and the OIDC feature; a renewed file is taken up."""
    topic.produce(b"poison")
    claims = base64.urlsafe_b64encode(b'{"aud":["saldo"]}').decode().rstrip("=")
    token = tmp_path / "token"
    token.write_text(f"e30.{claims}.c2ln\n", encoding="ascii")

    async def answer(request: Received) -> int:
        return 200 if request.path == "/dls" else 400

    async with Sink(answer) as sink:
        arguments = topic.arguments(sink.url, "--dead-letter-sink", f"{sink.url}/dls")
        arguments += ["--sink-audience", "saldo", "--token-file", str(token)]
        async with source(arguments):
            await sink.until(lambda: len(sink.requests) == 2)

    sent = [request.header("Authorization") for request in sink.requests]
    assert sent == [f"Bearer e30.{claims}.c2ln"] * 2


# --- processes --------------------------------------------------------------------------------


async def test_a_killed_source_redelivers_uncommitted_records(topic: Topic) -> None:
    """Everything since the last commit: answered or in flight, nothing is missing."""
    values = [b"%d" % number for number in range(20)]
    topic.produce(*values)
    killed = False
    async with Sink(held_if(lambda r: r.body == b"19" and not killed)) as sink:
        # The group lets the second one in only when the first one's session is over.
        arguments = topic.arguments(sink.url, "--session-timeout", "PT5S")
        async with source_process(arguments) as first:
            await sink.until(lambda: len(sink.requests) == 20 and sink.in_flight == 1)
            assert await first.end(signal.SIGKILL) == -signal.SIGKILL
        assert await asyncio.to_thread(topic.committed) is None
        killed = True
        async with source_process(arguments) as second:
            await sink.until(lambda: len(sink.requests) == 40)
            assert await second.end(signal.SIGTERM) == 0
    assert Counter(sink.bodies()) == Counter(values * 2)
    assert await asyncio.to_thread(topic.committed) == 20


async def test_a_stopped_source_commits_responses_in_flight(topic: Topic) -> None:
    """SIGTERM: the request in flight is finished, its offset committed, exit status 0."""
    topic.produce(b"held")
    async with Sink(held) as sink, source_process(topic.arguments(sink.url)) as stopped:
        await sink.until(lambda: len(sink.requests) == 1)
        stopped.process.send_signal(signal.SIGTERM)
        await stopped.logged("stopping, 1 records in flight")
        assert await asyncio.to_thread(topic.committed) is None
        sink.requests[0].release.set()
        assert await stopped.end(signal.SIGTERM) == 0
        assert await asyncio.to_thread(topic.committed) == 1


async def test_a_stopped_source_leaves_records_in_backoff(topic: Topic) -> None:
    """It does not wait for minutes of retries; the record is not committed."""
    topic.produce(b"x")

    async def unavailable(_: Received) -> int:
        return 503

    arguments = topic.arguments("", "--backoff-delay", "PT60S")
    async with Sink(unavailable) as sink:
        arguments = topic.arguments(sink.url, "--backoff-delay", "PT60S")
        async with source_process(arguments) as stopped:
            await sink.until(lambda: len(sink.requests) == 1 and sink.in_flight == 0)
            assert await stopped.end(signal.SIGTERM) == 0
        assert not [line for line in stopped.log if "not answered in time" in line]
    assert await asyncio.to_thread(topic.committed) is None


async def test_nothing_is_lost_when_partitions_move(kafka: Kafka) -> None:
    """What was answered is committed on revocation; what was in flight is delivered again."""
    topic = new_topic(kafka, 4)
    for partition in range(4):
        topic.produce(b"answered", b"held", partition=partition)
    holding = True
    sink = Sink(held_if(lambda r: holding and r.body == b"held" and source_name(r) == "one"))
    async with sink, source_process(topic.arguments(sink.url, "--name", "one")) as one:
        await sink.until(lambda: len(sink.requests) == 8 and sink.in_flight == 4)
        async with source_process(topic.arguments(sink.url, "--name", "two")) as two:
            await sink.until(lambda: len(delivered(sink, "two")) == 2)
            moved = {partition for partition, _ in delivered(sink, "two")}
            # The revocation committed the first record, so only the second comes again.
            assert sorted(delivered(sink, "two")) == [
                (partition, b"held") for partition in sorted(moved)
            ]
            holding = False
            for request in sink.requests:
                request.release.set()
            for partition in range(4):
                topic.produce(b"later", partition=partition)
            await sink.until(lambda: sink.bodies().count(b"later") == 4)
            by_source = {
                name: {partition for partition, body in delivered(sink, name) if body == b"later"}
                for name in ("one", "two")
            }
            assert by_source == {"one": set(range(4)) - moved, "two": moved}
            assert await two.end(signal.SIGTERM) == 0
        for partition in range(4):
            topic.produce(b"last", partition=partition)
        # One that is in flight while the group hands the partitions back comes twice.
        everything = {(partition, b"last") for partition in range(4)}
        await sink.until(lambda: everything <= set(delivered(sink, "one")))
        await sink.until(lambda: sink.in_flight == 0)
        assert await one.end(signal.SIGTERM) == 0
    committed = [await asyncio.to_thread(topic.committed, partition) for partition in range(4)]
    assert committed == [4, 4, 4, 4]


def source_name(request: Received) -> str:
    source = request.header("ce-source") or ""
    return source.partition("#")[0].rpartition("/")[2]


def delivered(sink: Sink, name: str) -> list[tuple[int, bytes]]:
    """Return partition and body of the records that the source of that name delivered."""
    return [
        (int(request.header("ce-knativekafkapartition") or -1), request.body)
        for request in sink.requests
        if source_name(request) == name
    ]
