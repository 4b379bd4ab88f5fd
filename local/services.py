"""How each process of the local stack is started: the functions, KafkaSource, PingSource, migrate.

`make up`, the tests and the fault tests start them by these same lines.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from local import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from local.processes import Child
    from saldo.serve.functions import Function

ROOT = Path(__file__).resolve().parents[1]

TOPIC = "transactions"
# One is enough for the single consumer here; two, so that nothing relies on the order between them.
# A producer's request holds the records of one partition: with six of them Kafka takes 1.7 times as
# much of the CPU that it shares with the functions.
TOPIC_PARTITIONS = 2
TOPIC_RETENTION_MS = 7 * 24 * 60 * 60 * 1000
CONSUMER_GROUP = "saldo-project-balance"
SWEEP_INTERVAL_S = 600
MIGRATE_TIMEOUT_S = 240.0
READY_TIMEOUT_S = 240.0


class MigrationFailed(Exception):
    """`saldo migrate` did not end well."""


def environ(
    role: str,
    dsn: Callable[[str], str],
    *,
    hash_secret: str,
    bootstrap_servers: str,
    overrides: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the environment of a process of database ``role``; ``dsn`` gives a role's URL."""
    return {
        **os.environ,
        "EVENT_STORE_URL": dsn(role),
        "READ_MODEL_URL": dsn(role),
        "DATABASE_AUTH": "url",
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "KAFKA_TOPIC": TOPIC,
        "KAFKA_SECURITY": "plaintext",
        "HASH_SECRET": hash_secret,
        "AUTH": "none",
        **(overrides or {}),
    }


def start_function(
    function: Function, *, port: int, env: Mapping[str, str], log: Path, host: str = "127.0.0.1"
) -> Child:
    """Start the server of ``function``; it is ready when it answers /readyz."""
    return processes.start(
        function.name,
        [sys.executable, "-m", "saldo.serve", "--function", function.name]
        + ["--host", host, "--port", str(port)],
        log=log,
        cwd=ROOT,
        env=env,
    )


def wait_until_assigned(source: Child) -> None:
    """Wait until KafkaSource has its partitions; NotReady when it does not get them."""
    processes.wait_until(
        source.ended, lambda: source.said("ready"), name=source.name, timeout_s=READY_TIMEOUT_S
    )


def is_ready(child: Child, port: int) -> bool:
    """Return whether ``child``, a function, responds on ``port``, and no neighbour's function."""
    return processes.listens(child.pid, port) and processes.answers(port)


def wait_until_ready(child: Child, port: int) -> None:
    """Wait until ``child``, a function, answers on ``port``; NotReady when it does not."""
    processes.wait_until(
        child.ended,
        lambda: is_ready(child, port),
        name=child.name,
        timeout_s=READY_TIMEOUT_S,
    )


def migrate(env: Mapping[str, str], log: Path) -> None:
    """Bring both schemas up to date; MigrationFailed when that does not end well."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        log_start = output.tell()
        done = subprocess.run(
            [sys.executable, "-m", "saldo.cli", "migrate"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=MIGRATE_TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        what = f"the migrations {processes.how_it_ended(done.returncode)}. Their log ends:"
        lines = processes.tail(log, log_start)
        raise MigrationFailed("".join([what, *(f"\n    {line}" for line in lines)]))


def start_kafka_source(bootstrap_servers: str, *, sink_port: int, log: Path) -> Child:
    """Start the KafkaSource that delivers the topic to project_balance, its dead letters too.

    All of spec.delivery is given, as in the cluster: given in part, Knative loses its defaults.
    """
    sink = f"http://127.0.0.1:{sink_port}/"
    return processes.start(
        "KafkaSource",
        [sys.executable, "-m", "local.knative.kafka_source"]
        + ["--name", "saldo", "--bootstrap", bootstrap_servers, "--topic", TOPIC]
        + ["--group", CONSUMER_GROUP, "--ordering", "unordered", "--initial-offset", "earliest"]
        + ["--sink", sink, "--dead-letter-sink", sink, "--timeout", "PT30S"]
        + ["--retry", "10", "--backoff-policy", "exponential", "--backoff-delay", "PT0.3S"],
        log=log,
        cwd=ROOT,
    )


def start_ping_source(sink_ports: Sequence[int], *, log: Path) -> Child:
    """Start the PingSource that wakes the sweeps of the functions on ``sink_ports``."""
    sinks = [word for port in sink_ports for word in ("--sink", f"http://127.0.0.1:{port}/")]
    return processes.start(
        "PingSource",
        [
            sys.executable,
            "-m",
            "local.knative.ping_source",
            "--interval",
            f"PT{SWEEP_INTERVAL_S}S",
            *sinks,
        ],
        log=log,
        cwd=ROOT,
    )
