"""The planted defects: each applies to the code and names a test, and that test fails on it."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from local.services import ROOT
from tests.reliability.mutants.planted import (
    Copy,
    Defect,
    Hunk,
    NotApplied,
    find,
    planted_defects,
    try_all,
)

if TYPE_CHECKING:
    from pathlib import Path

DEFECTS = planted_defects()
DEFECTS_MIN = 28


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_planted_defect_applies_to_the_code(defect: Defect) -> None:
    for hunk in defect.hunks:
        find(hunk, ROOT)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_the_test_that_a_defect_names_exists(defect: Defect) -> None:
    file, _, test = defect.caught_by.partition("::")
    names = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert re.sub(r"\[.*", "", test) in names


def test_no_planted_defect_is_missing() -> None:
    assert len(DEFECTS) >= DEFECTS_MIN


def test_a_defect_applies_after_its_code_has_moved(tmp_path: Path) -> None:
    hunk = Hunk(before="    one\n    two\n", after="    one\n")
    moved = tmp_path / "src" / "saldo" / "elsewhere.py"
    moved.parent.mkdir(parents=True)
    moved.write_text("first\n" * 100 + hunk.before)
    assert find(hunk, tmp_path) == moved


@pytest.mark.parametrize(("text", "found"), [("one\n", "none"), ("one\ntwo\none\ntwo\n", "2 in")])
def test_a_defect_that_applies_nowhere_or_twice_is_refused(
    tmp_path: Path, text: str, found: str
) -> None:
    source = tmp_path / "src" / "file.py"
    source.parent.mkdir()
    source.write_text(text)
    with pytest.raises(NotApplied, match=rf"once \(found: {found}"):
        find(Hunk(before="one\ntwo\n", after="one\n"), tmp_path)


def test_a_copy_is_restored_after_each_defect(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    for defect in DEFECTS:
        paths = {find(hunk, tmp_path) for hunk in defect.hunks}
        texts = [path.read_text() for path in paths]
        with copy.planted(defect):
            assert [path.read_text() for path in paths] != texts
        assert [path.read_text() for path in paths] == texts


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_planted_defect_is_caught_by_its_test() -> None:
    tried = try_all(planted_defects())
    assert [f"{each.defect.name}:\n{each.said}" for each in tried if not each.caught] == []
