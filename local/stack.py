"""`make up`: PostgreSQL, Kafka, the three functions, KafkaSource and PingSource on this machine.

    python -m local.stack up [--detach] | down | status

Everything that it keeps is in .saldo: the data of PostgreSQL and Kafka, logs, the secret of the
keyed hashes. RECORD_PORT, BALANCE_PORT and PROJECT_PORT choose the functions' ports, KAFKA_PORT
Kafka's.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local import broker, postgres, processes, services
from local.preconditions import NotPossible, check_disk, check_port, held, port_in_use
from local.processes import Identity
from local.supervisor import Running, Service, Supervisor, read_state
from saldo.serve.functions import BALANCE, FUNCTIONS, PROJECT, RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from types import FrameType

    from saldo.serve.functions import Function

FOLDER = services.ROOT / ".saldo"
KAFKA_PORT = 9092
PORT_MAX = 65_535
HASH_SECRET_BYTES = 32
LOOK_S = 0.2
PROGRESS_PAUSE_S = 2.0
LEFTOVER_TIMEOUT_S = 120.0
# All that is stopped one after another, drains included.
DOWN_TIMEOUT_S = 600.0
REFUSED = (
    NotPossible,
    broker.BrokerError,
    postgres.PostgresError,
    processes.NotReady,
    services.MigrationFailed,
)

# The order of stopping: what lets work in, what hands it on, what takes it, what holds it.
ENTRANCES, SOURCE, SINK, KAFKA, POSTGRES = range(5)


class Stopping(Exception):
    """It was told to stop before it was up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The files of the stack."""

    path: Path

    @property
    def lock(self) -> Path:
        """Return the file that is locked while the stack is up."""
        return self.path / "stack.lock"

    @property
    def stack(self) -> Path:
        """Return the file that names the process that holds the lock, and its ports."""
        return self.path / "stack.json"

    @property
    def processes(self) -> Path:
        """Return the file that names the processes that it started."""
        return self.path / "processes.json"

    @property
    def kafka(self) -> Path:
        """Return the folder of Kafka's data."""
        return self.path / "kafka"

    @property
    def postgres(self) -> Path:
        """Return the folder of PostgreSQL's data."""
        return self.path / "postgres"

    @property
    def env(self) -> Path:
        """Return the file of settings for a shell that uses the `saldo` command."""
        return self.path / "env"

    def log(self, name: str) -> Path:
        """Return the log file of ``name``."""
        return self.path / "logs" / f"{name}.log"


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    folder = Folder(path=FOLDER)
    commands: dict[str, Callable[[], int]] = {
        "up": lambda: up(folder),
        "up --detach": up_detached,
        "down": lambda: down(folder),
        "status": lambda: status(folder),
    }
    if arguments[:1] == ["up-in-background"]:
        return told(lambda: up(folder, ready_fd=int(arguments[1])))
    command = commands.get(" ".join(arguments))
    if command is None:
        print(__doc__, file=sys.stderr)
        return 2
    return told(command)


def told(command: Callable[[], int]) -> int:
    """Run ``command``; print an expected failure as one line, not as a traceback."""
    try:
        return command()
    except REFUSED as error:
        print(f"saldo: {error}", file=sys.stderr)
    except OSError as error:
        print(f"saldo: {error.filename or FOLDER}: {error.strerror}", file=sys.stderr)
    return 1


# --- up ---------------------------------------------------------------------------------------


def up(folder: Folder, *, ready_fd: int | None = None) -> int:
    """Start everything and stay until told to stop; the exit status.

    With ``ready_fd``, leave the terminal once all is up, and say so through it.
    """
    ports = chosen_ports(os.environ)
    with held(folder.lock, otherwise=already_up(folder)):
        end_leftovers(folder)
        for function, port in ports.items():
            check_port(port, function=function.name, setting=f"{function.prefix}_PORT")
        kafka_port = chosen_kafka_port(os.environ, ports.values())
        check_disk(folder.path)
        stopping = threading.Event()
        supervisor = Supervisor(state_file=folder.processes, say=say)
        with signals_to(stopping, supervisor):
            write_stack(folder, ports)
            try:
                bring_up(folder, ports, kafka_port, supervisor, stopping)
                say(screen(ports, stop="make down" if ready_fd else "Ctrl-C"))
                if ready_fd is not None:
                    leave_terminal(folder, ready_fd)
                while not stopping.wait(LOOK_S):
                    supervisor.look()
            except Stopping:
                pass
            finally:
                if supervisor.services:
                    say("saldo: stopping")
                supervisor.stop()
                folder.stack.unlink(missing_ok=True)
        say("saldo: stopped; the data are kept in .saldo")
    return 0


