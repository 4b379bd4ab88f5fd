"""The timeouts of tests and of the local stack: long enough for a busy machine."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from local import processes
from local.services import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A wait ends with its event. Its bound is for what never comes: no slow machine is to reach it.
WAIT_MIN_S = 120
# Tokens outlive any run.
TOKEN_MIN_S = 86_400
# A shorter one says why: it is asked again, nothing is to come, or the time is not real.
SHORT = "# short: "
WAIT_NAME = re.compile(r"timeout|deadline|patience|hangs|wait", re.IGNORECASE)
NO_WAIT_NAME = re.compile(r"poll|pause|interval|retries", re.IGNORECASE)
# Calls whose number, at that place among the arguments, is a wait.
WAITS = {
    "timeout": 0,
    "wait": 0,
    "join": 0,
    "result": 0,
    "settimeout": 0,
    "wait_for": 1,
    "until": 1,
}
VIRTUAL_TIME = "tests/reliability/simulation"

ASKS = {"get", "post", "put", "delete", "head", "options", "request", "stream"}
CLIENTS = {"Client", "AsyncClient"}


def requests_without_timeout(path: Path) -> Iterator[int]:
    """Yield the lines of httpx calls without a timeout, whose default is 5 s."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "httpx"
            and node.func.attr in ASKS | CLIENTS
            # Without a network nothing is waited for.
            and not {"timeout", "transport"} & {word.arg for word in node.keywords}
        ):
            yield node.lineno


def number(node: ast.expr | None) -> float | None:
    """Return the value of a number or a product of numbers, or None."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            one, other = number(left), number(right)
            return None if one is None or other is None else one * other
        case _:
            return None


def waits(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the name and the length of each wait that this one node states."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value
        case ast.arguments():
            defaulted = [*node.posonlyargs, *node.args][-len(node.defaults) :]
            yield from zip((arg.arg for arg in defaulted), node.defaults, strict=False)
            for arg, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
                if default is not None:
                    yield arg.arg, default
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            place = WAITS.get(name, len(node.args))
            yield from (("wait", value) for value in node.args[place : place + 1])
            yield from ((word.arg, word.value) for word in node.keywords if word.arg)
            if name == "ClientTimeout":
                yield from (("timeout", word.value) for word in node.keywords)
        case ast.BinOp(left=ast.Call(func=ast.Attribute(attr="monotonic" | "time")), op=ast.Add()):
            yield "deadline", node.right


def lives(node: ast.AST) -> Iterator[ast.expr]:
    """Yield how long each token lives that this one node makes: the X of `"exp": now + X`."""
    match node:
        case ast.Dict():
            given = zip(node.keys, node.values, strict=True)
            values = [
                value
                for key, value in given
                if isinstance(key, ast.Constant) and key.value == "exp"
            ]
        case ast.keyword(arg="exp"):
            values = [node.value]
        case _:
            return
    for value in values:
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
            yield value.right


def too_short(path: Path) -> Iterator[str]:
    """Yield what waits for less than WAIT_MIN_S, or makes a token of less than TOKEN_MIN_S."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        found = [(value, TOKEN_MIN_S) for value in lives(node)] + [
            (value, WAIT_MIN_S * (1000 if re.search(r"_ms\b", name, re.IGNORECASE) else 1))
            for name, value in waits(node)
            if WAIT_NAME.search(name) and not NO_WAIT_NAME.search(name)
        ]
        for value, least in found:
            length = number(value)
            if length is not None and 0 < length < least and SHORT not in lines[value.lineno - 1]:
                yield f"{value.lineno}: {lines[value.lineno - 1].strip()}"


def python_files(*folders: str) -> list[Path]:
    return [
        path
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(ROOT / VIRTUAL_TIME)
    ]


def test_every_timeout_and_token_is_long_enough() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in python_files("tests", "local")
        for line in too_short(path)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "DEADLINE_S = 60.0",
        "WAIT_MS: int = 60_000",
        "REQUEST_TIMEOUT_S = 2 * 30",
        "def start(port: int, timeout_s: float = 20) -> None: ...",
        "def start(*, port: int, timeout_s: float = 20) -> None: ...",
        "subprocess.run(command, timeout=60)",
        "session = ClientTimeout(total=60)",
        "asyncio.timeout(60)",
        "asyncio.wait_for(task, 60)",
        "event.wait(10)",
        "future.result(10)",
        "until(lambda: done, 30)",
        "deadline = time.monotonic() + 30",
        "DEADLINE_S = 60.0  # short",
        'claims = {"exp": now + 600}',
        "token(exp=int(time.time()) + 7200)",
    ],
)
def test_a_timeout_or_token_that_is_too_short_is_found(tmp_path: Path, line: str) -> None:
    file = tmp_path / "file.py"
    file.write_text(f"{line}\n")
    assert list(too_short(file)) == [f"1: {line}"]


@pytest.mark.parametrize(
    "line",
    [
        "DEADLINE_S = 120.0",
        "POLL_S = 0.1",
        "subprocess.run(command, timeout=TIMEOUT_S)",
        "asyncio.wait_for(task, DEADLINE_S)",
        "PROBE_TIMEOUT_S = 1.0  # short: it is asked again",
        'claims = {"exp": now + 86_400}',
        'claims = {"exp": now - 31}',
    ],
)
def test_a_long_or_justified_timeout_is_accepted(tmp_path: Path, line: str) -> None:
    file = tmp_path / "file.py"
    file.write_text(f"{line}\n")
    assert list(too_short(file)) == []


def test_the_test_timeout_allows_two_waits() -> None:
    """And no mark gives a test less than all have."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["timeout"] >= 4 * WAIT_MIN_S
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files("tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "pytest.mark.timeout"
        and (length := number(node.args[0])) is not None
        and length <= options["timeout"]
    ]
    assert found == []


def test_every_request_has_a_timeout() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in python_files("tests", "local")
        for line in requests_without_timeout(path)
    ]
    assert found == []


def test_request_without_a_timeout_is_found(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text("httpx.get(url)\nhttpx.get(url, timeout=1)\nhttpx.AsyncClient(base_url=url)\n")
    assert list(requests_without_timeout(file)) == [1, 3]


def test_hypothesis_has_no_deadline_and_is_fixed_in_ci() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
    assert settings.default.derandomize is ("CI" in os.environ)


CLAIM = "import sys; from local import processes; print(processes.claim(int(sys.argv[1])))"


def test_free_port_stays_reserved_while_the_process_lives() -> None:
    ports = {processes.free_port() for _ in range(50)}
    assert len(ports) == 50
    port = ports.pop()
    assert not processes.claim(port)  # what two that draw the same number do
    asked = subprocess.run(
        [sys.executable, "-c", CLAIM, str(port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_MIN_S,
    )
    assert asked.stdout == "False\n"
