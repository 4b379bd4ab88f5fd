"""The size and the structure of the code: ARCHITECTURE.md says why."""

from __future__ import annotations

import ast
import itertools
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import grimp
import pytest

from local.services import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MODULE_LINES_MAX = 400
LONG_MODULE_LINES = 300
LONG_MODULES_MAX = 8
FUNCTION_LINES_MAX = 60
PARAMETERS_MAX = 8
NOQA_MAX = 150
TEST_NAME_CHARACTERS_MAX = 60
PYTHON_FOLDERS = ("src", "functions", "local", "benchmarks", "docs", "infra_pulumi", "tests")
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
SUPPRESSION = re.compile(r"#\s*noqa\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function with its place and its size."""

    path: str
    name: str
    lines: int
    parameters: int


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def function_of(path: Path, node: FUNCTION) -> Function:
    arguments = node.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return Function(
        path=str(path.relative_to(ROOT)),
        name=node.name,
        lines=(node.end_lineno or node.lineno) - node.lineno + 1,
        parameters=sum(name not in {"self", "cls"} for name in names),
    )


@cache
def product_functions() -> tuple[Function, ...]:
    return tuple(
        function_of(path, node)
        for path in sources("src", "functions")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, FUNCTION)
    )


@cache
def module_lines() -> dict[str, int]:
    return {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources("src")
    }


@pytest.mark.parametrize("type_checking", [False, True], ids=["at run time", "for types"])
def test_no_import_cycle_exists(*, type_checking: bool) -> None:
    graph = grimp.build_graph(
        "saldo", exclude_type_checking_imports=not type_checking, cache_dir=None
    )
    # A package imports what its submodules import only by way of them.
    assert (
        cycles({each: graph.find_modules_directly_imported_by(each) for each in graph.modules})
        == []
    )


def cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another, each sorted."""
    reached = {module: closure(module, imports) for module in imports}
    groups = {
        tuple(sorted({module} | {each for each in others if module in reached.get(each, set())}))
        for module, others in reached.items()
        if module in others
    }
    return [list(group) for group in sorted(groups)]


def closure(module: str, imports: dict[str, set[str]]) -> set[str]:
    """Return all modules that ``module`` imports, directly or not."""
    found: set[str] = set()
    open_ = [module]
    while open_:
        further = imports.get(open_.pop(), set()) - found
        found |= further
        open_ += further
    return found


def test_an_import_cycle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]


def diagram() -> dict[str, set[str]]:
    """Return the arrows between packages in the diagram of docs/modules.md."""
    text = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
    chart = re.sub(r'\[".*?"\]', "", text.split("```mermaid")[1].split("```")[0])
    arrows: dict[str, set[str]] = {}
    for line in chart.splitlines():
        ends = [re.findall(r"\w+", end) for end in line.split("-->")]
        for left, right in itertools.pairwise(ends):
            for package in left:
                arrows.setdefault(package, set()).update(right)
    return arrows


def test_diagram_of_modules_matches_the_imports() -> None:
    graph = grimp.build_graph("saldo", cache_dir=None)
    imports: dict[str, set[str]] = {}
    for module in graph.modules - {"saldo"}:
        package = module.split(".")[1]
        found = {each.split(".")[1] for each in graph.find_modules_directly_imported_by(module)}
        imports.setdefault(package, set()).update(found - {package})
    shown = diagram()
    assert shown.keys() - {"functions"} == {each for each, found in imports.items() if found}
    for package, found in imports.items():
        assert closure(package, shown) == closure(package, imports), (package, found)


def test_no_module_is_too_long() -> None:
    lines = module_lines()
    assert {path: count for path, count in lines.items() if count > MODULE_LINES_MAX} == {}
    long = [path for path, count in lines.items() if count > LONG_MODULE_LINES]
    assert len(long) <= LONG_MODULES_MAX, long


def test_no_function_is_too_long() -> None:
    assert [each for each in product_functions() if each.lines > FUNCTION_LINES_MAX] == []


def test_no_function_has_too_many_parameters() -> None:
    """The constructor of a plain dataclass or struct is written by a decorator."""
    assert [each for each in product_functions() if each.parameters > PARAMETERS_MAX] == []


def test_suppressed_lint_findings_stay_few() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources(*PYTHON_FOLDERS)
        for line in path.read_text(encoding="utf-8").splitlines()
        if SUPPRESSION.search(line)
    ]
    assert len(found) <= NOQA_MAX


def test_test_names_are_short() -> None:
    names = {
        node.name
        for path in sources("tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, FUNCTION) and node.name.startswith("test_")
    }
    assert {name for name in names if len(name) > TEST_NAME_CHARACTERS_MAX} == set()
