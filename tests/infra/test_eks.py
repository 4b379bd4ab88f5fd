"""EKS: what its nodes need to come, to scale and to go."""

from __future__ import annotations

import pytest

from infra_pulumi import versions
from infra_pulumi.capture import Captured, Resource, stack_values
from tests.infra.conftest import by_type

pytestmark = pytest.mark.parametrize("stack", ["dev", "prod"], indirect=True)

NODE_GROUP = "aws:eks/nodeGroup:NodeGroup"
ADDON = "aws:eks/addon:Addon"


def test_the_autoscaler_may_list_everything_it_lists(captured: Captured) -> None:
    """1.35 lists resource.k8s.io, which charts before 9.59.0 forbid: it would never scale."""
    (scaler,) = [
        r.inputs
        for r in captured.resources
        if r.type == "kubernetes:helm.sh/v3:Release" and r.name == "cluster-autoscaler"
    ]

    assert tuple(map(int, scaler["version"].split("."))) >= (9, 59, 0)
    assert scaler["values"]["image"]["tag"].startswith(f"v{versions.KUBERNETES}.")


def attachments(captured: Captured, role: str) -> set[str]:
    """Return the URNs of the policies that are attached to a role."""
    return {
        r.urn
        for r in captured.resources
        if r.type.endswith(":RolePolicyAttachment") and r.name.startswith(f"{role}-")
    }


def test_policies_stay_attached_until_their_users_are_gone(captured: Captured) -> None:
    """Destroyed in any order, the network's policy would go while nodes still drain."""
    (cluster,) = [r for r in captured.resources if r.type == "eks:index:Cluster"]
    needs: list[tuple[Resource, set[str]]] = [(cluster, attachments(captured, "cluster"))]
    for resource in captured.resources:
        if resource.type == NODE_GROUP:
            needs.append((resource, attachments(captured, "nodes")))
        if resource.type == "aws:rds/instance:Instance":
            needs.append((resource, attachments(captured, "database-monitoring")))
        if resource.type == "aws:eks/addon:Addon" and resource.name == "volumes":
            needs.append((resource, attachments(captured, "volumes")))

    assert len(needs) == 3 + len(by_type(captured, NODE_GROUP))
    for resource, attached in needs:
        assert attached
        assert attached <= set(resource.depends_on), resource.name


def test_the_api_reaches_the_metrics_that_knative_scales_by(captured: Captured) -> None:
    """Without them the activator, the webhooks and Kourier stay at their least replicas."""
    (addon,) = [a for a in by_type(captured, ADDON) if a["addonName"] == "metrics-server"]
    ports = {
        rule["fromPort"]
        for rule in by_type(captured, "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")
        if rule.get("referencedSecurityGroupId") == "securitygroup-control-plane"
        and rule["securityGroupId"] == "securitygroup-nodes"
    }

    assert addon["addonVersion"] == versions.METRICS_SERVER
    # Where EKS' add-on serves the metrics API; the kubelets that it asks are at 10250.
    assert ports == {8443, 9443, 10250, 10251}


def test_each_zone_has_its_own_nodes(captured: Captured, stack: str) -> None:
    """A pod with a volume runs in its zone only: a group over all zones may grow in another."""
    values = stack_values(stack)
    zones, config = values["aws"]["zones"], values["eks"]
    groups = by_type(captured, NODE_GROUP)

    assert sorted(tuple(group["subnetIds"]) for group in groups) == [
        (f"subnet-private-{zone}",) for zone in sorted(zones)
    ]
    for bound, total in (("minSize", config["nodesMin"]), ("maxSize", config["nodesMax"])):
        assert [group["scalingConfig"][bound] for group in groups] == [total / len(zones)] * 3


def test_the_autoscaler_balances_the_zones(captured: Captured) -> None:
    (scaler,) = [
        r.inputs["values"]
        for r in captured.resources
        if r.name == "cluster-autoscaler" and r.inputs.get("chart")
    ]

    assert scaler["extraArgs"] == {"balance-similar-node-groups": True}
