"""The program in Pulumi's real engine, with stand-ins for the providers: a stack's whole life."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.infra.conftest import tool

if TYPE_CHECKING:
    from tests.infra.conftest import RecordProperty

ROOT = Path(__file__).parents[2]
LIFE_TIMEOUT_S = 900
STACKS_LIVED = ("cluster", "prod")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIFE_TIMEOUT_S + 60)]


@pytest.fixture(scope="module", params=STACKS_LIVED)
def life(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what engine.py told of the stack."""
    pulumi = tool("PULUMI", "pulumi")
    if pulumi is None:
        pytest.skip("neither Pulumi's CLI nor Go to build it with is here")
    done = subprocess.run(
        [sys.executable, "-m", "tests.infra.engine", request.param],
        check=True, cwd=ROOT, env=os.environ | {"PULUMI": pulumi},
        stdout=subprocess.PIPE, text=True, timeout=LIFE_TIMEOUT_S,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout)
    return told | {"stack": request.param}


def test_a_preview_makes_nothing_and_shows_all(
    life: dict[str, Any], record_property: RecordProperty
) -> None:
    record_property("resources seen", len(life["preview"]["create"]))

    assert life["made_by_preview"] == 0
    assert set(life["preview"]) == {"create"}
    assert len(life["preview"]["create"]) > (200 if life["stack"] == "prod" else 60)


def test_up_makes_what_the_preview_showed(life: dict[str, Any]) -> None:
    assert set(life["up"]) == {"create"}
    # Components are the engine's own; everything else went to a provider.
    assert life["made"] > (190 if life["stack"] == "prod" else 50)
    assert set(life["again"]["same"]) == set(life["preview"]["create"])


def test_the_outputs_say_where_to_look(life: dict[str, Any]) -> None:
    assert life["outputs"]["topic"] == "transactions"
    assert life["outputs"]["urls"]["record_transaction"].startswith("https://transactions.")
    assert life["outputs"]["urls"]["get_balance"].startswith("https://balances.")
    assert "dashboards" in life["outputs"]
    assert ("repositories" in life["outputs"]) == (life["stack"] == "prod")


def test_a_second_preview_changes_nothing(life: dict[str, Any]) -> None:
    assert set(life["again"]) == {"same"}


def test_one_change_changes_one_resource(life: dict[str, Any]) -> None:
    assert set(life["changed"]) == {"same", "update"}
    (urn,) = life["changed"]["update"]
    assert urn.endswith("kubernetes:serving.knative.dev/v1:Service::get-balance")


def test_a_stack_over_its_connections_fails_in_the_preview(life: dict[str, Any]) -> None:
    assert f"Pulumi.{life['stack']}.yaml cannot be deployed" in life["over_budget"]
    assert "saldo:database.connectionsMax: 60 leave 40 for the functions" in life["over_budget"]


def test_the_policy_pack_stops_a_preview_that_breaks_a_policy(life: dict[str, Any]) -> None:
    assert life["kept_policies_before"] == ""
    assert life["kept_policies"] == ""
    assert "topics-are-finite" in life["broken_policy"]
    assert "must have 12 partitions" in life["broken_policy"]


def test_no_secret_is_in_the_state_in_clear(life: dict[str, Any]) -> None:
    assert life["in_clear"] == []
    # In the cluster they are made up inside it: the state has none at all.
    assert bool(life["encrypted"]) == (life["stack"] == "prod")


def test_destroy_leaves_nothing(life: dict[str, Any]) -> None:
    assert set(life["destroy"]) == {"delete"}
    assert life["deleted"] == life["made"]
