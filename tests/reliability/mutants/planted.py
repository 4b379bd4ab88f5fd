"""Planted defects: patches that a named test must catch, each tried on a copy of the tree.

``make mutants`` prints a line for each. A patch is a unified diff. The lines above it say what it
breaks and, as ``Caught-By:``, which test has to fail. Only the text of its hunks counts: each is
searched for in all of the source, so code may move.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from local import broker
from local.services import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = Path(__file__).parent
COPIED = ("src", "functions", "local", "tests", "pyproject.toml", "README.md")
SOURCES = ("src", "functions", "local")
CAUGHT_BY = "Caught-By: "
IMPORT_TIMEOUT_S = 120
# The servers' start is part of it; a test that hangs ends itself before.
TEST_TIMEOUT_S = 1200
# Many defects show by a wait that comes to its end, during which nothing runs.
COPIES = 4
TESTS_FAILED = 1
SHOWN_LINES = 30


class NotApplied(Exception):
    """The patch no longer fits the code: make it again, or drop it and say why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunk:
    """One change: the lines that are there, and those that take their place."""

    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One planted defect."""

    name: str
    what: str
    caught_by: str
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of a defect: `caught` says whether its test failed on it."""

    defect: Defect
    caught: bool
    seconds: float
    said: str


def planted_defects() -> list[Defect]:
    """Return all defects by name; raise ValueError for a patch without a head."""
    return [_read(patch) for patch in sorted(FOLDER.glob("*.patch"))]


def _read(patch: Path) -> Defect:
    head, *hunks = re.split(r"^@@ .*\n", patch.read_text(), flags=re.MULTILINE)
    what, caught_by, *_ = head.splitlines()
    if not caught_by.startswith(CAUGHT_BY) or not hunks:
        raise ValueError(
            f"{patch.name}: line 2 must be {CAUGHT_BY}tests/...::test_..., then a diff"
        )
    return Defect(
        name=patch.stem,
        what=what,
        caught_by=caught_by.removeprefix(CAUGHT_BY),
        hunks=tuple(_hunk(lines) for lines in hunks),
    )


def _hunk(text: str) -> Hunk:
    # What follows the last line of a hunk is the head of the next file's.
    lines = re.split(r"^(?:diff --git|--- a/)", text, maxsplit=1, flags=re.MULTILINE)[
        0
    ].splitlines()
    # An editor may have taken the space of an empty line away.
    lines = [line or " " for line in lines]
    return Hunk(
        before="".join(f"{line[1:]}\n" for line in lines if line[0] != "+"),
        after="".join(f"{line[1:]}\n" for line in lines if line[0] != "-"),
    )


def find(hunk: Hunk, root: Path) -> Path:
    """Return the one source file below ``root`` that has the hunk's lines, once; or NotApplied."""
    places = [
        (path, count)
        for source in SOURCES
        for path in sorted((root / source).rglob("*"))
        if path.suffix in {".py", ".sql"} and (count := path.read_text().count(hunk.before))
    ]
    if [count for _, count in places] != [1]:
        found = ", ".join(f"{count} in {path.name}" for path, count in places) or "none"
        raise NotApplied(f"these lines must be in the source once (found: {found}):\n{hunk.before}")
    return places[0][0]


class Copy:
    """A private copy of the tree, in which one defect at a time is planted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "node_modules")
                shutil.copytree(source, folder / name, ignore=ignored)
            else:
                shutil.copy(source, folder / name)
        # What is imported there is the copy, in the servers that the tests start, too.
        paths = os.pathsep.join((str(folder / "src"), str(folder)))
        cache = str((ROOT / broker.default_cache_dir()).parent)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "MAKE"))}
        self._environ = inherited | {
            "PYTHONPATH": paths,
            "PYTHONDONTWRITEBYTECODE": "1",
            "SALDO_CACHE": cache,
        }

    @contextlib.contextmanager
    def planted(self, defect: Defect) -> Iterator[None]:
        """Have the defect in the copy for a while; raises NotApplied."""
        originals: dict[Path, str] = {}
        try:
            for hunk in defect.hunks:
                path = find(hunk, self.folder)
                text = path.read_text()
                originals.setdefault(path, text)
                path.write_text(text.replace(hunk.before, hunk.after))
            yield
        finally:
            for path, text in originals.items():
                path.write_text(text)

    def run(self, tests: Sequence[str]) -> tuple[int, str]:
        """Exit code and output of pytest on these tests."""
        options = ["-q", "-rfE", "--color=no", "-p", "no:randomly", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, "-m", "", *tests],
                cwd=self.folder,
                env=self._environ,
                capture_output=True,
                text=True,
                timeout=TEST_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return -1, f"no end within {TEST_TIMEOUT_S} s"
        return done.returncode, done.stdout + done.stderr

    def imported(self) -> Path:
        """Return the path from which the copy's interpreters import the library."""
        done = subprocess.run(
            [sys.executable, "-c", "import saldo.record.batch as b; print(b.__file__)"],
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT_S,
            check=True,
        )
        return Path(done.stdout.strip())


def try_defect(copy: Copy, defect: Defect) -> Tried:
    """Plant the defect, run its test, take it back; raises NotApplied."""
    began = time.monotonic()
    with copy.planted(defect):
        code, output = copy.run([defect.caught_by])
    # An error of a fixture or an import is not the test's judgement.
    caught = code == TESTS_FAILED and f"FAILED {defect.caught_by}" in output
    said = "\n".join(output.splitlines()[-SHOWN_LINES:])
    return Tried(defect=defect, caught=caught, seconds=time.monotonic() - began, said=said)


def try_all(defects: Sequence[Defect]) -> list[Tried]:
    """Try every defect on one of COPIES, after all tests have passed there; raises NotApplied."""
    with contextlib.ExitStack() as kept:
        folders = [
            kept.enter_context(tempfile.TemporaryDirectory(prefix="saldo-mutants-"))
            for _ in range(COPIES)
        ]
        copies = [Copy(Path(folder).resolve()) for folder in folders]
        for copy in copies:
            if not copy.imported().is_relative_to(copy.folder):
                raise RuntimeError(f"the tests would run on {copy.imported()}, not on the copy")
        code, output = copies[0].run(sorted({defect.caught_by for defect in defects}))
        if code:
            raise RuntimeError(f"without a defect the tests must pass:\n{output[-4000:]}")
        free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for copy in copies:
            free.put(copy)

        def try_on_a_free_copy(defect: Defect) -> Tried:
            copy = free.get()
            try:
                return try_defect(copy, defect)
            finally:
                free.put(copy)

        with ThreadPoolExecutor(COPIES) as pool:
            return list(pool.map(try_on_a_free_copy, defects))


def main() -> int:
    """Print the table; 1 when a defect is not caught."""
    console = Console()
    tried = try_all(planted_defects())
    table = Table("defect", "what it breaks", "caught by", "s", "caught")
    for each in tried:
        table.add_row(
            each.defect.name,
            each.defect.what,
            each.defect.caught_by.rpartition("::")[2],
            f"{each.seconds:.1f}",
            "yes" if each.caught else "NO",
        )
    console.print(table)
    survived = [each for each in tried if not each.caught]
    for each in survived:
        console.print(f"{each.defect.name} was not caught:\n{each.said}", markup=False)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