def bring_up(
    folder: Folder,
    ports: Mapping[Function, int],
    kafka_port: int,
    supervisor: Supervisor,
    stopping: threading.Event,
) -> None:
    """Start all services, those that do not wait for one another at the same time."""

    def progress(text: str) -> None:
        if stopping.is_set():
            raise Stopping
        say(f"saldo: {text}")

    broker.prepare_jars(progress=seldom(progress))
    bootstrap_servers = f"127.0.0.1:{kafka_port}"
    hash_secret = kept_hash_secret(folder.path / "hash_secret")
    write_env(folder, ports, bootstrap_servers)
    database = postgres_service(folder, progress)
    kafka = kafka_service(folder, kafka_port, progress)

    def env(role: str) -> dict[str, str]:
        return services.environ(
            role,
            lambda user: postgres.dsn(folder.postgres, user),
            hash_secret=hash_secret,
            bootstrap_servers=bootstrap_servers,
            overrides=console_settings(ports),
        )

    functions = [
        function_service(folder, function, port, env(function.role))
        for function, port in ports.items()
    ]
    with ThreadPoolExecutor(2) as pool:
        database_started = pool.submit(supervisor.start, database)
        kafka_started = pool.submit(supervisor.start, kafka)
        database_started.result()
        progress("applying the migrations")
        services.migrate(env(postgres.SUPERUSER), folder.log("migrate"))
        progress("starting the functions")
        for service in functions:
            supervisor.start(service)
        kafka_started.result()
    progress("starting KafkaSource and PingSource")
    kafka_source = kafka_source_service(folder, bootstrap_servers, ports[PROJECT])
    ping_source = ping_source_service(folder, [ports[RECORD], ports[PROJECT]])
    for service in (kafka_source, ping_source):
        supervisor.start(service)
    wait_until_ready([*functions, kafka_source, ping_source], stopping)


def console_settings(ports: Mapping[Function, int]) -> dict[str, str]:
    """Let the console's page, which get_balance serves, record in record_transaction."""
    balance = ports[BALANCE]
    return {
        "CONSOLE_RECORD_URL": f"http://localhost:{ports[RECORD]}",
        "CORS_ORIGINS": f"http://localhost:{balance},http://127.0.0.1:{balance}",
    }


def seldom(progress: Callable[[str], None]) -> Callable[[str], None]:
    """Return ``progress`` without the texts that follow too soon."""
    told_at = -PROGRESS_PAUSE_S

    def tell(text: str) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_PAUSE_S:
            told_at = time.monotonic()
            progress(text)

    return tell


def postgres_service(folder: Folder, progress: Callable[[str], None]) -> Service:
    """Return PostgreSQL, with its data and socket in the folder."""

    def start() -> Running:
        server = postgres.start_postgres(folder.postgres, folder.log("postgres"), progress=progress)
        return Running(
            identity=server.child.identity,
            ready=lambda: True,
            last_words=server.child.last_words,
            ended=server.child.ended,
            stop=server.stop,
            kill=server.kill,
        )

    return Service(name="PostgreSQL", start=start, stopped_in=POSTGRES, essential=True)


def kafka_service(folder: Folder, port: int, progress: Callable[[str], None]) -> Service:
    """Return Kafka, with the topic of the transactions."""

    def start() -> Running:
        kafka = broker.start_kafka(folder.kafka, port, progress=progress)
        try:
            broker.create_topic(
                kafka.bootstrap_servers,
                services.TOPIC,
                services.TOPIC_PARTITIONS,
                services.TOPIC_RETENTION_MS,
                progress=progress,
            )
        except BaseException:
            kafka.kill()
            raise
        return Running(
            identity=Identity.of(kafka.pid),
            ready=lambda: True,
            last_words=lambda: processes.tail(kafka.log_path),
            ended=kafka.process.poll,
            stop=kafka.stop,
            kill=kafka.kill,
        )

    return Service(name="Kafka", start=start, stopped_in=KAFKA, essential=True)


def function_service(
    folder: Folder, function: Function, port: int, env: Mapping[str, str]
) -> Service:
    """Return one of the three functions."""

    def start() -> Running:
        log = folder.log(function.name)
        child = services.start_function(function, port=port, env=env, log=log)
        return Running.of(child, ready=lambda: services.is_ready(child, port))

    stopped_in = SINK if function is PROJECT else ENTRANCES
    return Service(name=function.name, start=start, stopped_in=stopped_in)


def kafka_source_service(folder: Folder, bootstrap_servers: str, sink_port: int) -> Service:
    """Return KafkaSource, which is ready once it has the topic's partitions."""

    def start() -> Running:
        log = folder.log("kafka_source")
        child = services.start_kafka_source(bootstrap_servers, sink_port=sink_port, log=log)
        return Running.of(child, ready=lambda: child.said("ready"))

    return Service(name="KafkaSource", start=start, stopped_in=SOURCE)


