"""The whole of Saldo on separate servers: two replicas of each function, with proxies in between.

The event store and the read model are on two PostgreSQL servers, so that one can be restored alone.
Every process is known by its pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
from confluent_kafka import Consumer, TopicPartition

from local import broker, postgres, processes, services
from saldo.operate.settings import OperatorSettings
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from saldo.serve.settings import KafkaSettings
from tests.reliability.faults.postgres_server import Server
from tests.reliability.faults.replica import Replica
from tests.reliability.history.history import Balance, Event, Final
from tests.support import servers
from tests.support.proxy import Proxy
from tests.support.waiting import DEADLINE_S, until_true

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from local.processes import Child
    from tests.reliability.history.history import Kind

REPLICAS = 2
SOURCES = 2
OPEN_FILES = 20_000
POLL_S = 0.2
# The source gives an event up within a second or so, or the cell of the dead letter sink that is
# down would take minutes. Its session runs out in seconds when it is killed.
SOURCE_PATIENCE = ("--retry", "2", "--backoff-policy", "exponential", "--backoff-delay", "PT0.2S")
SOURCE_TIMEOUTS = ("--timeout", "PT10S", "--session-timeout", "PT3S")

EVENTS = """
SELECT account_id, position, event_id, public_text, hash,
       coalesce(private_text::json ->> 'idempotencyKey',
                private_text::json ->> 'description') AS key,
       extract(epoch FROM clock_timestamp() - appended_at)::float8 AS age_s
