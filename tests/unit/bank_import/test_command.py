"""The command `saldo import` without a function, or with one that fails."""

from __future__ import annotations

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from saldo.cli import app
from tests.support.statement_files import SAMPLES, BankLine, as_ofx, numbered, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

NOBODY = "http://127.0.0.1:1"


def run(*arguments: str | Path, url: str = NOBODY) -> Result:
    return CliRunner().invoke(
        app,
        ["import", *map(str, arguments), "--account=wesley"],
        env={"RECORD_URL": url, "BALANCE_URL": url},
    )


def test_a_dry_run_needs_no_function() -> None:
    result = run(SAMPLES / "checking.ofx", "--dry-run", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "file": "checking.ofx",
        "format": "ofx",
        "accountId": "wesley",
        "bankAccount": "0999/1234/56789-0",
        "currency": "BRL",
        "from": "2026-01-05",
        "to": "2026-01-31",
        "lines": 5,
        "income": "5200",
        "expense": "1899.76",
        "opening": {"on": "2026-01-05", "value": "500"},
        "closing": {"on": "2026-01-31", "value": "3800.24"},
        "leftOut": [{"line": 69, "reason": "the amount is zero"}],
        "remarks": [],
    }


def test_a_broken_file_is_an_error_in_json_output() -> None:
    result = run(SAMPLES / "broken_line.sta", "--dry-run", "--json")

    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["line"]) == (1, 7)
    assert error["message"].startswith("broken_line.sta: line 7: ")


@pytest.mark.parametrize(
    "option", ["--account=a b", "--currency=XYZ", "--delimiter=;;", "--date-format=ydm"]
)
def test_a_wrong_option_is_refused_with_its_name(option: str) -> None:
    result = CliRunner().invoke(
        app, ["import", str(SAMPLES / "with_ids.csv"), "--account=w", option]
    )

    assert result.exit_code == 2
    assert option.split("=", maxsplit=1)[0] in result.stderr


def test_unknown_currency_is_refused_with_the_reason() -> None:
    result = run(SAMPLES / "with_ids.csv", "--dry-run")

    assert result.exit_code == 1
    assert "say --currency (http://127.0.0.1:1 does not respond" in result.stderr


def test_opening_balance_option_needs_one_in_the_file() -> None:
    result = run(SAMPLES / "card.ofx", "--dry-run", "--with-opening-balance")

    assert result.exit_code == 1
    assert "states no opening balance" in result.stderr


def test_markup_in_a_description_is_shown_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("date;description;amount\n2026-01-05;[red]boo[/red] [/];1.00\n")

    result = run(file, "--dry-run", "--currency=BRL")

    assert "[red]boo[/red] [/]" in result.stdout


class _Interrupts(BaseHTTPRequestHandler):
    """A recorder that records the first request, and at the second one the user presses Ctrl-C."""

    posts = 0
    over = threading.Event()

    def do_GET(self) -> None:
        self._answer(404, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _Interrupts.posts += 1
        if _Interrupts.posts == 1:
            lines = body.count(b"\n") + 1
            answered = [{"position": number} for number in range(1, lines + 1)]
            self._answer(201, json.dumps({"transactions": answered}).encode())
            return
        os.kill(os.getpid(), signal.SIGINT)
        _Interrupts.over.wait(120)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def interrupting_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Interrupts) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        _Interrupts.over.set()
        server.shutdown()
        thread.join()


def test_an_interrupted_import_says_how_to_resume(tmp_path: Path, interrupting_url: str) -> None:
    day = read((SAMPLES / "checking.ofx").read_bytes()).lines[0].occurred_on
    file = tmp_path / "a.ofx"
    file.write_bytes(as_ofx(numbered([BankLine(day, n + 1, "COFFEE") for n in range(1_500)])))

    result = run(file, "--yes", url=interrupting_url)

    assert result.exit_code == 130
    assert "interrupted. 1,000 of 1,500 lines are in the account" in result.stderr
    assert "nothing is recorded twice" in result.stderr
