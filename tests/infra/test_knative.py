"""What the program asks of Knative's operator, by the manifests of Knative 1.23."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml

from infra_pulumi import versions
from infra_pulumi.capture import capture_apart, stack_values
from tests.infra import definitions
from tests.infra.conftest import by_kind

if TYPE_CHECKING:
    from infra_pulumi.capture import Captured

# Those that Knative 1.23 makes, all of them with minAvailable: 80%.
BUDGETS = {
    "KnativeServing": {"activator-pdb", "webhook-pdb", "3scale-kourier-gateway-pdb"},
    "KnativeEventing": {"eventing-webhook"},
}


def test_one_pod_of_knative_may_go_at_a_time(captured: Captured) -> None:
    """80 % of one or two pods is all of them: no node could ever be drained."""
    for kind, names in BUDGETS.items():
        (knative,) = by_kind(captured, kind)
        budgets = knative["spec"]["podDisruptionBudgets"]

        assert {budget["name"] for budget in budgets} == names
        for budget in budgets:
            # The operator refuses one that has minAvailable too.
            assert budget == {"name": budget["name"], "maxUnavailable": 1}


def test_each_consumer_of_the_source_has_its_own_pod(captured: Captured, stack: str) -> None:
    """A dispatcher pod reads as one consumer of Kafka, whatever number of replicas is on it."""
    (source,) = by_kind(captured, "KafkaSource")
    (eventing,) = by_kind(captured, "KnativeEventing")
    pods = int(environment(eventing, "kafka-controller", "controller")["DISPATCHERS_MIN_REPLICAS"])

    assert pods == source["spec"]["consumers"] == stack_values(stack)["kafka"]["consumers"]
    assert pods >= (2 if stack == "prod" else 1)


def test_only_the_stack_file_sets_the_number_of_consumers(captured: Captured) -> None:
    """KEDA cannot: the brokers admit no pod of its own, and it would say Ready all the same."""
    (source,) = by_kind(captured, "KafkaSource")
    (eventing,) = by_kind(captured, "KnativeEventing")

    assert "autoscaling" not in str(source["metadata"])
    assert "kafka-features" not in eventing["spec"]["config"]
    assert not [r for r in captured.resources if r.name == "keda"]


def test_the_gateway_image_is_pinned(captured: Captured) -> None:
    """Knative 1.23 names it v1.37-latest: another Envoy after the next restart."""
    (serving,) = by_kind(captured, "KnativeServing")

    assert serving["spec"]["registry"] == {
        "override": {"3scale-kourier-gateway/kourier-gateway": versions.ENVOY_IMAGE}
    }
    assert re.fullmatch(
        r"docker\.io/envoyproxy/envoy:v1\.37\.\d+@sha256:[0-9a-f]{64}", versions.ENVOY_IMAGE
    )


def test_brokers_channels_and_sinks_of_knative_do_not_run(captured: Captured) -> None:
    (eventing,) = by_kind(captured, "KnativeEventing")
    replicas = {w["name"]: w.get("replicas") for w in eventing["spec"]["workloads"]}
    requested = {
        w["name"]: made["requests"]["cpu"]
        for w in eventing["spec"]["workloads"]
        for made in w.get("resources", [])
    }

    assert {name for name, count in replicas.items() if count == 0} == {
        "imc-controller",
        "imc-dispatcher",
        "job-sink",
        "mt-broker-controller",
        "request-reply",
    }
    # The operator takes no zero for what a HorizontalPodAutoscaler scales.
    assert requested == {"mt-broker-ingress": "5m", "mt-broker-filter": "5m"}
    assert replicas["mt-broker-ingress"] is replicas["mt-broker-filter"] is None


def test_knatives_pods_use_tls_if_the_stack_says_so(
    captures: dict[str, Captured], schemas: dict[tuple[str, str], Any]
) -> None:
    """Else tokens are in clear from the gateway to a function, inside the cluster's network."""
    values = stack_values("cluster")
    values["knative"]["internalTls"] = True
    captured = capture_apart({"cluster": values})["cluster"]
    (off,) = by_kind(captures["cluster"], "KnativeServing")
    (on,) = by_kind(captured, "KnativeServing")
    issuers = {item["metadata"]["name"]: item for item in by_kind(captured, "ClusterIssuer")}
    (authority,) = [
        item
        for item in by_kind(captured, "Certificate")
        if item["metadata"]["namespace"] == "cert-manager"
    ]
    reference = yaml.safe_load(on["spec"]["config"]["certmanager"]["systemInternalIssuerRef"])

    assert off["spec"]["config"]["network"]["system-internal-tls"] == "Disabled"
    assert on["spec"]["config"]["network"]["system-internal-tls"] == "Enabled"
    assert "certmanager" not in off["spec"]["config"]
    assert reference == {"kind": "ClusterIssuer", "name": "knative-internal"}
    assert issuers["knative-internal"]["spec"] == {"ca": {"secretName": "knative-internal"}}
    assert authority["spec"]["issuerRef"]["name"] in issuers
    assert authority["spec"]["secretName"] == "knative-internal"
    for item in (on, authority, *issuers.values()):
        assert not definitions.problems(schemas[item["apiVersion"], item["kind"]], whole(item))


def whole(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object as the API server gets it: Pulumi's wire has floats only."""
    made: dict[str, Any] = json.loads(json.dumps(item), parse_float=lambda text: int(float(text)))
    return made


def environment(knative: dict[str, Any], workload: str, container: str) -> dict[str, str]:
    """Return the variables that the operator sets in a container of Knative's."""
    (override,) = [w for w in knative["spec"]["workloads"] if w["name"] == workload]
    (found,) = [e["envVars"] for e in override["env"] if e["container"] == container]
    return {variable["name"]: variable["value"] for variable in found}
