"""The whole stack of a test: real processes, a PostgreSQL that syncs to disk, the run's Kafka."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from local import processes, services
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local.processes import Child
    from saldo.serve.functions import Function
    from tests.conftest import OwnPostgres
    from tests.support.servers import Database, Kafka, Served

STOP_TIMEOUT_S = 120.0


@dataclass(slots=True, kw_only=True)
class Stack:
    """Starts what a test wants of the stack, by the lines that `make up` starts it by."""

    database: Database
    kafka: Kafka
    topic: str
    folder: Path
    children: list[Child] = field(default_factory=list)

    def serve(self, function: Function, **more: str) -> Served:
        """Start a function and return it once it is ready; ``more`` are further settings."""
        log = self.folder / f"{function.name}-{len(self.children)}.log"
        settings = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "KAFKA_TOPIC": self.topic,
            **more,
        }
        served = servers.start_function(function, self.database, log, settings)
        self.children.append(served.child)
        return served

    def deliver(self, project: Served) -> Child:
        """Start the KafkaSource that delivers the topic to a projector, as services.py does."""
        sink = f"{project.url}/"
        source = processes.start(
            "KafkaSource",
            [sys.executable, "-m", "local.knative.kafka_source", "--name", "saldo"]
            + ["--bootstrap", self.kafka.bootstrap_servers, "--topic", self.topic]
            + ["--group", f"saldo-{self.topic}", "--ordering", "unordered"]
            + ["--initial-offset", "earliest", "--sink", sink, "--dead-letter-sink", sink]
            + ["--timeout", "PT30S", "--retry", "10", "--backoff-policy", "exponential"]
            + ["--backoff-delay", "PT0.3S"],
            log=self.folder / "kafka_source.log",
            cwd=services.ROOT,
        )
        self.children.append(source)
        services.wait_until_assigned(source)
        return source

    def stop(self, child: Child) -> None:
        """End a process in order."""
        child.stop(STOP_TIMEOUT_S)
        self.children.remove(child)


@pytest.fixture
def light_stack(database: Database, kafka: Kafka, topic: str, tmp_path: Path) -> Iterator[Stack]:
    """Yield a stack on the run's PostgreSQL, for tests that do not depend on its speed."""
    yield from running(Stack(database=database, kafka=kafka, topic=topic, folder=tmp_path))


@pytest.fixture
def stack(own_postgres: OwnPostgres, kafka: Kafka, topic: str, tmp_path: Path) -> Iterator[Stack]:
    """Yield a stack on which only the servers run."""
    database = own_postgres.database
    yield from running(Stack(database=database, kafka=kafka, topic=topic, folder=tmp_path))


def running(made: Stack) -> Iterator[Stack]:
    """Yield the stack and end its processes after the test."""
    try:
        yield made
    finally:
        for child in reversed(made.children):
            child.kill()
