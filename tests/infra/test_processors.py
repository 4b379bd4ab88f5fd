"""The processors that a stack's pods request, against what its nodes have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra_pulumi.capture import stack_values
from infra_pulumi.config import BadConfigError, read_config
from infra_pulumi.layers.processors import allocatable_m, requested_m, thousandths
from tests.infra.conftest import by_kind

if TYPE_CHECKING:
    from infra_pulumi.capture import Captured

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


def requested(stack: str) -> dict[str, int]:
    read = read_config(stack_values(stack))
    return requested_m({key: getattr(read, key) for key in type(read).model_fields}, read.functions)


def cpu_m(container: dict[str, Any]) -> int:
    return thousandths(container["resources"]["requests"]["cpu"])


@pytest.mark.parametrize(
    ("instance_type", "there"),
    [("m7i.large", 1930), ("m7i.xlarge", 3920), ("c7i.2xlarge", 7910), ("m7i.4xlarge", 15890)],
)
def test_eks_keeps_a_part_of_each_node(instance_type: str, there: int) -> None:
    assert allocatable_m(instance_type) == there


def test_the_sum_counts_what_the_objects_request(captured: Captured, stack: str) -> None:
    """Of the parts whose objects are the program's own; the rest is from release manifests."""
    functions = sum(
        max(1, int(template["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"]))
        * (cpu_m(template["spec"]["containers"][0]) + sidecar_m(captured))
        for template in (
            item["spec"]["template"]
            for item in by_kind(captured, "Service")
            if "serving" in item["apiVersion"]
        )
    )
    brokers = sum(
        int(pool["spec"]["replicas"]) * cpu_m(pool["spec"])
        for pool in by_kind(captured, "KafkaNodePool")
    )
    operators = sum(
        cpu_m(kafka["spec"]["entityOperator"][operator])
        for kafka in by_kind(captured, "Kafka")
        for operator in ("topicOperator", "userOperator")
    )
    (job,) = by_kind(captured, "CronJob")
    databases = by_kind(captured, "StatefulSet")
    counted = requested(stack)

    assert counted["functions"] == functions
    assert counted["Kafka"] == brokers + operators
    assert counted["operate"] == cpu_m(
        job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    )
    assert counted["PostgreSQL"] == sum(
        cpu_m(item["spec"]["template"]["spec"]["containers"][0]) for item in databases
    )


def sidecar_m(captured: Captured) -> int:
    (serving,) = by_kind(captured, "KnativeServing")
    return thousandths(serving["spec"]["config"]["deployment"]["queue-sidecar-cpu-request"])


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_pods_that_do_not_fit_on_the_nodes_are_refused(stack: str) -> None:
    """Found in the preview: Pulumi would wait a quarter of an hour for pods that stay Pending."""
    values = stack_values(stack)
    read_config(values)
    values["functions"]["get_balance"]["cpu"] = "2"

    with pytest.raises(BadConfigError, match="saldo:functions: all pods at rest request"):
        read_config(values)
    values["eks"]["nodesMin"] = values["eks"]["nodesMax"]
    read_config(values)


def test_the_documentation_says_what_a_cluster_must_have() -> None:
    (said,) = re.findall(r"at rest request (\d\.\d) CPUs", " ".join(DEPLOY.read_text().split()))

    assert float(said) == round(sum(requested("cluster").values()) / 1000, 1)
