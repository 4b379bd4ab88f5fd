"""The nodes of EKS, in one managed group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi
import pulumi_aws as aws

from infra_pulumi import versions
from infra_pulumi.iam_roles import attach, service_role

if TYPE_CHECKING:
    import pulumi_eks as eks

    from infra_pulumi.layers.eks.cluster import Cluster, EksConfig


NODE_DISK_GIB = 50


def make_nodes(
    cluster: Cluster, config: EksConfig, control_plane: eks.Cluster
) -> list[aws.eks.NodeGroup]:
    """Make the nodes, a group for each zone.

    A pod with a volume runs in its zone only. For such a pod a group over several zones may add a
    node in another one, again and again.
    """
    role = service_role("nodes", "ec2.amazonaws.com", parent=cluster)
    attached = attach(
        "nodes",
        role,
        [
            "AmazonEKSWorkerNodePolicy",
            "AmazonEC2ContainerRegistryPullOnly",
            # The network plugin starts before the agent that would give it an identity.
            "AmazonEKS_CNI_Policy",
        ],
        parent=cluster,
    )
    template = _template(cluster)
    zones = cluster.place.zones
    return [
        aws.eks.NodeGroup(
            f"nodes-{zone}",
            cluster_name=cluster.name,
            node_role_arn=role.arn,
            subnet_ids=[subnet],
            version=versions.KUBERNETES,
            ami_type="BOTTLEROCKET_x86_64",
            capacity_type="ON_DEMAND",
            instance_types=list(config.instance_types),
            launch_template=aws.eks.NodeGroupLaunchTemplateArgs(
                id=template.id, version=template.latest_version.apply(str)
            ),
            scaling_config=aws.eks.NodeGroupScalingConfigArgs(
                min_size=config.nodes_min // len(zones),
                max_size=config.nodes_max // len(zones),
                desired_size=config.nodes_min // len(zones),
            ),
            update_config=aws.eks.NodeGroupUpdateConfigArgs(max_unavailable=1),
            node_repair_config=aws.eks.NodeGroupNodeRepairConfigArgs(enabled=True),
            tags={
                "k8s.io/cluster-autoscaler/enabled": "true",
                f"k8s.io/cluster-autoscaler/{cluster.title}": "owned",
            },
            opts=pulumi.ResourceOptions(
                parent=cluster,
                depends_on=[control_plane, *attached],
                # The autoscaler moves it.
                ignore_changes=["scalingConfig.desiredSize"],
            ),
        )
        for zone, subnet in zip(zones, cluster.network.subnet_ids["private"], strict=True)
    ]


def _template(cluster: Cluster) -> aws.ec2.LaunchTemplate:
    return aws.ec2.LaunchTemplate(
        "nodes",
        # Naming this group keeps EKS from giving nodes its own, which may call everywhere.
        vpc_security_group_ids=[cluster.nodes.id],
        metadata_options=aws.ec2.LaunchTemplateMetadataOptionsArgs(
            http_endpoint="enabled",
            http_tokens="required",
            # One hop ends at the node: no pod reads the node's credentials.
            http_put_response_hop_limit=1,
        ),
        # Bottlerocket: a read-only system disk, and this one for images and logs. AWS's own
        # key: nothing of Saldo is kept here.
        block_device_mappings=[
            aws.ec2.LaunchTemplateBlockDeviceMappingArgs(
                device_name="/dev/xvdb",
                ebs=aws.ec2.LaunchTemplateBlockDeviceMappingEbsArgs(
                    encrypted="true",
                    volume_type="gp3",
                    volume_size=NODE_DISK_GIB,
                    delete_on_termination="true",
                ),
            )
        ],
        monitoring=aws.ec2.LaunchTemplateMonitoringArgs(enabled=True),
        tag_specifications=[
            aws.ec2.LaunchTemplateTagSpecificationArgs(
                resource_type="instance", tags={"Name": f"{cluster.title}-node"}
            )
        ],
        update_default_version=True,
        opts=pulumi.ResourceOptions(parent=cluster),
    )
