"""The selectors of kubectl in the documentation, against the pods that the stacks make."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.infra.conftest import by_kind

if TYPE_CHECKING:
    from infra_pulumi.capture import Captured

DOCS = Path(__file__).parents[2] / "docs"
SELECTOR = re.compile(
    r"kubectl.*? (?:-l|--selector[ =])\s*(\S+)(?:.*? (?:-c|--container[ =])\s*(\S+))?"
)
DOCUMENTED = [
    (file.name, selector, container)
    for file in sorted(DOCS.glob("*.md"))
    for selector, container in SELECTOR.findall(file.read_text())
]


def pods(captured: Captured) -> list[dict[str, Any]]:
    """Return the templates of all pods that the objects of a stack make."""
    specs = [item["spec"] for item in by_kind(captured, "Service", "Job", "StatefulSet", "CronJob")]
    return [
        spec.get("jobTemplate", {}).get("spec", spec)["template"]
        for spec in specs
        if "template" in spec or "jobTemplate" in spec
    ]


def test_the_documentation_has_selectors() -> None:
    assert {"runbook.md"} <= {file for file, _, _ in DOCUMENTED}


@pytest.mark.parametrize(("file", "selector", "container"), DOCUMENTED)
def test_a_documented_selector_finds_pods_with_its_container(
    file: str, selector: str, container: str, captured: Captured
) -> None:
    """One pod without the container ends `kubectl logs` for all of them."""
    wanted = dict(pair.split("=", 1) for pair in selector.split(","))
    found = [pod for pod in pods(captured) if wanted.items() <= pod["metadata"]["labels"].items()]

    assert found, file
    for pod in found:
        names = {made["name"] for made in pod["spec"]["containers"]}
        assert not container or container in names
