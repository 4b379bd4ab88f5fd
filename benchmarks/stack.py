"""The real stack of a benchmark: PostgreSQL that syncs to disk, Kafka, all functions, AUTH=oidc.

It is started with the commands of `make up`, in its own folder, which is deleted afterwards. Two
empty functions run as well.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import secrets
import shutil
import signal
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import psutil

from benchmarks.placement import pin
from benchmarks.wrk import NoFigure
from local import broker, postgres, processes, services
from local.preconditions import port_in_use
from local.processes import Identity
from saldo.operate.token import issuer_server, make_token
from saldo.project.projector import PING
from saldo.serve.__main__ import BACKLOG, KEEP_ALIVE_S
from saldo.serve.functions import FUNCTIONS, PROJECT, Function
from saldo.serve.server import GC_ALLOCATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from benchmarks.placement import Placement
    from local.broker import Broker
    from local.postgres import Postgres
    from local.processes import Child

EMPTY, EMPTY_EVENT = "empty", "empty_event"
ISSUER = "http://127.0.0.1/issuer"
AUDIENCE = "saldo"
SINK_SUBJECT = "system:serviceaccount:saldo:benchmark"
TOKEN_S = 4 * 60 * 60
STOP_TIMEOUT_S = 25.0
SETTLE_TIMEOUT_S = 240.0
LOOK_S = 0.1
MB = 1_000_000

SETTLED = """
SELECT NOT EXISTS (SELECT FROM event_store.outbox) AND NOT EXISTS (
    SELECT FROM event_store.stream AS s LEFT JOIN read_model.balance AS b USING (account_id)
    WHERE s.position > coalesce(b.position, 0))
