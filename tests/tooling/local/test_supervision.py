"""The decisions of the local stack, without its servers: what it refuses, keeps and restarts."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from local import processes, services, stack
from local.preconditions import NotPossible, check_disk, check_port, held
from local.processes import Identity
from local.services import ROOT
from local.supervisor import (
    ESSENTIAL_RESTARTS_MAX,
    Running,
    Service,
    Supervisor,
    read_state,
    write_state,
)
from saldo.serve.functions import BALANCE, PROJECT, RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SLEEPER = "import signal, time; print('ready', flush=True); time.sleep(60)"
DEADLINE_S = 120.0


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """Yield a silent supervisor and kill its processes after the test."""
    supervisor = Supervisor(state_file=tmp_path / "processes.json", say=lambda _: None)
    yield supervisor
    supervisor.kill()


def unused_port() -> int:
    """Return a free, unclaimed port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Neighbour(http.server.BaseHTTPRequestHandler):
    """A function of another stack, which is ready."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def service(folder: Path, code: str, *, essential: bool = False, stopped_in: int = 0) -> Service:
    def start() -> Running:
        child = processes.start("child", [sys.executable, "-c", code], log=folder / "child.log")
        return Running.of(child, ready=lambda: child.said("ready"))

    return Service(name="child", start=start, essential=essential, stopped_in=stopped_in)


def look_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    def looked() -> bool:
        supervisor.look()
        return condition()

    processes.wait_until(lambda: None, looked, name="the supervisor", timeout_s=DEADLINE_S)


def running(service: Service) -> Running:
    assert service.running is not None
    return service.running


# --- what is refused --------------------------------------------------------------------------


def test_a_nearly_full_disk_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match=r"^The disk that holds .* is nearly full: .* GB.$"):
        check_disk(tmp_path, free_min_bytes=10**18)


def test_a_disk_with_room_is_accepted(tmp_path: Path) -> None:
    check_disk(tmp_path, free_min_bytes=1)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - refused either way
def test_a_port_in_use_is_reported_with_its_setting(address: str) -> None:
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(NotPossible, match=f"Port {port}.*make up RECORD_PORT=") as refused:
            check_port(port, function="record_transaction", setting="RECORD_PORT")
    assert "\n" not in str(refused.value)


def test_ports_default_to_the_documented_ones() -> None:
    chosen = stack.chosen_ports({"BALANCE_PORT": "9081", "PROJECT_PORT": ""})
    assert chosen == {RECORD: 8080, BALANCE: 9081, PROJECT: 8082}


@pytest.mark.parametrize("text", ["x", "0", "-1", "65536", "80.5"])
def test_an_invalid_port_is_refused_with_its_setting(text: str) -> None:
    with pytest.raises(NotPossible, match=f"RECORD_PORT is '{text}'"):
        stack.chosen_ports({"RECORD_PORT": text})


def test_two_functions_on_one_port_are_refused() -> None:
    with pytest.raises(NotPossible, match="BALANCE_PORT is 8080"):
        stack.chosen_ports({"BALANCE_PORT": "8080"})


def test_kafka_uses_the_chosen_port() -> None:
    port = unused_port()
    assert stack.chosen_kafka_port({"KAFKA_PORT": str(port)}, []) == port
    with pytest.raises(NotPossible, match=f"KAFKA_PORT is {port}, as is another function's"):
        stack.chosen_kafka_port({"KAFKA_PORT": str(port)}, [port])
    with pytest.raises(NotPossible, match="KAFKA_PORT is 'x': it must be a port number"):
        stack.chosen_kafka_port({"KAFKA_PORT": "x"}, [])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with pytest.raises(NotPossible, match=f"Port {port}, for Kafka, .*make up KAFKA_PORT="):
            stack.chosen_kafka_port({"KAFKA_PORT": str(port)}, [])


def test_kafka_gets_a_free_port_when_its_default_is_taken() -> None:
    chosen = stack.chosen_kafka_port({"KAFKA_PORT": ""}, [stack.KAFKA_PORT])
    assert chosen in processes.FREE_PORTS


CHOOSE = """
import sys
from local import stack
stack.KAFKA_PORT = int(sys.argv[1])
stack.say = lambda _: None
print(stack.chosen_kafka_port({}, []), flush=True)
sys.stdin.read()
"""


def test_two_concurrent_stacks_choose_two_kafka_ports() -> None:
    """Neither has bound its port yet when the other looks."""
    usual = unused_port()
    with contextlib.ExitStack() as ends:
        started = [
            ends.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CHOOSE, str(usual)],
                    cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )
            for _ in range(2)
        ]  # fmt: skip
        chosen = {int((one.stdout and one.stdout.readline()) or 0) for one in started}
    assert len(chosen) == 2
    assert usual in chosen


def test_a_foreign_response_does_not_make_a_function_ready(tmp_path: Path) -> None:
    """Its own process must listen on the port, and this one never does."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Neighbour) as neighbour:
        threading.Thread(target=neighbour.serve_forever, daemon=True).start()
        port = neighbour.server_address[1]
        assert processes.answers(port)
        child = processes.start("child", [sys.executable, "-c", "exit(1)"], log=tmp_path / "log")
        with pytest.raises(processes.NotReady, match="child ended with exit status 1"):
            services.wait_until_ready(child, port)
        neighbour.shutdown()


