"""The command `make up` in a separate clone: first run, later runs, faults, shutdown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from local import broker, processes
from local.services import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# What `make up` runs on; a clone has no more of use to it.
CLONED = (
    "Makefile",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "locks",
    "local",
    "src",
    "functions",
    "infra_pulumi/infra.mk",
)
INSTALL_TIMEOUT_S = 900
MAKE_TIMEOUT_S = 600
DEADLINE_S = 600
REQUEST_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A clone of the repository with its own ports."""

    folder: Path
    ports: dict[str, int]

    def environ(self) -> dict[str, str]:
        """Return the environment that uses this machine's caches of jars and packages."""
        cache = str((ROOT / broker.default_cache_dir()).parent)
        # A `make` above this test would hand down its own variables.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        ports = {name: str(port) for name, port in self.ports.items()}
        return {**inherited, "SALDO_CACHE": cache, **ports}

    def make(self, *words: str, timeout_s: float = MAKE_TIMEOUT_S) -> Made:
        """Run make to its end."""
        done = subprocess.run(
            ["make", *words],
            cwd=self.folder,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Made(status=done.returncode, said=done.stdout)

    @contextlib.contextmanager
    def making(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run make as a terminal's foreground group, its output in make.log."""
        with (self.folder / "make.log").open("wb") as log:
            made = subprocess.Popen(
                ["make", *words],
                cwd=self.folder,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield made
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(made.pid, signal.SIGKILL)
                made.wait()

    def log(self) -> str:
        """Return the output so far of the make of `making`."""
        return (self.folder / "make.log").read_text()

    def pid_of(self, name: str) -> int:
        """Return the process of the stack that serves ``name``."""
        pid: int = json.loads((self.folder / ".saldo" / "processes.json").read_text())[name]["pid"]
        return pid

    def kafka_port(self) -> int:
        """Return the port of this stack's Kafka from `.saldo/env`."""
        env = (self.folder / ".saldo" / "env").read_text()
        found = re.search(r"KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:(\d+)", env)
        assert found is not None, env
        return int(found[1])

    def living(self) -> list[str]:
        """Return the command lines of all processes of this clone."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = [process.cwd(), *process.cmdline()]
                if process.status() != psutil.STATUS_ZOMBIE and any(
                    word.startswith(str(self.folder)) for word in words
                ):
                    found.append(" ".join(words))
        return found

    def record(self, value: int) -> dict[str, Any]:
        """POST an income, wait until the balance includes it, and return the balance."""
        income = {"accountId": "wesley", "description": "x", "type": "INCOME", "value": value}
        url = f"http://127.0.0.1:{self.ports['RECORD_PORT']}/transactions"
        answer = httpx.post(url, json=income, timeout=REQUEST_TIMEOUT_S)
        assert answer.status_code == 201, answer.text
        position = answer.json()["position"]
        until(lambda: self.balance().get("position") == position)
        return self.balance()

    def balance(self) -> dict[str, Any]:
        """Return the balance or the problem document."""
        url = f"http://127.0.0.1:{self.ports['BALANCE_PORT']}/balances"
        params = {"accountId": "wesley"}
        found: dict[str, Any] = httpx.get(url, params=params, timeout=REQUEST_TIMEOUT_S).json()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """How a make ended."""

    status: int
    said: str

    def told(self) -> list[str]:
        """Return the output without make's own last line."""
        return [line for line in self.said.splitlines() if not line.startswith("make: ***")]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def new_clone(folder: Path) -> Clone:
    folder.mkdir()
    for name in CLONED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    names = ("RECORD_PORT", "BALANCE_PORT", "PROJECT_PORT")
    return Clone(folder=folder, ports={name: processes.free_port() for name in names})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a clone whose stack ran once."""
    clone = new_clone(tmp_path_factory.mktemp("installed") / "saldo")
    first = clone.make("up", "DETACH=1", timeout_s=INSTALL_TIMEOUT_S)
    assert first.status == 0, first.said
    clone.make("down")
    return clone


@pytest.fixture
def clone(installed: Clone) -> Iterator[Clone]:
    """Yield a clone that is down; it is down again after the test."""
    yield installed
    installed.make("down")


def test_a_killed_first_run_is_completed_by_the_next(tmp_path: Path) -> None:
    clone = new_clone(tmp_path / "saldo")
    with clone.making("up") as made:
        until(lambda: "installing the packages" in clone.log())
        until(lambda: any((clone.folder / ".venv").glob("lib/*/site-packages/psutil")))
        os.killpg(made.pid, signal.SIGKILL)
    again = clone.make("up", "DETACH=1", timeout_s=INSTALL_TIMEOUT_S)
    try:
        assert "Saldo is up." in again.said
        assert again.status == 0
        assert clone.record(1000)["value"] == 1000
    finally:
        clone.make("down")
    assert clone.living() == []


def test_a_virtual_environment_without_pip_is_recreated(tmp_path: Path) -> None:
    """As `python -m venv` leaves it when it is cut short."""
    clone = new_clone(tmp_path / "saldo")
    (clone.folder / ".venv" / "bin").mkdir(parents=True)
    (clone.folder / ".venv" / "bin" / "python").symlink_to(shutil.which("python3") or "")
    assert clone.make("lock", "-n").status == 0
    done = subprocess.run(
        ["python3", "-m", "local.bootstrap", "uv"], cwd=clone.folder, capture_output=True,
        text=True, check=False, timeout=INSTALL_TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "creating the virtual environment" in done.stdout


def test_a_second_run_keeps_the_data(clone: Clone) -> None:
    clone.make("up", "DETACH=1")
    before = clone.record(10)
    clone.make("down")
    assert clone.make("up", "DETACH=1").status == 0
    assert clone.balance() == before
    after = clone.record(5)
    assert after["value"] == before["value"] + 5
    assert after["position"] == before["position"] + 1


def test_ctrl_c_ends_every_process(clone: Clone) -> None:
    with clone.making("up") as made:
        until(lambda: "Saldo is up." in clone.log())
        assert len(clone.living()) >= 7
        os.killpg(made.pid, signal.SIGINT)
        made.wait(DEADLINE_S)
    assert clone.living() == []
    assert "stopped; the data are kept" in clone.log()


def test_ctrl_c_during_the_start_ends_every_process(clone: Clone) -> None:
    with clone.making("up") as made:
        until(lambda: "starting Apache Kafka" in clone.log())
        os.killpg(made.pid, signal.SIGINT)
        made.wait(DEADLINE_S)
    assert clone.living() == []
    assert "Saldo is up." not in clone.log()
    assert "Traceback" not in clone.log()


def test_a_second_up_in_a_folder_is_refused_in_one_line(clone: Clone) -> None:
    clone.make("up", "DETACH=1")
    second = clone.make("up")
    assert second.status != 0
    assert len(second.told()) == 1
    assert "already up in this folder" in second.said
    assert clone.make("status").status == 0


def test_two_concurrent_stacks_have_a_kafka_each(clone: Clone, tmp_path: Path) -> None:
    """Neither chooses Kafka's port; each delivers to its own projector alone."""
    other = new_clone(tmp_path / "saldo")
    both = (clone, other)
    try:
        with clone.making("up") as one, other.making("up") as two:
            for each in both:
                until(lambda each=each: "Saldo is up." in each.log())  # type: ignore[misc]
            for value, each in enumerate(both, 1):
                each.record(value)
                assert processes.listens(each.pid_of("Kafka"), each.kafka_port())
            assert clone.kafka_port() != other.kafka_port()
            for made in (one, two):
                os.killpg(made.pid, signal.SIGINT)
                made.wait(DEADLINE_S)
    finally:
        other.make("down")
    assert other.living() == []


def test_a_port_in_use_is_reported_in_one_line(clone: Clone) -> None:
    with socket.socket() as listener:
        # The stack of the test before has connections there that are still closing.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", clone.ports["BALANCE_PORT"]))
        listener.listen()
        refused = clone.make("up")
    assert refused.status != 0
    assert len(refused.told()) == 1
    assert f"Port {clone.ports['BALANCE_PORT']}, for get_balance, is in use" in refused.said
    assert "make up BALANCE_PORT=" in refused.said
    assert clone.living() == []


def test_remains_of_a_killed_stack_are_ended_by_the_next(clone: Clone) -> None:
    with clone.making("up") as made:
        until(lambda: "Saldo is up." in clone.log())
        os.killpg(made.pid, signal.SIGKILL)
    assert len(clone.living()) >= 6
    assert clone.make("up", "DETACH=1").status == 0
    assert clone.record(1)["currency"] == "BRL"


def test_down_ends_the_remains_of_a_killed_stack(clone: Clone) -> None:
    with clone.making("up") as made:
        until(lambda: "Saldo is up." in clone.log())
        os.killpg(made.pid, signal.SIGKILL)
    assert clone.make("down").status == 0
    assert clone.living() == []


@pytest.mark.parametrize(
    "name", ["record_transaction", "project_balance", "KafkaSource", "PostgreSQL", "Kafka"]
)
def test_a_killed_process_is_restarted(clone: Clone, name: str) -> None:
    with clone.making("up"):
        until(lambda: "Saldo is up." in clone.log())
        killed = clone.pid_of(name)
        os.kill(killed, signal.SIGKILL)
        until(lambda: clone.pid_of(name) != killed)
        until(lambda: clone.make("status").status == 0)
        assert f"{name} was killed by SIGKILL." in clone.log()
        assert clone.record(1)["currency"] == "BRL"
    clone.make("down")
