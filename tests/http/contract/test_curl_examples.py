"""The curl examples of README.md and docs/, run unchanged against the live functions.

The tutorial and the how-to pages need the whole stack: tests/tooling/docs/test_page_commands.py.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from local.services import ROOT
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support import shell_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

PAGES = (
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "tutorial.md"),
)


def examples(page: Path) -> list[str]:
    """Return the shell blocks of a page that send requests to the functions."""
    return [block for block in shell_blocks.blocks(page) if "localhost:808" in block]


def with_examples() -> list[Path]:
    return [page for page in PAGES if examples(page)]


def test_readme_and_interface_have_examples() -> None:
    assert {"README.md", "http-api.md"} <= {page.name for page in with_examples()}


@pytest.mark.parametrize("page", with_examples(), ids=lambda page: page.name)
def test_examples_get_the_documented_responses(page: Path, serve: Serve, tmp_path: Path) -> None:
    ports = {function.port: serve(function).port for function in (RECORD, BALANCE, PROJECT)}
    answers = tmp_path / "answers"
    answers.mkdir()
    script = "\n".join(examples(page))
    shell_blocks.run(script, ports, folder=answers, cwd=ROOT, env=os.environ)


def test_wrong_status_fails_an_example(serve: Serve, tmp_path: Path) -> None:
    """So that the test above is not blind: to an error, to an unexpected success, to a 503."""
    ports = {BALANCE.port: serve(BALANCE).port}
    for number, (comment, path) in enumerate(
        [("", "/nothing"), ("# 404\n", "/readyz"), ("# 503\n", "/balances?accountId=x")]
    ):
        answers = tmp_path / str(number)
        answers.mkdir()
        script = f"{comment}curl 'http://localhost:8081{path}'"
        with pytest.raises(AssertionError):
            shell_blocks.run(script, ports, folder=answers, cwd=ROOT, env=os.environ)