"""
OUTBOX_EMPTY = "SELECT NOT EXISTS (SELECT FROM event_store.outbox)"


@dataclass(slots=True, kw_only=True)
class Stack:
    """What runs, where, and who may ask."""

    folder: Path
    placement: Placement
    server: Postgres
    kafka: Broker
    jwks_url: str
    hash_secret: str = field(default_factory=lambda: secrets.token_hex(32))
    children: dict[str, Child] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    sources: int = 0

    # --- who asks

    def token(self) -> str:
        """Return a client's token for every account."""
        return self._token("benchmark", scope="transactions:write balances:read accounts:admin")

    def sink_token(self) -> str:
        """Return the token of the source that delivers events."""
        return self._token(SINK_SUBJECT)

    def _token(self, subject: str, **claims: str) -> str:
        now = int(time.time())
        whole: dict[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + TOKEN_S,
            "saldo_accounts": "*",
            **claims,
        }
        return make_token(self.folder / "issuer", whole)

    # --- what runs

    def env(self, role: str, **settings: str) -> dict[str, str]:
        """Return the environment of a function in ``role``; ``settings`` override it."""
        oidc = {"ISSUER": ISSUER, "AUDIENCE": AUDIENCE, "JWKS_URL": self.jwks_url}
        return services.environ(
            role,
            self.server.dsn,
            hash_secret=self.hash_secret,
            bootstrap_servers=self.kafka.bootstrap_servers,
            overrides={
                "AUTH": "oidc",
                "SINK_SUBJECTS": SINK_SUBJECT,
                **{
                    f"{who}_{name}": text for who in ("OIDC", "SINK") for name, text in oidc.items()
                },
                **settings,
            },
        )

    def start_function(self, function: Function, name: str | None = None, **settings: str) -> Child:
        """Start a function under ``name`` (its own); it may not be ready yet."""
        name = name or function.name
        port = self.ports[name] = processes.free_port()
        child = services.start_function(
            function,
            port=port,
            env=self.env(function.role, **settings),
            log=self.folder / f"{name}.log",
        )
        self._keep(name, child)
        return child

    def _keep(self, name: str, child: Child) -> None:
        """Note ``child``, also in a file for a later run, should this one be killed."""
        self.children[name] = child
        (self.folder / f"{name}.process").write_text(json.dumps(asdict(child.identity)))

    def start_empty(self, name: str) -> None:
        """Start one of the empty functions, with the server's settings of saldo.serve."""
        port = self.ports[name] = processes.free_port()
        script = services.ROOT / "benchmarks" / "empty" / "serve.py"
        command: list[str | Path] = [sys.executable, script, "--function", name]
        command += ["--port", str(port), "--backlog", str(BACKLOG)]
        command += ["--keep-alive", str(KEEP_ALIVE_S), "--gc-allocations", str(GC_ALLOCATIONS)]
        log = self.folder / f"{name}.log"
        self._keep(name, processes.start(name, command, log=log, cwd=services.ROOT))

    def stop(self, name: str) -> None:
        """End one process in order."""
        self.children.pop(name).stop(STOP_TIMEOUT_S)

    def start_source(self) -> None:
        """Start KafkaSource at the topic's end: what was skipped is the sweep's to project."""
        self.sources += 1
        sink = f"http://127.0.0.1:{self.ports[PROJECT.name]}/"
        token_file = self.folder / "sink_token"
        token_file.write_text(self.sink_token())
        child = processes.start(
            "KafkaSource",
            [sys.executable, "-m", "local.knative.kafka_source"]
            + ["--name", "saldo", "--bootstrap", self.kafka.bootstrap_servers]
            + ["--topic", services.TOPIC, "--group", f"saldo-{self.sources}"]
            + ["--initial-offset", "latest", "--ordering", "unordered"]
            + ["--sink", sink, "--dead-letter-sink", sink, "--timeout", "PT30S"]
            + ["--retry", "10", "--backoff-policy", "exponential", "--backoff-delay", "PT0.3S"]
            + ["--sink-audience", AUDIENCE, "--token-file", str(token_file)],
            log=self.folder / "kafka_source.log",
            cwd=services.ROOT,
        )
        self._keep("KafkaSource", child)
        services.wait_until_assigned(child)
        pin(child.pid, self.placement.rest)

    def start_functions(self) -> None:
        """Start the three functions, and wait until they are ready."""
        for function in FUNCTIONS:
            self.start_function(function)
        for function in FUNCTIONS:
            services.wait_until_ready(self.children[function.name], self.ports[function.name])

    @contextlib.contextmanager
    def without_functions(self) -> Iterator[None]:
        """Keep all others off the database; wait first for what is under way.

        The functions are new processes afterwards, on other ports.
        """
        self.stop_source()
        self.wait_settled()
        for function in FUNCTIONS:
            self.stop(function.name)
        yield
        self.start_functions()
        self.start_source()

    def stop_source(self) -> None:
        """End KafkaSource, so that nothing is delivered but by the benchmark."""
        self.stop("KafkaSource")

    def place_anywhere(self) -> None:
        """Let the system decide where each process runs."""
        everywhere = self.placement.function | self.placement.load | self.placement.rest
        for pid in self._pids():
            pin(pid, everywhere)

    def place(self, under_test: str) -> None:
        """Give the process ``under_test`` the function's core, and all others the rest."""
        for name, child in self.children.items():
            own = name == under_test
            pin(child.pid, self.placement.function if own else self.placement.rest)
        for pid in (self.server.child.pid, self.kafka.pid):
            pin(pid, self.placement.rest)

    def _pids(self) -> list[int]:
        servers = [self.server.child.pid, self.kafka.pid]
        return [*servers, *(child.pid for child in self.children.values())]

    # --- what is looked at

    def cpu_s(self, name: str) -> float:
        """Return the CPU seconds of a process, user and system, in all its threads."""
        times = psutil.Process(self.children[name].pid).cpu_times()
        return float(times.user + times.system)

    def postgres_cpu_s(self) -> float:
        """Return the CPU seconds of PostgreSQL, in all its processes, including ended ones."""
        server = psutil.Process(self.server.child.pid)
        times = server.cpu_times()
        used = times.user + times.system + times.children_user + times.children_system
        for backend in server.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                own = backend.cpu_times()
                used += own.user + own.system
        return float(used)

    def resident_mb(self, name: str) -> float:
        """Return the resident memory of a process."""
        return float(psutil.Process(self.children[name].pid).memory_info().rss / MB)

    def sql(self, statement: str) -> str:
        """Run ``statement`` as the superuser and return its result as text."""
        return postgres.run_sql(self.server.dsn(), statement)

    def wait_for(self, condition: str, what: str) -> None:
        """Wait until the query ``condition`` is true; NoFigure after SETTLE_TIMEOUT_S."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while self.sql(condition) != "t":
            if time.monotonic() > deadline:
                raise NoFigure(f"{what} did not come within {SETTLE_TIMEOUT_S:.0f} s")
            time.sleep(LOOK_S)

    def wait_sent(self) -> None:
        """Wait until Kafka has acknowledged everything."""
        self.wait_for(OUTBOX_EMPTY, "an empty outbox")

    def wait_settled(self) -> None:
        """Wait until everything is sent and projected, what was not delivered by the sweep."""
        self.sweep()
        self.wait_for(SETTLED, "the end of the projection")

    def sweep(self) -> None:
        """Have the projector sweep now, as a PingSource does."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[PROJECT.name]}/",
            data=b"{}",
            headers={
                "Authorization": f"Bearer {self.sink_token()}",
                "Content-Type": "application/json",
                "ce-specversion": "1.0",
                "ce-id": secrets.token_hex(8),
                "ce-source": "/benchmarks",
                "ce-type": PING,
            },
        )
        with (
            contextlib.suppress(OSError),  # its own timer comes a little later
            urllib.request.urlopen(request, timeout=SETTLE_TIMEOUT_S),  # noqa: S310
        ):
            pass


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """Yield the endpoint of a collector that accepts everything and keeps nothing."""

    class Taken(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(http.HTTPStatus.OK)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def running_stack(
    folder: Path, placement: Placement, progress: Callable[[str], None]
) -> Iterator[Stack]:
    """Yield the whole stack, ready; end its processes and delete its folder afterwards."""
    end_leftovers(folder)
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as ends:
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        jars = services.ROOT / broker.default_cache_dir()
        broker.prepare_jars(jars, progress)
        progress("starting PostgreSQL and Kafka")
        with ThreadPoolExecutor(2) as pool:
            database = pool.submit(
                postgres.start_postgres, folder / "postgres", folder / "postgres.log"
            )
            kafka = broker.start_kafka(folder / "kafka", processes.free_port(), cache_dir=jars)
            ends.callback(kafka.stop)
            server = database.result()
            ends.callback(server.stop)
        issuer = issuer_server(folder / "issuer", 0)
        threading.Thread(target=issuer.serve_forever, daemon=True).start()
        ends.callback(issuer.server_close)
        ends.callback(issuer.shutdown)
        stack = Stack(
            folder=folder,
            placement=placement,
            server=server,
            kafka=kafka,
            jwks_url=f"http://127.0.0.1:{issuer.server_port}/jwks.json",
        )
        stack.token()  # makes the issuer's key before anyone asks for it
        ends.callback(end_all, stack)
        broker.create_topic(
            kafka.bootstrap_servers,
            services.TOPIC,
            services.TOPIC_PARTITIONS,
            services.TOPIC_RETENTION_MS,
        )
        services.migrate(stack.env(postgres.SUPERUSER), folder / "migrate.log")
        progress("starting the functions")
        for name in (EMPTY, EMPTY_EVENT):
            stack.start_empty(name)
        stack.start_functions()
        for name in (EMPTY, EMPTY_EVENT):
            processes.wait_until(
                stack.children[name].ended,
                partial(port_in_use, stack.ports[name]),
                name=name,
                timeout_s=services.READY_TIMEOUT_S,
            )
        stack.start_source()
        yield stack


def end_leftovers(folder: Path) -> None:
    """End what a run that was killed has left, and delete its folder."""
    for file in folder.glob("*.process"):
        processes.end(Identity(**json.loads(file.read_text())), timeout_s=STOP_TIMEOUT_S)
    postgres.end_leftover(folder / "postgres")
    for identity in processes.with_argument(str(folder / "kafka" / "server.properties")):
        processes.end(identity, timeout_s=STOP_TIMEOUT_S)
    shutil.rmtree(folder, ignore_errors=True)


def end_all(stack: Stack) -> None:
    """End all processes, even if ending one fails; those that deliver first."""
    with contextlib.ExitStack() as ends:
        # The last one that is pushed is the first one to end.
        for name in sorted(stack.children, key=lambda name: name == "KafkaSource"):
            ends.callback(stack.children[name].stop, STOP_TIMEOUT_S)


def end_at_sigterm() -> None:
    """Have SIGTERM end this process in order, with all that it started; once is enough."""

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def settings_of(stack: Stack) -> dict[str, str]:
    """Return the servers' settings for the report."""
    names = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size")
    shown = {name: stack.sql(f"SHOW {name}") for name in names}
    return {f"PostgreSQL {name}": text for name, text in shown.items()}