def ping_source_service(folder: Folder, sink_ports: Sequence[int]) -> Service:
    """Return PingSource, which starts the sweeps."""

    def start() -> Running:
        child = services.start_ping_source(sink_ports, log=folder.log("ping_source"))
        return Running.of(child, ready=lambda: True)

    return Service(name="PingSource", start=start, stopped_in=ENTRANCES)


def wait_until_ready(started: Sequence[Service], stopping: threading.Event) -> None:
    """Wait for all of ``started``; NotPossible, with its last words, when one does not come up."""
    for service in started:
        running = service.running
        assert running is not None  # noqa: S101 - it was started just now
        try:
            processes.wait_until(
                running.ended,
                running.ready,
                name=service.name,
                timeout_s=services.READY_TIMEOUT_S,
                cancelled=stopping.is_set,
            )
        except processes.NotReady as error:
            if stopping.is_set():
                raise Stopping from None
            lines = "".join(f"\n    {line}" for line in running.last_words())
            raise NotPossible(f"{error}. Its log ends:{lines}") from error


def screen(ports: Mapping[Function, int], *, stop: str) -> str:
    """Return the text to show once all is up."""
    record, balance, project = (f"http://localhost:{port}" for port in ports.values())
    post = f"curl -i {record}/transactions -H 'Content-Type: application/json' -d"
    income = '{"accountId":"wesley","description":"Salary","type":"INCOME","value":1000}'
    expense = '{"accountId":"wesley","description":"Shoes","type":"EXPENSE","value":250.5}'
    console = ports[BALANCE]
    lines = [
        "",
        "Saldo is up.",
        "",
        *([f"  console             {balance}/console"] if has_console(console) else []),
        f"  record_transaction  {record}/transactions",
        f"  get_balance         {balance}/balances",
        f"  project_balance     {project}",
        "",
        "Paste these:",
        "",
        f"  {post} '{income}'",
        f"  {post} '{expense}'",
        # Pasted together, the last one comes before the projection: it waits for what was recorded.
        f"  curl -i '{balance}/balances?accountId=wesley&minPosition=2' -H 'Prefer: wait=5'",
        "",
        "`. .saldo/env` gives a shell the `saldo` command for this stack: saldo status",
        f"Logs are in .saldo/logs, Kafka's in .saldo/kafka/kafka.log. {stop} stops everything.",
        "",
    ]
    return "\n".join(lines)


def has_console(port: int) -> bool:
    """Return whether a function serves the console."""
    return processes.answers(port, "/console")


def chosen_ports(environ: Mapping[str, str]) -> dict[Function, int]:
    """Return the port of each function; NotPossible names a setting that is no port."""
    ports: dict[Function, int] = {}
    for function in FUNCTIONS:
        text = environ.get(f"{function.prefix}_PORT") or str(function.port)
        ports[function] = _port(f"{function.prefix}_PORT", text, ports.values())
    return ports


def chosen_kafka_port(environ: Mapping[str, str], others: Collection[int]) -> int:
    """Return KAFKA_PORT, or else the usual port if it is free, or else one that is.

    The usual port is claimed, so that of two stacks that start together only one has it.
    """
    text = environ.get("KAFKA_PORT")
    if text:
        port = _port("KAFKA_PORT", text, others)
        check_port(port, function="Kafka", setting="KAFKA_PORT")
        return port
    if KAFKA_PORT not in others and processes.claim(KAFKA_PORT) and not port_in_use(KAFKA_PORT):
        return KAFKA_PORT
    port = processes.free_port()
    say(f"saldo: port {KAFKA_PORT} is in use: Kafka gets port {port} (KAFKA_PORT chooses another)")
    return port


def _port(setting: str, text: str, others: Collection[int]) -> int:
    if not text.isdecimal() or not 0 < int(text) <= PORT_MAX:
        raise NotPossible(f"{setting} is {text!r}: it must be a port number.")
    if int(text) in others:
        raise NotPossible(f"{setting} is {text}, as is another function's port.")
    return int(text)


def kept_hash_secret(path: Path) -> str:
    """Return the secret of the keyed hashes, made at the first run and then kept."""
    if not path.exists():
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(HASH_SECRET_BYTES))
        unfinished.rename(path)
    return path.read_text()


@contextlib.contextmanager
def signals_to(stopping: threading.Event, supervisor: Supervisor) -> Iterator[None]:
    """Set ``stopping`` at the first SIGINT, SIGTERM or SIGHUP; kill all at the second."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            supervisor.kill()
            os._exit(128 + number)
        stopping.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """Tell the person at the terminal, if there is one still."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


# --- in the background ------------------------------------------------------------------------