def test_a_held_lock_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path), pytest.raises(NotPossible, match="taken"), held(path, otherwise="taken"):
        pytest.fail("both hold it")


# --- what is kept -----------------------------------------------------------------------------


def test_the_hash_secret_is_kept_and_readable_by_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "hash_secret"
    (tmp_path / "hash_secret.new").write_text("cut sh")
    secret = stack.kept_hash_secret(path)
    assert len(bytes.fromhex(secret)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert stack.kept_hash_secret(path) == secret


def test_a_reused_pid_is_not_the_earlier_process() -> None:
    mine = Identity.of(os.getpid())
    assert mine.process() is not None
    assert Identity(pid=mine.pid, started=mine.started - 60).process() is None


def test_processes_are_recorded_in_stopping_order(tmp_path: Path, supervisor: Supervisor) -> None:
    last = service(tmp_path, SLEEPER, stopped_in=2)
    first = service(tmp_path, SLEEPER, stopped_in=1)
    first.name = "first"
    for one in (last, first):
        supervisor.start(one)
    write_state(tmp_path / "state.json", [last, first])
    assert list(read_state(tmp_path / "state.json")) == ["first", "child"]


# --- what is started again --------------------------------------------------------------------


def test_an_ended_process_is_reported_and_restarted(tmp_path: Path, supervisor: Supervisor) -> None:
    words: list[str] = []
    supervisor.say = words.append
    child = service(tmp_path, SLEEPER)
    supervisor.start(child)
    killed = running(child)
    look_until(supervisor, killed.ready)
    killed.kill()
    look_until(supervisor, lambda: child.running is not killed)
    assert words[0].startswith("child was killed by SIGKILL.\n    ready\n")
    assert read_state(supervisor.state_file) == {"child": running(child).identity}


def test_the_pause_before_a_restart_doubles(tmp_path: Path, supervisor: Supervisor) -> None:
    words: list[str] = []
    supervisor.say = words.append
    supervisor.start(service(tmp_path, "raise SystemExit(3)"))
    look_until(supervisor, lambda: "child is started again in 1.0 s." in "".join(words))
    assert words[0].endswith("child is started again in 0.5 s.")


def test_a_required_process_stops_all_after_a_few_restarts(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.supervisor.RESTART_PAUSE_S", 0.01)
    child = service(tmp_path, "raise SystemExit('no space left')", essential=True)
    supervisor.start(child)
    with pytest.raises(NotPossible, match=r"(?s)exit status 1.*no space left.*enough"):
        look_until(supervisor, lambda: False)
    assert child.failures == ESSENTIAL_RESTARTS_MAX + 1


def test_processes_end_group_by_group(tmp_path: Path, supervisor: Supervisor) -> None:
    ended: list[str] = []
    for name, stopped_in in (("last", 2), ("first", 0), ("second", 1)):
        one = service(tmp_path, SLEEPER, stopped_in=stopped_in)
        one.name = name
        supervisor.start(one)
        one.running = replace(running(one), stop=partial(ended.append, name))
    supervisor.stop()
    assert ended == ["first", "second", "last"]
