"""What the deployment's tests share: each stack as the program asks for it, captured once.

Most of them need Pulumi's SDK, which is in .venv-infra and not in .venv: there they are left out,
and the run's header says so. `make test-infra` runs all of them.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra_pulumi.capture import Captured
    from tests.infra.definitions import Schema

    RecordProperty = Callable[[str, object], None]

HERE = Path(__file__).parent
STACKS = ("cluster", "dev", "prod")
WITHOUT_PULUMI = {"test_config.py"}
HAS_PULUMI = find_spec("pulumi") is not None

collect_ignore = (
    [] if HAS_PULUMI else [f.name for f in HERE.glob("test_*.py") if f.name not in WITHOUT_PULUMI]
)


def pytest_report_header() -> str:
    if HAS_PULUMI:
        return "infra: with Pulumi's SDK"
    return f"infra: without Pulumi's SDK; {len(collect_ignore)} files run in `make test-infra` only"


@pytest.fixture(scope="session")
def captures() -> dict[str, Captured]:
    """Every stack of the repository, with images as `make images` would have named them."""
    from infra_pulumi.capture import capture_apart, sample_images, stack_values  # noqa: PLC0415 - see above

    runs = {stack: stack_values(stack) for stack in STACKS}
    for values in runs.values():
        values["images"] = sample_images(values)
    return capture_apart(runs)


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    """The name of each stack file in turn."""
    name: str = request.param
    return name


@pytest.fixture
def captured(captures: dict[str, Captured], stack: str) -> Captured:
    """What that stack asks for."""
    return captures[stack]


@pytest.fixture(scope="session")
def schemas() -> dict[tuple[str, str], Schema]:
    """The closed definitions of custom resources, from the folder beside the repository."""
    from tests.infra.definitions import read_definitions  # noqa: PLC0415 - see above

    folder = Path(os.environ.get("SALDO_CRDS", HERE.parents[2] / "shared" / "crds"))
    if not folder.is_dir():
        pytest.skip("the definitions of the custom resources are not here")
    return read_definitions(folder)


def tool(variable: str, name: str) -> str | None:
    """The path of a program that make names in ``variable``, or that is on the PATH."""
    named = os.environ.get(variable)
    return named if named and Path(named).is_file() else shutil.which(name)


def by_kind(captured: Captured, *kinds: str) -> list[dict[str, Any]]:
    """The inputs of the captured objects of Kubernetes of these kinds."""
    return [r.inputs for r in captured.resources if r.kind in kinds]


def by_type(captured: Captured, *types: str) -> list[dict[str, Any]]:
    """The inputs of the captured resources of these types of Pulumi."""
    return [r.inputs for r in captured.resources if r.type in types]
