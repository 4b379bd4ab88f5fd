"""PostgreSQL in one pod: found early, and probed without a noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra_pulumi.parts import DATABASE
from tests.infra.conftest import by_kind

if TYPE_CHECKING:
    from infra_pulumi.capture import Captured

pytestmark = pytest.mark.parametrize("stack", ["cluster"], indirect=True)


def test_the_database_has_a_name_before_it_is_ready(captured: Captured) -> None:
    """The migrations look it up while it starts: a name that is not there fails at once."""
    (address,) = [item for item in by_kind(captured, "Service") if item["apiVersion"] == "v1"]

    assert address["spec"]["clusterIP"] == "None"
    assert address["spec"]["publishNotReadyAddresses"] is True


def test_probes_name_a_database_that_is_there(captured: Captured) -> None:
    """Without a name, pg_isready asks for the user's own: a FATAL in the log at every probe."""
    (pod,) = by_kind(captured, "StatefulSet")
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    probes = [container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")]

    assert environment["POSTGRES_DB"] == DATABASE
    for probe in probes:
        command = probe["exec"]["command"]
        assert command[command.index("--dbname") + 1] == DATABASE
