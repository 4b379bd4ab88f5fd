"""What the deployment's tests share: each stack as the program asks for it, captured once.

They run in .venv-infra, by `make test-infra`: the functions' own environment has no Pulumi. A skip
whose reason is not in allowed_skips.txt fails the run.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra_pulumi.capture import capture_apart, sample_images, stack_values
from tests.infra.definitions import read_definitions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from infra_pulumi.capture import Captured, Resource
    from tests.infra.definitions import Schema

    RecordProperty = Callable[[str, object], None]

HERE = Path(__file__).parent
STACKS = ("cluster", "dev", "prod")
ALLOWED_SKIPS = HERE.parent / "allowed_skips.txt"
SKIPPED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SKIPPED] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep why a test was skipped: pytest says "Skipped: why" as the last part of where."""
    del call
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        item.config.stash[SKIPPED].append(report.longrepr[2].removeprefix("Skipped: "))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which something was skipped for a reason that nobody allowed."""
    allowed = set(ALLOWED_SKIPS.read_text().splitlines())
    if any(reason not in allowed for reason in session.config.stash[SKIPPED]):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def captures() -> dict[str, Captured]:
    """Every stack of the repository, with images as `make images-push` would print them."""
    runs = {stack: stack_values(stack) for stack in STACKS}
    for values in runs.values():
        values["images"] = sample_images(values)
    return capture_apart(runs)


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    """Return the name of each stack file in turn."""
    name: str = request.param
    return name


@pytest.fixture
def captured(captures: dict[str, Captured], stack: str) -> Captured:
    """Return what that stack asks for."""
    return captures[stack]


@pytest.fixture(scope="session")
def schemas() -> dict[tuple[str, str], Schema]:
    """Return the closed definitions of custom resources, from the folder beside the repository."""
    folder = Path(os.environ.get("SALDO_CRDS", HERE.parents[2] / "shared" / "crds"))
    if not folder.is_dir():
        pytest.skip("the definitions of the custom resources are not here")
    return read_definitions(folder)


def tool(variable: str, name: str) -> str | None:
    """Return the path of a program that make names in ``variable``, or that is on the PATH."""
    named = os.environ.get(variable)
    return named if named and Path(named).is_file() else shutil.which(name)


def by_kind(captured: Captured, *kinds: str) -> list[dict[str, Any]]:
    """Return the inputs of the captured objects of Kubernetes of these kinds."""
    return [r.inputs for r in captured.resources if r.kind in kinds]


def by_type(captured: Captured, *types: str) -> list[dict[str, Any]]:
    """Return the inputs of the captured resources of these types of Pulumi."""
    return [r.inputs for r in captured.resources if r.type in types]


def named(captured: Captured, kind: str, name: str) -> Resource:
    """Return the one resource of a type's last part, or a kind, with this name."""
    (found,) = [
        r
        for r in captured.resources
        if r.name == name and kind in {r.type.rpartition(":")[2], r.kind}
    ]
    return found
