"""The fixtures and the report of all tests: real servers, a database and a topic for each test.

Suites run from the quickest to the slowest. A skip whose reason is not in allowed_skips.txt fails
the run: a test that silently stopped running would be worse than none.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import HealthCheck, settings

from local import postgres
from tests.support import servers
from tests.support.servers import Database, Kafka, Run, Served
from tests.support.stack import light_stack, stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from saldo.serve.functions import Function

__all__ = ["light_stack", "stack"]

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process
# that they start: the tests of an interruption would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a busy machine. A run in CI draws the same examples each
# time, schemathesis too, so that no run fails by chance; every other run draws new ones, and finds.
settings.register_profile(
    "saldo",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("saldo")

TESTS = Path(__file__).parent
ALLOWED_SKIPS = TESTS / "allowed_skips.txt"
SUITES = (
    "unit",
    "reliability/mutants",
    "reliability/history",
    "reliability/simulation",
    "integration",
    "http",
    "console",
    "tooling",
    "reliability",
    "reliability/faults",
)
WORKER_RUN = "saldo_run"
RUN = pytest.StashKey[Run]()


# --- servers ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Run:
    """Return the test run that this process is part of."""
    return pytestconfig.stash[RUN]


@pytest.fixture(scope="session")
def postgres_data_dir(run: Run) -> Path:
    """Return the data directory of the run's PostgreSQL; postgres.dsn() makes URLs from it."""
    return servers.start_shared_postgres(run)


@pytest.fixture
def database(postgres_data_dir: Path) -> Iterator[Database]:
    """Yield a new migrated database."""
    with servers.cloned_database(postgres_data_dir) as cloned:
        yield cloned


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPostgres:
    """A server that the test may kill, and its migrated database."""

    server: postgres.Postgres
    database: Database


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[OwnPostgres]:
    """Yield a new PostgreSQL server that syncs to disk as in production."""
    data_dir, log = tmp_path / "postgres", tmp_path / "postgres.log"
    server = postgres.start_postgres(data_dir, log)
    try:
        database = Database(data_dir=data_dir, name=postgres.DATABASE)
        servers.migrate(database, tmp_path / "migrate.log")
        yield OwnPostgres(server=server, database=database)
    finally:
        server.stop()
        # The test may have started the server again.
        postgres.end_leftover(data_dir)


@pytest.fixture(scope="session")
def kafka(run: Run) -> Kafka:
    """Return the Kafka of the test run."""
    return servers.start_shared_kafka(run)


@pytest.fixture
def topic(kafka: Kafka) -> Iterator[str]:
    """Yield the name of a new topic."""
    with servers.fresh_topic(kafka) as name:
        yield name


class Serve(Protocol):
    """Serves a function on the test's database; settings are environment variables."""

    def __call__(self, function: Function, **settings: str) -> Served:
        """Return once it is ready; it is killed after the test."""


@pytest.fixture
def serve(database: Database, tmp_path: Path) -> Iterator[Serve]:
    """Yield a function that starts functions; they are killed after the test."""
    started: list[Served] = []

    def start(function: Function, **settings: str) -> Served:
        log = tmp_path / f"{function.name}-{len(started)}.log"
        started.append(servers.start_function(function, database, log, settings))
        return started[-1]

    try:
        yield start
    finally:
        for served in started:
            served.child.kill()


# --- the run ----------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[RUN] = Run(folder=Path(worker[WORKER_RUN]))
        return
    run, lock = servers.begin_run()
    config.stash[RUN] = run

    def end() -> None:
        run.end()
        lock.close()

    config.add_cleanup(end)
    config.pluginmanager.register(Telling(), "saldo-telling")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Worker) -> None:
    """Tell a worker of pytest-xdist which run it is part of."""
    node.workerinput[WORKER_RUN] = str(node.config.stash[RUN].folder)


class Worker(Protocol):
    """What is used here of pytest-xdist's WorkerController, which has no public type."""

    config: pytest.Config
    workerinput: dict[str, str]


def suite_of(node_id: str) -> str:
    """Return the folder of `tests/` that a test is in; each of reliability's is a suite."""
    parts = node_id.split("/")
    folder = "/".join(parts[1:3]) if len(parts) > 3 else "/".join(parts[1:-1])
    return folder if folder in SUITES else folder.split("/")[0] or "other"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the quick suites first, and leave the shuffled order within each."""
    order = {suite: place for place, suite in enumerate(SUITES)}
    items.sort(key=lambda item: order.get(suite_of(item.nodeid), len(order)))


@dataclass(slots=True, eq=False)
class Telling:
    """Watches the reports of all workers: each suite's time, and skips that are not allowed."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    tests: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    skipped: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        suite = suite_of(report.nodeid)
        self.seconds[suite] += report.duration
        self.tests[suite] += report.when == "call"
        self._note_skip(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note_skip(report)

    def _note_skip(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if (
            report.skipped
            and not hasattr(report, "wasxfail")
            and isinstance(report.longrepr, tuple)
        ):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if reason not in allowed_skips():
                self.skipped.append(f"{report.nodeid}: {reason}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("suites (seconds in tests, over all workers)")
        for suite in (*SUITES, "other"):
            if self.tests[suite]:
                terminalreporter.write_line(
                    f"{suite:<22}{self.tests[suite]:>6} tests{self.seconds[suite]:>9.1f} s"
                )
        if self.skipped:
            terminalreporter.section("skipped for a reason that allowed_skips.txt does not have")
            for line in self.skipped:
                terminalreporter.write_line(line, red=True)


def allowed_skips() -> frozenset[str]:
    """Return the reasons for which a test may be skipped."""
    lines = ALLOWED_SKIPS.read_text().splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))
