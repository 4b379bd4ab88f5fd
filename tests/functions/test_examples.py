"""The curl examples of README.md and docs/, run as they stand against the live functions."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from local.services import BALANCE, PROJECT, RECORD, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# A curl of its own: each answer's head is kept, and a 503 (the projection lags) is asked again.
PRELUDE = """
set -euo pipefail
count="$ANSWERS/count"
echo 100 > "$count"
curl() {
  local number; number=$(($(cat "$count") + 1)); echo "$number" > "$count"
  command curl -sS --max-time 40 --retry 15 --dump-header "$ANSWERS/$number.head" "$@"
}
"""


def blocks(page: Path) -> list[str]:
    """The examples of a page: its shell blocks that ask the functions for something."""
    return [block for block in BLOCK.findall(page.read_text()) if "localhost:808" in block]


def with_examples() -> list[Path]:
    return [page for page in PAGES if blocks(page)]


def test_readme_and_interface_have_examples() -> None:
    assert {"README.md", "http-api.md"} <= {page.name for page in with_examples()}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", with_examples(), ids=lambda page: page.name)
def test_examples_are_answered_as_they_say(page: Path, serve: Serve, tmp_path: Path) -> None:
    served = {8080: serve(RECORD), 8081: serve(BALANCE), 8082: serve(PROJECT)}
    script = "\n".join(blocks(page))
    expected = re.findall(r"^# (\d{3})\b", script, re.MULTILINE)
    for port, function in served.items():
        script = script.replace(f"localhost:{port}", f"127.0.0.1:{function.port}")
    answers = tmp_path / "answers"
    answers.mkdir()
    done = subprocess.run(
        ["bash", "-c", PRELUDE + script],
        env={"ANSWERS": str(answers), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    statuses = [
        re.findall(r"^HTTP/1.1 (\d{3})", head.read_text(), re.MULTILINE)[-1]
        for head in sorted(answers.glob("*.head"))
    ]
    assert len(statuses) == len(re.findall(r"\bcurl ", script))
    if expected:
        assert statuses == expected, done.stdout
    else:
        assert all(status.startswith("2") for status in statuses), done.stdout
