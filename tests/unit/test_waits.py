"""How the tests themselves wait: a busy machine is no defect, and luck stops nobody's change."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from local import processes
from local.services import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ASKS = {"get", "post", "put", "delete", "head", "options", "request", "stream"}
CLIENTS = {"Client", "AsyncClient"}


def requests_without_timeout(path: Path) -> Iterator[int]:
    """Lines that ask by httpx and leave the waiting to its default, which is 5 s."""
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


@pytest.mark.parametrize("folder", ["tests", "local"])
def test_every_request_says_how_long_it_waits(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in requests_without_timeout(path)
    ]
    assert found == []


def test_request_without_a_timeout_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text("httpx.get(url)\nhttpx.get(url, timeout=1)\nhttpx.AsyncClient(base_url=url)\n")
    assert list(requests_without_timeout(file)) == [1, 3]


def test_no_example_has_a_deadline_and_ci_draws_the_same_each_time() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
    assert settings.default.derandomize is ("CI" in os.environ)


CLAIM = "import sys; from local import processes; print(processes._claim(int(sys.argv[1])))"


def test_free_port_is_nobody_elses_while_this_process_lives() -> None:
    ports = {processes.free_port() for _ in range(50)}
    assert len(ports) == 50
    port = ports.pop()
    assert not processes._claim(port)  # noqa: SLF001 - what two that draw the same number do
    asked = subprocess.run(
        [sys.executable, "-c", CLAIM, str(port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert asked.stdout == "False\n"
