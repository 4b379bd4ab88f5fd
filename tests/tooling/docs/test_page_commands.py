"""The commands of the tutorial and of the how-to pages, run unchanged in a separate clone."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import httpx
import pytest

from local.services import ROOT
from saldo.serve.functions import FUNCTIONS
from tests.support import shell_blocks
from tests.support.servers import REQUEST_TIMEOUT_S
from tests.tooling.local.test_make_up import INSTALL_TIMEOUT_S, Clone, new_clone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(INSTALL_TIMEOUT_S + shell_blocks.TIMEOUT_S),
]

DOCS = ROOT / "docs"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
SAMPLES = "tests/fixtures/statements"


def made(folder: Path) -> Clone:
    """Return a clone with the files that the pages name."""
    clone = new_clone(folder)
    shutil.copytree(ROOT / SAMPLES, clone.folder / SAMPLES)
    return clone


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Yield a clone whose stack is up, as the how-to pages assume."""
    clone = made(tmp_path_factory.mktemp("how-to") / "clone")
    try:
        started = clone.make("up", "DETACH=1", timeout_s=INSTALL_TIMEOUT_S)
        assert started.status == 0, started.said
        yield clone
    finally:
        clone.make("down")


def run_page(page: Path, clone: Clone, folder: Path) -> None:
    ports = {function.port: clone.ports[f"{function.prefix}_PORT"] for function in FUNCTIONS}
    answers = folder / "answers"
    answers.mkdir()
    script = "\n".join(shell_blocks.blocks(page))
    assert script, "a page to run has something to run"
    shell_blocks.run(script, ports, folder=answers, cwd=clone.folder, env=clone.environ())


def test_tutorial_works_from_a_fresh_clone(tmp_path: Path) -> None:
    clone = made(tmp_path / "clone")
    try:
        run_page(DOCS / "tutorial.md", clone, tmp_path)
    finally:
        clone.make("down")
    assert clone.living() == []


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_commands_of_a_how_to_page_work(page: Path, up: Clone, tmp_path: Path) -> None:
    if page.stem == "redrive-dead-letters":
        plant_dead_letter(up)
    run_page(page, up, tmp_path)


def plant_dead_letter(clone: Clone) -> None:
    """Plant a dead letter whose event is already projected."""
    clone.record(7)
    recorder = f"http://127.0.0.1:{clone.ports['RECORD_PORT']}"
    page = httpx.get(f"{recorder}/accounts/wesley/events", timeout=REQUEST_TIMEOUT_S).json()
    text = page["events"][0]["event"]
    event = json.loads(text)
    headers = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": event["id"],
        "ce-source": "/saldo/transactions",
        "ce-type": "saldo.transaction.recorded",
        "ce-subject": "wesley",
        "ce-sequence": str(event["position"]),
        "ce-time": event["recordedAt"],
        "ce-knativeerrordest": "http://127.0.0.1/",
        "ce-knativeerrorcode": "503",
    }
    url = f"http://127.0.0.1:{clone.ports['PROJECT_PORT']}/"
    body = f'{{"event":{text},"private":null}}'
    answer = httpx.post(url, headers=headers, content=body, timeout=REQUEST_TIMEOUT_S)
    assert answer.status_code == 200, answer.text
