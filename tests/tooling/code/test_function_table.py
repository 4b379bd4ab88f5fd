"""The table of the three functions agrees with the lists that cannot import it."""

from __future__ import annotations

from infra_pulumi import parts
from local.services import ROOT
from local.tasks.metrics_page import METRICS
from saldo.serve.functions import FUNCTIONS


def test_deployment_has_the_same_functions_and_roles() -> None:
    deployed = {(function.name, function.role) for function in parts.FUNCTIONS}

    assert deployed == {(function.name, function.role) for function in FUNCTIONS}


def test_each_function_has_a_folder() -> None:
    folders = {main.parent.name for main in (ROOT / "functions").glob("*/main.py")}

    assert folders == {function.name for function in FUNCTIONS}


def test_metrics_know_the_same_functions() -> None:
    assert set(METRICS) == {function.name for function in FUNCTIONS}
