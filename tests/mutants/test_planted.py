"""The tests bite: each planted defect still fits the code, and its test fails on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mutants.planted import Copy, planted_defects, try_all

if TYPE_CHECKING:
    from pathlib import Path

# What the issue of the faults lists.
DEFECTS_MIN = 12


def test_every_planted_defect_fits_the_code(tmp_path: Path) -> None:
    defects = planted_defects()
    assert len(defects) >= DEFECTS_MIN
    copy = Copy(tmp_path)
    for defect in defects:
        copy.plant(defect)
        copy.plant(defect, undo=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_planted_defect_is_caught_by_its_test() -> None:
    tried = try_all(planted_defects())
    assert len(tried) >= DEFECTS_MIN
    assert [f"{each.defect.name}:\n{each.said}" for each in tried if not each.caught] == []
