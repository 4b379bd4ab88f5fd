"""The add-ons of EKS that need nodes to run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

from infra_pulumi import versions
from infra_pulumi.iam_roles import attach, pod_role

if TYPE_CHECKING:
    from infra_pulumi.layers.eks.cluster import Cluster

SYSTEM = "kube-system"
# Of the add-on metrics-server, as EKS runs it.
METRICS_PORT = 10251


def install_addons(cluster: Cluster, nodes: list[aws.eks.NodeGroup]) -> pulumi.Resource:
    """EKS's add-ons that need nodes to run on; the agent that hands pods their identities."""
    agent = aws.eks.Addon(
        "pod-identity",
        cluster_name=cluster.name,
        addon_name="eks-pod-identity-agent",
        addon_version=versions.POD_IDENTITY_AGENT,
        opts=pulumi.ResourceOptions(parent=cluster, depends_on=nodes),
    )
    aws.eks.Addon(
        "coredns",
        cluster_name=cluster.name,
        addon_name="coredns",
        addon_version=versions.COREDNS,
        # The one that EKS started the cluster with is there already.
        resolve_conflicts_on_create="OVERWRITE",
        resolve_conflicts_on_update="OVERWRITE",
        opts=pulumi.ResourceOptions(parent=cluster, depends_on=nodes),
    )
    # Knative's activator, webhooks and gateway scale by what it measures only.
    aws.eks.Addon(
        "metrics",
        cluster_name=cluster.name,
        addon_name="metrics-server",
        addon_version=versions.METRICS_SERVER,
        opts=pulumi.ResourceOptions(parent=cluster, depends_on=nodes),
    )
    account = "ebs-csi-controller-sa"
    role = pod_role(
        "volumes",
        cluster=cluster.name,
        namespace=SYSTEM,
        service_account=account,
        associate=False,
        parent=cluster,
    ).role
    attached = attach("volumes", role, ["service-role/AmazonEBSCSIDriverPolicy"], parent=cluster)
    driver = aws.eks.Addon(
        "volumes",
        cluster_name=cluster.name,
        addon_name="aws-ebs-csi-driver",
        addon_version=versions.EBS_CSI_DRIVER,
        pod_identity_associations=[
            aws.eks.AddonPodIdentityAssociationArgs(role_arn=role.arn, service_account=account)
        ],
        opts=pulumi.ResourceOptions(parent=cluster, depends_on=[*nodes, agent, *attached]),
    )
    k8s.storage.v1.StorageClass(
        "volumes",
        metadata={
            "name": "gp3",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        provisioner="ebs.csi.aws.com",
        parameters={"type": "gp3", "encrypted": "true"},
        # In the zone of the pod that asks, and not before.
        volume_binding_mode="WaitForFirstConsumer",
        allow_volume_expansion=True,
        reclaim_policy="Delete",
        opts=pulumi.ResourceOptions(parent=cluster, provider=cluster.provider, depends_on=[driver]),
    )
    return agent
