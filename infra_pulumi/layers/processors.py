"""How much of a processor a stack's pods request at rest, against what its nodes have.

Pure arithmetic over the configuration, so that a stack whose pods could not all start fails in the
preview, and not after a quarter of an hour of waiting for them. All figures are thousandths of a
processor, as in Kubernetes' ``250m``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra_pulumi.parts import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.layers.functions.scaling import FunctionsConfig
    from infra_pulumi.section import Problem

PROCESSOR_M = 1000
# Of each processor of a node, EKS keeps this much: the first, the second, two more, all the others.
KEPT_M = (60, 10, 5, 5)
KEPT_FURTHER_M = 2.5
# What the release manifests of Knative 1.23 request, a replica: of Serving the activator, the
# autoscalers, controller, webhook, Kourier's controller and gateway; of Eventing the controllers
# and webhooks, with what cannot be stopped.
SERVING_M = 300 + 100 + 30 + 100 + 100 + 200 + 200
EVENTING_M = 100 + 100 + 5 + 5 + 100 + 20
# The PingSources' one adapter, and a dispatcher pod of the KafkaSource.
PING_SOURCES_M = 125
DISPATCHER_M = 1000
# queue-proxy, before each function: see knative.py.
QUEUE_PROXY_M = 25
# The charts of Knative's operator (with its webhook) and of Strimzi; the others request nothing.
KNATIVE_OPERATOR_M = 100 + 100
STRIMZI_OPERATOR_M = 200
BROKER_M = 250
# Strimzi's two operators of one cluster: of topics and of users.
ENTITY_OPERATOR_M = 50
POSTGRES_M = 250
# An operator's command, which must find a place beside the rest.
OPERATE_M = 250
# EKS' add-ons: on each node the network plugin, kube-proxy and the volumes' driver; once, with two
# replicas each, CoreDNS, metrics-server and the volumes' controller.
NODE_M = 50 + 100 + 30
ADDONS_M = 2 * (100 + 100 + 60)


def allocatable_m(instance_type: str) -> int:
    """Return what pods can request on a node of EKS, whose size says its processors."""
    size = instance_type.rpartition(".")[2]
    processors = 2 if size == "large" else 4 * int(size.removesuffix("xlarge") or 1)
    kept = sum(KEPT_M[:processors]) + KEPT_FURTHER_M * max(0, processors - len(KEPT_M))
    return int(processors * PROCESSOR_M - kept)


def thousandths(quantity: str) -> int:
    """Return a quantity of processors, as Kubernetes spells it."""
    return int(quantity[:-1]) if quantity.endswith("m") else int(quantity) * PROCESSOR_M


def requested_m(stack: Mapping[str, Any], functions: FunctionsConfig) -> dict[str, int]:
    """Return what the pods of a stack request at rest, by part, without the nodes' own."""
    kafka, knative, operators = stack["kafka"], stack["knative"], stack["operators"]
    scaled = [functions.of(function.name) for function in FUNCTIONS]
    by_strimzi = kafka.kind == "strimzi"
    return {
        "Knative": (
            0 if knative is None else (SERVING_M + EVENTING_M) * knative.replicas + PING_SOURCES_M
        ),
        "dispatchers": DISPATCHER_M * kafka.consumers,
        "Kafka": BROKER_M * kafka.brokers + 2 * ENTITY_OPERATOR_M if by_strimzi else 0,
        "PostgreSQL": POSTGRES_M if getattr(stack.get("database"), "kind", None) == "pod" else 0,
        "operators": (
            0
            if operators is None
            else (0 if knative is None else KNATIVE_OPERATOR_M)
            + (STRIMZI_OPERATOR_M * operators.replicas if by_strimzi else 0)
        ),
        # Knative starts one of each even where zero will do: it must become ready once.
        "functions": sum(
            max(1, scaling.pods_min) * (thousandths(scaling.cpu) + QUEUE_PROXY_M)
            for scaling in scaled
        ),
        "operate": OPERATE_M,
    }


def not_placed(stack: Mapping[str, Any], functions: FunctionsConfig) -> Iterator[Problem]:
    """Yield the problem of a stack in AWS whose pods do not fit on its least nodes."""
    eks = stack.get("eks")
    if eks is None or not {"kafka", "knative", "operators"} <= stack.keys():
        return
    smallest = min(eks.instance_types, key=allocatable_m)
    there = eks.nodes_min * allocatable_m(smallest)
    wanted = sum(requested_m(stack, functions).values()) + NODE_M * eks.nodes_min + ADDONS_M
    if wanted > there:
        nodes = f"the {eks.nodes_min} nodes of eks.nodesMin have {_processors(there)} ({smallest})"
        remedy = "raise nodesMin, take larger instanceTypes, or lower cpu or kafka.consumers"
        yield "", f"all pods at rest request {_processors(wanted)} CPUs, and {nodes}: {remedy}"


def _processors(thousandths: int) -> str:
    return f"{thousandths / PROCESSOR_M:.2f}"