FROM event_store.event WHERE starts_with(account_id, $1) ORDER BY account_id, position
"""
BALANCES = """
SELECT account_id, position, balance_minor, blocked_at FROM read_model.balance
WHERE starts_with(account_id, $1) ORDER BY account_id
"""
ENDS = """
SELECT account_id, position FROM event_store.stream
WHERE position > 0 AND starts_with(account_id, $1)
"""
OUTBOX = "SELECT count(*) FROM event_store.outbox"


@dataclass(slots=True, eq=False)
class Rig:
    """All of it. Made by :func:`opened`."""

    folder: Path
    topic: str = field(default_factory=lambda: f"transactions-{secrets.token_hex(4)}")
    store: Server = field(init=False)
    model: Server = field(init=False)
    broker: broker.Broker | None = None
    record: list[Replica] = field(default_factory=list)
    balance: list[Replica] = field(default_factory=list)
    project: list[Replica] = field(default_factory=list)
    sources: list[Child] = field(default_factory=list)
    record_front: Proxy = field(init=False)
    balance_front: Proxy = field(init=False)
    sink: Proxy = field(init=False)
    kafka_port: int = field(default_factory=processes.free_port)

    def __post_init__(self) -> None:
        for name in ("store", "model"):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o755)
        self.store = Server(self.folder / "store", archive=self.folder / "store" / "archive")
        self.model = Server(self.folder / "model")

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.kafka_port}"

    @property
    def base(self) -> Path:
        """The event store's base backup, taken at the start."""
        return self.folder / "store" / "base"

    @property
    def replicas(self) -> list[Replica]:
        return [*self.record, *self.balance, *self.project]

    @property
    def proxies(self) -> list[Proxy]:
        fronts = [self.record_front, self.balance_front, self.sink]
        return fronts + [proxy for each in self.replicas for proxy in (each.store, each.model)]

    @property
    def settings(self) -> OperatorSettings:
        """The operator's: both databases and the topic."""
        return OperatorSettings(
            event_store_url=self.store.dsn("saldo_operate"),
            read_model_url=self.model.dsn("saldo_operate"),
            kafka=KafkaSettings(
                bootstrap_servers=self.bootstrap_servers,
                topic=self.topic,
                security="plaintext",
                username=None,
                password=None,
                region=None,
            ),
        )

    # --- start and stop

    async def start(self) -> None:
        await asyncio.gather(self.store.start(), self.model.start(), self.start_kafka())
        await asyncio.to_thread(self._migrate)
        await self.store.back_up(self.base)
        await asyncio.to_thread(
            broker.create_topic,
            self.bootstrap_servers,
            self.topic,
            servers.TOPIC_PARTITIONS,
            servers.TOPIC_RETENTION_MS,
        )
        self.record, self.balance, self.project = (
            [Replica(self, function, number) for number in range(REPLICAS)]
            for function in (RECORD, BALANCE, PROJECT)
        )
        self.record_front, self.balance_front, self.sink = (
            Proxy(*(replica.port for replica in replicas))
            for replicas in (self.record, self.balance, self.project)
        )
        await asyncio.gather(*(proxy.start() for proxy in self.proxies))
        await asyncio.gather(*(replica.start() for replica in self.replicas))
        for number in range(SOURCES):
            self.sources.append(self.new_source(number))
        await self.until_assigned(*self.sources)

    def _migrate(self) -> None:
        env = services.environ(
            postgres.SUPERUSER,
            lambda _: self.store.dsn(),
            hash_secret=servers.HASH_SECRET,
            bootstrap_servers=self.bootstrap_servers,
            overrides={"READ_MODEL_URL": self.model.dsn()},
        )
        services.migrate(env, self.folder / "migrate.log")

    async def start_kafka(self) -> None:
        self.broker = await asyncio.to_thread(
            broker.start_kafka,
            self.folder / "kafka",
            self.kafka_port,
            cache_dir=services.ROOT / broker.default_cache_dir(),
        )

    async def kill_kafka(self) -> None:
        """Kill it with SIGKILL."""
        assert self.broker is not None
        await asyncio.to_thread(self.broker.kill)

    def new_source(self, number: int) -> Child:
        """Start a KafkaSource of the rig's group; it delivers to the projectors in turn."""
        sink = f"http://127.0.0.1:{self.sink.port}/"
        return processes.start(
            "KafkaSource",
            [sys.executable, "-m", "local.knative.kafka_source", "--name", "saldo"]
            + ["--bootstrap", self.bootstrap_servers, "--topic", self.topic]
            + ["--group", f"saldo-{self.topic}", "--ordering", "unordered"]
            + ["--initial-offset", "earliest", "--sink", sink, "--dead-letter-sink", sink]
            + [*SOURCE_PATIENCE, *SOURCE_TIMEOUTS],
            log=self.folder / f"source-{number}.log",
            cwd=services.ROOT,
        )

    async def until_assigned(self, *sources: Child) -> None:
        for source in sources:
            await asyncio.to_thread(services.wait_until_assigned, source)

    async def stop(self) -> None:
        for replica in self.replicas:
            if replica.child is not None:
                replica.resume()
        children = [*self.sources, *(r.child for r in self.replicas if r.child is not None)]
        await asyncio.gather(*(asyncio.to_thread(child.kill) for child in children))
        if self.record:
            await asyncio.gather(*(proxy.stop() for proxy in self.proxies))
        if self.broker is not None:
            await asyncio.to_thread(self.broker.kill)
        await asyncio.gather(self.store.stop(), self.model.stop())
        for server in (self.store, self.model):
            postgres.end_leftover(server.data_dir)

    def pids(self) -> str:
        """Return the processes, for the log."""
        functions = "; ".join(
            f"{each[0].function.name} {', '.join(str(r.pid) for r in each)}"
            for each in (self.record, self.balance, self.project)
        )
        sources = ", ".join(str(source.pid) for source in self.sources)
        return f"pids: {functions}; KafkaSource {sources}"

    def can_play(self, cell_name: str) -> bool:
        """Return whether the cell can be played here: an event store can be restored once a rig."""
        return cell_name != "store-restored" or not self.store.restored

    def is_whole(self) -> bool:
        """Return whether every process runs, so that the next cell finds what it needs."""
        return all(replica.running.ended() is None for replica in self.replicas) and all(
            source.ended() is None for source in self.sources
        )

    # --- looking at what is stored

    async def find_store(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Query the event store as a superuser."""
        return await _find(self.store.dsn(), query, *arguments)

    async def find_model(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Query the read model as a superuser."""
        return await _find(self.model.dsn(), query, *arguments)

    async def run_store(self, script: str) -> None:
        """Run statements without arguments in the event store, as a superuser."""
        connection = await asyncpg.connect(self.store.dsn())
        try:
            await connection.execute(script)
        finally:
            await connection.close()

    async def store_ahead_s(self) -> float:
        """Return how far the event store's clock is ahead of this process's monotonic one."""
        before_s = time.monotonic()
        [[store_s]] = await self.find_store("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(store_s) - (before_s + time.monotonic()) / 2

    async def is_at_rest(self, prefix: str) -> bool:
        """Return whether the outbox is empty and every stream of ``prefix`` is projected."""
        [[waiting]] = await self.find_store(OUTBOX)
        if waiting:
            return False
        shown = {row["account_id"]: row for row in await self.find_model(BALANCES, prefix)}
        return all(
            row["account_id"] in shown
            and (
                shown[row["account_id"]]["position"] == row["position"]
                or shown[row["account_id"]]["blocked_at"] is not None
            )
            for row in await self.find_store(ENDS, prefix)
        )

    async def until_at_rest(self, prefix: str) -> None:
        await until_true(lambda: self.is_at_rest(prefix), f"{prefix} comes to rest")

    async def final(self, prefix: str, offsets: Sequence[int]) -> Final:
        """Return what is stored of ``prefix``'s accounts, and the topic from ``offsets`` on."""
        records = await asyncio.to_thread(self.read_topic, offsets)
        topic = {
            headers["ce_id"]: json.dumps(json.loads(value)["event"])
            for headers, value in records
            if headers["ce_subject"].startswith(prefix)
        }
        [[waiting]] = await self.find_store(OUTBOX)
        return Final(
            events=tuple(_event(row) for row in await self.find_store(EVENTS, prefix)),
            balances=tuple(
                Balance(
                    account_id=row["account_id"],
                    position=row["position"],
                    balance_minor=row["balance_minor"],
                    blocked=row["blocked_at"] is not None,
                )
                for row in await self.find_model(BALANCES, prefix)
            ),
            topic=topic,
            outbox_rows=waiting,
            retention_s=servers.TOPIC_RETENTION_MS / 1_000,
        )

    def ends_of_topic(self) -> list[int]:
        """Return the offset of the next record, for each partition."""
        with _consumer(self.bootstrap_servers) as consumer:
            return [
                consumer.get_watermark_offsets(
                    TopicPartition(self.topic, number), timeout=DEADLINE_S
                )[1]
                for number in range(servers.TOPIC_PARTITIONS)
            ]

    def read_topic(self, offsets: Sequence[int]) -> list[tuple[dict[str, str], bytes]]:
        """Return headers and value of every record from ``offsets`` to the topic's present end."""
        ends = self.ends_of_topic()
        records: list[tuple[dict[str, str], bytes]] = []
        deadline = time.monotonic() + DEADLINE_S
        with _consumer(self.bootstrap_servers) as consumer:
            consumer.assign(
                [TopicPartition(self.topic, n, offset) for n, offset in enumerate(offsets)]
            )
            reached = list(offsets)
            while any(at < end for at, end in zip(reached, ends, strict=True)):
                assert time.monotonic() < deadline, f"read up to {reached} of {ends}"
                for message in consumer.consume(1_000, POLL_S):
                    assert message.error() is None, message.error()
                    partition, offset = message.partition(), message.offset()
                    assert partition is not None
                    assert offset is not None
                    reached[partition] = offset + 1
                    headers = {
                        name: value.decode() if isinstance(value, bytes) else str(value)
                        for name, value in dict(message.headers() or []).items()
                    }
                    records.append((headers, message.value() or b""))
        return records

    async def deliver(self, records: Sequence[tuple[dict[str, str], bytes]]) -> list[int]:
        """Deliver records once more, in this order, ten at a time; what was answered."""
        statuses: list[int] = []
        waiting = iter(records)

        async def work(session: aiohttp.ClientSession) -> None:
            for headers, value in waiting:
                sent = {name.replace("ce_", "ce-"): text for name, text in headers.items()}
                url = f"http://127.0.0.1:{self.sink.port}/"
                async with session.post(url, headers=sent, data=value) as answer:
                    statuses.append(answer.status)

        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(work(session) for _ in range(10)))
        return statuses


async def _find(url: str, query: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


@contextlib.contextmanager
def _consumer(bootstrap_servers: str) -> Any:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"reader-{secrets.token_hex(4)}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def _event(row: asyncpg.Record) -> Event:
    text = json.loads(row["public_text"])
    kind: Kind = text.get("kind") or "LIMIT"
    return Event(
        account_id=row["account_id"],
        position=row["position"],
        event_id=str(row["event_id"]),
        kind=kind,
        amount_minor=text["limitMinor"] if kind == "LIMIT" else text["amountMinor"],
        key=row["key"],
        public_text=row["public_text"],
        hash=row["hash"].hex(),
        age_s=row["age_s"],
    )


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Rig]:
    """Yield a running rig and remove all of it afterwards."""
    # Thousands of connections in one cell; the rig's processes inherit it.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, OPEN_FILES), hard))
    rig = Rig(folder=_new_folder())
    try:
        await rig.start()
        yield rig
    finally:
        await rig.stop()
        await asyncio.to_thread(shutil.rmtree, rig.folder, ignore_errors=True)


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="saldo-faults-"))
    folder.chmod(0o755)  # the database's own user passes through it
    return folder
