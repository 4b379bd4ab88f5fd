"""The images, built and run: `make test-images`.

Without a registry they use base images that are made on the spot (local/containers/stand_in_bases).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from local.containers import compose_secrets, engine, images
from local.containers.stand_in_bases import bases
from saldo.serve.functions import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[3]
IMAGE_BYTES_MAX = 120_000_000
USER = "65532:65532"
START_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 120.0
POLL_S = 0.05
SETTINGS = {
    "EVENT_STORE_URL": "postgresql://saldo_record@127.0.0.1:1/saldo",
    "READ_MODEL_URL": "postgresql://saldo_query@127.0.0.1:1/saldo",
    "HASH_SECRET": "5a" * 32,
    "AUTH": "none",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_SECURITY": "plaintext",
}


@pytest.fixture(scope="module")
def built() -> None:
    """Build all images as `make images` does."""
    if not engine.answers():
        pytest.skip("no container engine runs here")
    stand_in_bases = os.environ.get(engine.STAND_IN_BASES) == "1"
    if stand_in_bases:
        assert bases.main([]) == 0
    images.build(images.IMAGES, tag=images.TAG_DEFAULT, stand_in_bases=stand_in_bases)


pytestmark.append(pytest.mark.usefixtures("built"))


def inspect(image: str) -> dict[str, Any]:
    """Return what the engine knows of an image."""
    found: dict[str, Any] = json.loads(images.engine("image", "inspect", images.image_name(image)))[
        0
    ]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A running function."""

    name: str
    port: int

    def logs(self) -> str:
        done = subprocess.run(
            ["docker", "logs", self.name], capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr

    def status(self, path: str) -> int:
        """Return the status of a GET; 0 without a response."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=REQUEST_TIMEOUT_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@contextlib.contextmanager
def running(function: str, **settings: str) -> Iterator[Container]:
    """Yield the function, ready, in a container that may write only to /tmp."""
    name = f"saldo-test-{secrets.token_hex(4)}"
    said = [
        word for key, value in {**SETTINGS, **settings}.items() for word in ("-e", f"{key}={value}")
    ]
    images.engine(
        "run", "--detach", "--name", name, "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--publish", "127.0.0.1::8080", *said,
        images.image_name(function),
    )  # fmt: skip
    try:
        port = int(images.engine("port", name, "8080/tcp").strip().rpartition(":")[2])
        container = Container(name=name, port=port)
        deadline = time.monotonic() + START_TIMEOUT_S
        while container.status("/readyz") != 200:
            assert time.monotonic() < deadline, container.logs()
            time.sleep(POLL_S)
        yield container
    finally:
        images.engine("rm", "--force", "--volumes", name)


@pytest.mark.parametrize("image", images.IMAGES)
def test_an_image_is_small(image: str) -> None:
    assert inspect(image)["Size"] < IMAGE_BYTES_MAX


@pytest.mark.parametrize("image", images.IMAGES)
def test_an_image_has_its_labels(image: str) -> None:
    labels = inspect(image)["Config"]["Labels"]
    found = {name.removeprefix("org.opencontainers.image."): text for name, text in labels.items()}
    assert found["title"] == f"saldo {image}"
    assert found["licenses"] == "Apache-2.0"
    assert found["version"] == images.Labels.of_this_tree().version
    assert re.fullmatch(r"[0-9a-f]{40}(-changed)?", found["revision"])
    assert re.match(r"\d{4}-\d{2}-\d{2}T", found["created"])
    assert found["base.name"]
    assert found["description"]


@pytest.mark.parametrize("image", images.IMAGES)
def test_an_image_runs_unprivileged_and_holds_no_tools(image: str) -> None:
    """No installer, compiler or package manager that an intruder could use."""
    assert inspect(image)["Config"]["User"] == USER
    program = (
        "import importlib.util, json, os, shutil;"
        "print(json.dumps({'uid': os.getuid(),"
        " 'tools': [t for t in ('pip', 'pip3', 'uv', 'gcc', 'cc', 'make', 'apt-get', 'curl')"
        " if shutil.which(t)],"
        " 'modules': [m for m in ('pip', 'setuptools', 'wheel', 'uv', 'hatchling', 'pytest')"
        " if importlib.util.find_spec(m)]}))"
    )
    run = ["run", "--rm", "--read-only", "--entrypoint", "python3", images.image_name(image)]
    told = json.loads(images.engine(*run, "-c", program))
    assert told == {"uid": 65532, "tools": [], "modules": []}


@pytest.mark.parametrize("function", [function.name for function in FUNCTIONS])
def test_a_function_image_holds_only_its_source_and_packages(function: str) -> None:
    program = (
        "import importlib.util, json, os;"
        "print(json.dumps([os.listdir('/app/functions'),"
        " importlib.util.find_spec('confluent_kafka') is not None]))"
    )
    told = json.loads(
        images.engine(
            "run", "--rm", "--entrypoint", "python3", images.image_name(function), "-c", program
        )
    )
    assert told == [[function], function == "record_transaction"]


@pytest.mark.parametrize("function", [function.name for function in FUNCTIONS])
def test_a_function_starts_and_responds_on_a_read_only_root(function: str) -> None:
    """It needs no database to be ready: its outage must not stop every pod."""
    started = time.monotonic()
    with running(function) as container:
        print(f"{function}: ready after {time.monotonic() - started:.1f} s")  # noqa: T201 - for docs/images.md
        assert container.status("/livez") == 200
        assert container.status("/nowhere") == 404
        if function == "project_balance":
            assert container.status("/") == 405
        assert subprocess.run(
            ["docker", "exec", container.name, "python3", "-m", "saldo.serve.healthcheck"],
            check=False,
        ).returncode == 0  # fmt: skip


def test_a_function_takes_its_port_from_the_environment() -> None:
    name = f"saldo-test-{secrets.token_hex(4)}"
    said = [word for key, value in SETTINGS.items() for word in ("-e", f"{key}={value}")]
    images.engine(
        "run",
        "--detach",
        "--name",
        name,
        *said,
        "-e",
        "PORT=9000",
        images.image_name("get_balance"),
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        probe = ["docker", "exec", name, "python3", "-m", "saldo.serve.healthcheck"]
        while subprocess.run(probe, check=False, capture_output=True).returncode != 0:
            assert time.monotonic() < deadline
            time.sleep(POLL_S)
    finally:
        images.engine("rm", "--force", name)


def test_a_request_in_flight_finishes_after_sigterm() -> None:
    with running("record_transaction") as container:
        body = b'{"accountId": "wesley", "value": true}'
        with socket.create_connection(("127.0.0.1", container.port), REQUEST_TIMEOUT_S) as caller:
            caller.sendall(
                b"POST /transactions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body[:5]
            )
            time.sleep(0.3)  # the server must have begun to read it, which shows nowhere
            images.engine("kill", "--signal", "TERM", container.name)
            time.sleep(0.3)  # and the signal must have come first
            caller.sendall(body[5:])
            answer = caller.recv(64)
        ended = int(images.engine("wait", container.name))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert ended in {0, 143}
        assert "Application shutdown complete" in container.logs()


def test_a_missing_setting_is_named_at_start() -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", images.image_name("get_balance")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == "saldo: AUTH is missing; it must be one of none, oidc"


@pytest.mark.parametrize(
    ("image", "arguments", "told"),
    [
        ("operate", ["--help"], "migrate"),
        ("local", ["local.knative.kafka_source", "--help"], "--dead-letter-sink"),
    ],
)
def test_the_other_images_start(image: str, arguments: list[str], told: str) -> None:
    run = ["run", "--rm", "--read-only", images.image_name(image)]
    assert told in images.engine(*run, *arguments)


def test_the_command_line_image_has_all_its_imports() -> None:
    """Its image leaves out what serves and what it never reads; a traceback is in colour still."""
    program = """
import importlib, pkgutil
import saldo.operate
names = [m.name for m in pkgutil.walk_packages(saldo.operate.__path__, "saldo.operate.")]
for name in names:
    importlib.import_module(name)
import confluent_kafka.admin, saldo.record.kafka
from rich.console import Console
from rich.traceback import Traceback
try:
    {}["x"]
except KeyError:
    Console(force_terminal=True).print(Traceback(show_locals=True))
print(len(names) > 20)
"""
    run = ["run", "--rm", "--read-only", "--tmpfs", "/tmp", "--entrypoint", "python3"]
    told = images.engine(*run, images.image_name("operate"), "-c", program)
    assert "KeyError" in told
    assert told.endswith("True\n")


@pytest.mark.parametrize("image", images.DEPLOYED)
def test_an_image_can_sign_for_aws(image: str) -> None:
    """RDS takes the place of a password by a token, MSK too; signing needs no network."""
    program = """
import importlib.util
from saldo.serve.database import rds_iam_password
token = rds_iam_password("postgresql://saldo_record@db.example:5432/saldo")()
assert token.startswith("db.example:5432/?"), token
if importlib.util.find_spec("confluent_kafka"):
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    assert len(MSKAuthTokenProvider.generate_auth_token("eu-west-1")) == 2
print("signed")
"""
    run = ["run", "--rm", "--read-only", "--tmpfs", "/tmp", "--entrypoint", "python3"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        run += ["--env", f"{name}=not-a-real-one"]
    run += ["--env", "AWS_REGION=eu-west-1", "--env", "AWS_DEFAULT_REGION=eu-west-1"]
    assert images.engine(*run, images.image_name(image), "-c", program) == "signed\n"


# --- the stack in containers -------------------------------------------------------------------


@pytest.fixture
def compose() -> list[str]:
    """Return the command line of Compose for a separate stack."""
    version = subprocess.run(
        ["docker", "compose", "version"], capture_output=True, text=True, check=False
    )
    if version.returncode != 0:
        pytest.skip("the Compose plugin is not installed")
    compose_secrets.make()
    command = ["compose", "--project-name", f"saldo-test-{secrets.token_hex(4)}"]
    command += ["--file", "local/compose.yaml"]
    if os.environ.get(engine.STAND_IN_BASES) == "1":
        command += ["--file", "local/compose.local-base.yaml"]
    return command


def test_compose_accepts_its_files_without_warning(compose: list[str]) -> None:
    done = subprocess.run(
        ["docker", *compose, "config", "--quiet"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_transaction_passes_through_the_stack(
    compose: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL, Kafka, migrations, three functions and both sources, from nothing."""
    record, balance = free_port(), free_port()
    monkeypatch.setenv("RECORD_PORT", str(record))
    monkeypatch.setenv("BALANCE_PORT", str(balance))
    try:
        started = time.monotonic()
        images.engine(*compose, "up", "--detach", "--no-build", "--wait", "--wait-timeout", "400")
        print(f"the stack: healthy after {time.monotonic() - started:.1f} s")  # noqa: T201 - as above
        request = urllib.request.Request(
            f"http://127.0.0.1:{record}/transactions",
            data=b'{"accountId":"wesley","description":"first","type":"INCOME","value":10.5}',
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310 - its own URL
            assert answer.status == 201
        waiting = urllib.request.Request(
            f"http://127.0.0.1:{balance}/balances?accountId=wesley&minPosition=1",
            headers={"Prefer": "wait=10"},
        )
        with urllib.request.urlopen(waiting, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310 - the same
            told = json.loads(answer.read())
        assert (told["value"], told["position"]) == (10.5, 1)
        # As the cluster's CronJob runs it: read-only, without a capability, as nobody.
        run = ["run", "--rm", "--no-deps", "--no-TTY", "migrations", "verify", "--workers=2"]
        report = json.loads(images.engine(*compose, *run, "--json"))
        assert (report["clean"], report["counts"]["events"]) == (True, 1)
        logs = images.engine(*compose, "logs", "--no-color")
        for file in compose_secrets.FOLDER.iterdir():
            if file.suffix != ".env":
                assert file.read_text() not in logs
    finally:
        images.engine(*compose, "down", "--volumes", "--timeout", "30")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
