"""What registers pods with the load balancer, and what adds nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra_pulumi import versions
from infra_pulumi.helm_charts import release
from infra_pulumi.iam_roles import pod_role
from infra_pulumi.layers.eks.addons import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pulumi

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.eks.cluster import Cluster
    from infra_pulumi.layers.network import AwsConfig


def install_controllers(cluster: Cluster, stack: Stack, ready: Sequence[pulumi.Resource]) -> None:
    """Make what registers pods with the load balancer, and what adds nodes."""
    balancer = "aws-load-balancer-controller"
    # The program makes the load balancer; the controller only keeps its targets.
    registers = pod_role(
        balancer,
        cluster=cluster.name,
        namespace=SYSTEM,
        service_account=balancer,
        statements=_registering(cluster.title, cluster.place),
        parent=cluster,
    )
    release(
        balancer,
        versions.AWS_LOAD_BALANCER_CONTROLLER,
        SYSTEM,
        {
            "clusterName": cluster.title,
            "region": cluster.place.region,
            "vpcId": cluster.network.vpc_id,
            "replicaCount": 2 if stack.protected else 1,
            "serviceAccount": {"name": balancer},
            # Services and Ingresses of the cluster get no load balancer from it.
            "enableServiceMutatorWebhook": False,
        },
        parent=cluster,
        provider=cluster.provider,
        depends_on=[*ready, *registers.ready],
    )
    scaler = "cluster-autoscaler"
    scales = pod_role(
        scaler,
        cluster=cluster.name,
        namespace=SYSTEM,
        service_account=scaler,
        statements=_scaling(cluster.title, cluster.place),
        parent=cluster,
    )
    release(
        scaler,
        versions.CLUSTER_AUTOSCALER,
        SYSTEM,
        {
            "awsRegion": cluster.place.region,
            "autoDiscovery": {"clusterName": cluster.title},
            "image": {"tag": versions.CLUSTER_AUTOSCALER_IMAGE},
            # Each zone has a group of its own.
            "extraArgs": {"balance-similar-node-groups": True},
            "rbac": {"serviceAccount": {"name": scaler}},
        },
        parent=cluster,
        provider=cluster.provider,
        depends_on=[*ready, *scales.ready],
    )


def _registering(cluster: str, place: AwsConfig) -> Sequence[dict[str, object]]:
    return [
        {
            "Sid": "See",
            "Effect": "Allow",
            "Action": [
                "ec2:DescribeAvailabilityZones",
                "ec2:DescribeInstances",
                "ec2:DescribeNetworkInterfaces",
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSubnets",
                "ec2:DescribeVpcs",
                "elasticloadbalancing:DescribeTags",
                "elasticloadbalancing:DescribeTargetGroupAttributes",
                "elasticloadbalancing:DescribeTargetGroups",
                "elasticloadbalancing:DescribeTargetHealth",
            ],
            "Resource": "*",
        },
        {
            "Sid": "Register",
            "Effect": "Allow",
            "Action": [
                "elasticloadbalancing:DeregisterTargets",
                "elasticloadbalancing:RegisterTargets",
            ],
            "Resource": (
                f"arn:aws:elasticloadbalancing:{place.region}:{place.account}"
                f":targetgroup/{cluster}-*/*"
            ),
        },
    ]


def _scaling(cluster: str, place: AwsConfig) -> Sequence[dict[str, object]]:
    return [
        {
            "Sid": "See",
            "Effect": "Allow",
            "Action": [
                "autoscaling:DescribeAutoScalingGroups",
                "autoscaling:DescribeAutoScalingInstances",
                "autoscaling:DescribeLaunchConfigurations",
                "autoscaling:DescribeScalingActivities",
                "ec2:DescribeImages",
                "ec2:DescribeInstanceTypes",
                "ec2:DescribeLaunchTemplateVersions",
                "ec2:GetInstanceTypesFromInstanceRequirements",
            ],
            "Resource": "*",
        },
        {
            "Sid": "SeeThisCluster",
            "Effect": "Allow",
            "Action": "eks:DescribeNodegroup",
            "Resource": f"arn:aws:eks:{place.region}:{place.account}:nodegroup/{cluster}/*/*",
        },
        {
            "Sid": "ScaleThisCluster",
            "Effect": "Allow",
            "Action": [
                "autoscaling:SetDesiredCapacity",
                "autoscaling:TerminateInstanceInAutoScalingGroup",
            ],
            "Resource": (
                f"arn:aws:autoscaling:{place.region}:{place.account}:autoScalingGroup:*"
                ":autoScalingGroupName/eks-*"
            ),
            "Condition": {
                "StringEquals": {
                    f"aws:ResourceTag/k8s.io/cluster-autoscaler/{cluster}": "owned",
                }
            },
        },
    ]
