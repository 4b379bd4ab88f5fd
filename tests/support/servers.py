"""The PostgreSQL and the Kafka that one test run shares, over all its workers.

The run has a folder, and a lock in it that the kernel lets go of when the run's first process ends.
The worker that first needs a server starts it, while the others wait for that; the run's first
process, which outlives all workers, ends them. A later run finds the folders whose lock nobody
holds, and ends what is left there, so that a killed run leaves nothing for long.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from confluent_kafka.admin import AdminClient

from local import broker, postgres, processes, services
from local.preconditions import held
from local.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from local.processes import Child
    from saldo.serve.functions import Function

RUNS = Path(tempfile.gettempdir()) / f"saldo-tests-{os.geteuid()}"
STOP_TIMEOUT_S = 5.0  # short: it is killed then, and its data are thrown away
# For every request of a test: httpx would give up after 5 s, which a busy machine may take.
REQUEST_TIMEOUT_S = 120.0
TEMPLATE = "saldo_template"
HASH_SECRET = "5a" * 32
TOPIC_PARTITIONS = 6
TOPIC_RETENTION_MS = 60 * 60 * 1000
# A port that no server of these tests ever has: Kafka as it is when it is down.
NO_KAFKA = "127.0.0.1:1"


# --- the run ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One test run, known to all its workers by its folder."""

    folder: Path

    def once(self, name: str, start: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Call ``start`` in the first worker only, and return its result to all workers."""
        result = self.folder / f"{name}.result"
        with held(self.folder / f"{name}.lock"):
            if not result.exists():
                unfinished = result.with_suffix(".new")
                unfinished.write_text(json.dumps(start()))
                unfinished.rename(result)
            found: dict[str, str] = json.loads(result.read_text())
            return found

    def will_end(self, name: str, identity: Identity) -> None:
        """Have the process ended with the run, by any process that is left."""
        (self.folder / f"{name}.process").write_text(json.dumps(asdict(identity)))

    def end(self) -> None:
        """End the servers and remove the folder."""
        for file in self.folder.glob("*.process"):
            processes.end(Identity(**json.loads(file.read_text())), timeout_s=STOP_TIMEOUT_S)
        # Those of a worker that died before it could write them down.
        postgres.end_leftover(self.folder / "postgres")
        for identity in processes.with_argument(str(self.folder / "kafka" / "server.properties")):
            processes.end(identity, timeout_s=STOP_TIMEOUT_S)
        shutil.rmtree(self.folder, ignore_errors=True)


def begin_run() -> tuple[Run, IO[str]]:
    """Begin a run; return it with its lock file, which must stay open during the run."""
    RUNS.mkdir(exist_ok=True)
    with held(RUNS / "lock"):
        for folder in RUNS.glob("run-*"):
            _end_if_dead(Run(folder=folder))
        run = Run(folder=Path(tempfile.mkdtemp(prefix="run-", dir=RUNS)))
        lock = (run.folder / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return run, lock


def _end_if_dead(run: Run) -> None:
    with (run.folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        run.end()


def _let_go(process: object) -> None:
    """Let a Popen be forgotten while its process runs, which it otherwise complains about."""
    if isinstance(process, subprocess.Popen):
        process.returncode = 0


# --- PostgreSQL -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A migrated database of one test: both the event store and the read model."""

    data_dir: Path
    name: str

    def dsn(self, role: str = postgres.SUPERUSER) -> str:
        """Return the URL by which ``role`` reaches the database."""
        return postgres.dsn(self.data_dir, role, self.name)


def start_shared_postgres(run: Run) -> Path:
    """Start the run's PostgreSQL with the migrated template; return its data directory.

    It does not sync: a crash of the machine may cost the data, a kill of the server does not.
    """

    def start() -> dict[str, str]:
        data_dir = run.folder / "postgres"
        server = postgres.start_postgres(data_dir, run.folder / "postgres.log", durable=False)
        _let_go(server.child.process)
        run.will_end("postgres", server.child.identity)
        template = Database(data_dir=data_dir, name=TEMPLATE)
        _in_cluster(data_dir, f"CREATE DATABASE {TEMPLATE}")
        migrate(template, run.folder / "migrate.log")
        # No session may be connected to a database while it is cloned.
        _in_cluster(data_dir, f"ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false")
        return {"data_dir": str(data_dir)}

    return Path(run.once("postgres", start)["data_dir"])


def migrate(database: Database, log: Path) -> None:
    """Apply all migrations to ``database``."""
    env = services.environ(
        postgres.SUPERUSER, database.dsn, hash_secret=HASH_SECRET, bootstrap_servers=NO_KAFKA
    )
    services.migrate(env, log)


@contextlib.contextmanager
def cloned_database(data_dir: Path) -> Iterator[Database]:
    """Yield a clone of the template and drop it afterwards, even while in use."""
    database = Database(data_dir=data_dir, name=f"test_{secrets.token_hex(6)}")
    _in_cluster(data_dir, f"CREATE DATABASE {database.name} TEMPLATE {TEMPLATE}")
    try:
        yield database
    finally:
        _in_cluster(data_dir, f"DROP DATABASE {database.name} WITH (FORCE)")


def _in_cluster(data_dir: Path, statement: str) -> None:
    postgres.run_sql(postgres.dsn(data_dir, database="postgres"), statement)


# --- Kafka ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Kafka:
    """The run's Kafka."""

    bootstrap_servers: str


def start_shared_kafka(run: Run) -> Kafka:
    """Return the run's Kafka; the first call starts it."""

    def start() -> dict[str, str]:
        started = broker.start_kafka(
            run.folder / "kafka",
            processes.free_port(),
            # The same for all runs: a download for each would test nothing.
            cache_dir=services.ROOT / broker.default_cache_dir(),
        )
        _let_go(started.process)
        run.will_end("kafka", Identity.of(started.pid))
        return {"bootstrap_servers": started.bootstrap_servers}

    return Kafka(**run.once("kafka", start))


@contextlib.contextmanager
def fresh_topic(kafka: Kafka) -> Iterator[str]:
    """Yield the name of a new topic, set up like that of the transactions."""
    name = f"transactions-{secrets.token_hex(6)}"
    broker.create_topic(kafka.bootstrap_servers, name, TOPIC_PARTITIONS, TOPIC_RETENTION_MS)
    try:
        yield name
    finally:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        admin.delete_topics([name])[name].result()


# --- functions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A function that is being served."""

    url: str
    port: int
    child: Child

    def log(self) -> str:
        """Return its whole log."""
        return self.child.log.read_text()


def start_function(
    function: Function, database: Database, log: Path, env: Mapping[str, str]
) -> Served:
    """Serve ``function`` on a free port, and wait until it is ready.

    Without KAFKA_BOOTSTRAP_SERVERS in ``env`` its Kafka is down.
    """
    port = processes.free_port()
    whole_env = services.environ(
        function.role,
        database.dsn,
        hash_secret=HASH_SECRET,
        bootstrap_servers=NO_KAFKA,
        overrides=env,
    )
    child = services.start_function(function, port=port, env=whole_env, log=log)
    try:
        services.wait_until_ready(child, port)
    except processes.NotReady as error:
        child.kill()
        raise AssertionError("\n".join([str(error), *child.last_words()])) from error
    return Served(url=f"http://127.0.0.1:{port}", port=port, child=child)