def up_detached() -> int:
    """Run `up` in the background; return once all is up, or with the reason of the failure."""
    ready, ready_fd = os.pipe()
    background = subprocess.Popen(
        [sys.executable, "-m", "local.stack", "up-in-background", str(ready_fd)],
        cwd=services.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[ready_fd],
        start_new_session=True,
        text=True,
    )
    os.close(ready_fd)
    assert background.stdout is not None  # noqa: S101 - PIPE was asked for
    try:
        # It lets go of both pipes when it has left the terminal, or has ended.
        for line in background.stdout:
            say(line.rstrip("\n"))
        with os.fdopen(ready, "rb") as pipe:
            if pipe.read():
                background.returncode = 0  # it goes on; this process will not collect it
                return 0
    except KeyboardInterrupt:
        background.terminate()
        for line in background.stdout:
            say(line.rstrip("\n"))
    return background.wait(DOWN_TIMEOUT_S)


def leave_terminal(folder: Folder, ready_fd: int) -> None:
    """Send what is said from now on to a log file, and let the starter return."""
    with folder.log("stack").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.write(ready_fd, b"1")
    os.close(ready_fd)


# --- down and status --------------------------------------------------------------------------


def down(folder: Folder) -> int:
    """Stop what runs here, however it was started; the data stay."""
    found = read_stack(folder)
    if found is None:
        leftovers = end_leftovers(folder)
        say("saldo: ended what an earlier run left" if leftovers else "saldo: it is not up")
        return 0
    identity, _ = found
    say("saldo: stopping")
    processes.end(identity, timeout_s=DOWN_TIMEOUT_S)
    end_leftovers(folder)
    say("saldo: stopped; the data are kept in .saldo")
    return 0


def status(folder: Folder) -> int:
    """Tell what runs; 0 when all of it does."""
    found = read_stack(folder)
    if found is None:
        say("saldo: it is not up; `make up` starts it")
        return 1
    _, ports = found
    all_well = True
    for name, identity in read_state(folder.processes).items():
        port = ports.get(name)
        if identity.process() is None:
            state = "ended"
        elif port is not None and not processes.answers(port):
            state = f"runs, but does not answer on port {port}"
        else:
            state = "runs" if port is None else f"answers on port {port}"
            state = f"{state} (process {identity.pid})"
        all_well = all_well and state.endswith(")")
        say(f"  {name:<20}{state}")
    return 0 if all_well else 1


def already_up(folder: Folder) -> str:
    """Return the message for a lock that another process holds."""
    found = read_stack(folder)
    who = "another process" if found is None else f"process {found[0].pid}"
    return f"Saldo is already up in this folder ({who}): make status shows it, make down stops it."


def write_stack(folder: Folder, ports: Mapping[Function, int]) -> None:
    """Write which process is the stack, and the functions' ports."""
    state = {
        "identity": asdict(Identity.of(os.getpid())),
        "ports": {function.name: port for function, port in ports.items()},
    }
    unfinished = folder.stack.with_suffix(".new")
    unfinished.write_text(json.dumps(state))
    unfinished.replace(folder.stack)


def write_env(folder: Folder, ports: Mapping[Function, int], bootstrap_servers: str) -> None:
    """Write what a shell reads by `. .saldo/env`, so that `saldo` works on this stack."""
    record, balance, project = (f"http://127.0.0.1:{port}" for port in ports.values())
    operator = postgres.dsn(folder.postgres, "saldo_operate")
    variables = {
        "EVENT_STORE_URL": operator,
        "READ_MODEL_URL": operator,
        "OWNER_URL": postgres.dsn(folder.postgres),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "KAFKA_SECURITY": "plaintext",
        "RECORD_URL": record,
        "BALANCE_URL": balance,
        "PROJECT_URL": project,
    }
    lines = [f"export {name}={shlex.quote(text)}\n" for name, text in variables.items()]
    commands = shlex.quote(str(Path(sys.executable).parent))
    folder.env.write_text("".join([*lines, f'export PATH={commands}:"$PATH"\n']))


def read_stack(folder: Folder) -> tuple[Identity, dict[str, int]] | None:
    """Return the process of the stack and the functions' ports, or None if it does not run."""
    try:
        state = json.loads(folder.stack.read_text())
    except FileNotFoundError:
        return None
    identity = Identity(**state["identity"])
    return None if identity.process() is None else (identity, state["ports"])


def end_leftovers(folder: Folder) -> bool:
    """End what a stack that was killed has left running; whether there was anything."""
    left = [
        identity
        for identity in read_state(folder.processes).values()
        if identity.process() is not None
    ]
    # Kafka may have been starting then and not be noted yet; PostgreSQL ends its own.
    left += [
        identity
        for identity in processes.with_argument(str(folder.kafka / "server.properties"))
        if identity not in left
    ]
    for identity in left:
        processes.end(identity, timeout_s=LEFTOVER_TIMEOUT_S)
    folder.processes.unlink(missing_ok=True)
    return bool(left)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
