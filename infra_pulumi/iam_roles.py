"""IAM roles: of AWS's services, and of pods by EKS Pod Identity."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_aws as aws

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "2012-10-17"


@dataclass(frozen=True, kw_only=True, slots=True)
class PodRole:
    """A role of pods, and what must be there before the first of them starts.

    EKS hands a pod its identity when the pod is made: one that comes before the association never
    gets any.
    """

    role: aws.iam.Role
    ready: list[pulumi.Resource]


def service_role(
    name: str,
    service: str,
    *,
    parent: pulumi.Resource,
    account: str | None = None,
) -> aws.iam.Role:
    """Make a role that ``service`` assumes.

    ``account`` keeps another account from having the service act here in its name.
    """
    trust: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
    }
    if account is not None:
        trust["Condition"] = {"StringEquals": {"aws:SourceAccount": account}}
    return aws.iam.Role(
        name,
        assume_role_policy=json.dumps({"Version": VERSION, "Statement": [trust]}),
        opts=pulumi.ResourceOptions(parent=parent),
    )


def attach(
    name: str, role: aws.iam.Role, managed: Sequence[str], *, parent: pulumi.Resource
) -> list[pulumi.Resource]:
    """Attach AWS's own policies, by the last part of their ARN.

    Whatever works by them depends on what this returns: else a destroy takes them away before it.
    """
    return [
        aws.iam.RolePolicyAttachment(
            f"{name}-{policy.rsplit('/', 1)[-1]}",
            role=role.name,
            policy_arn=f"arn:aws:iam::aws:policy/{policy}",
            opts=pulumi.ResourceOptions(parent=parent),
        )
        for policy in managed
    ]


def pod_role(
    name: str,
    *,
    cluster: pulumi.Input[str],
    namespace: str,
    service_account: str,
    parent: pulumi.Resource,
    statements: Sequence[dict[str, Any]] = (),
    associate: bool = True,
) -> PodRole:
    """Make a role for one service account of one namespace, and for nobody else.

    The session tags that EKS sets name the pod's namespace and service account: the trust asks for
    them, so that an association made by mistake for another pod gets nothing. ``associate`` is
    False where an add-on of EKS makes the association itself.
    """
    role = aws.iam.Role(
        name,
        assume_role_policy=json.dumps(
            {
                "Version": VERSION,
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": "pods.eks.amazonaws.com"},
                        "Action": ["sts:AssumeRole", "sts:TagSession"],
                        "Condition": {
                            "StringEquals": {
                                "aws:RequestTag/kubernetes-namespace": namespace,
                                "aws:RequestTag/kubernetes-service-account": service_account,
                            }
                        },
                    }
                ],
            }
        ),
        opts=pulumi.ResourceOptions(parent=parent),
    )
    ready: list[pulumi.Resource] = []
    if statements:
        ready.append(allow(name, role, statements, parent=parent))
    if associate:
        ready.append(
            aws.eks.PodIdentityAssociation(
                name,
                cluster_name=cluster,
                namespace=namespace,
                service_account=service_account,
                role_arn=role.arn,
                opts=pulumi.ResourceOptions(parent=parent),
            )
        )
    return PodRole(role=role, ready=ready)


def allow(
    name: str, role: aws.iam.Role, statements: Sequence[dict[str, Any]], *, parent: pulumi.Resource
) -> aws.iam.RolePolicy:
    """Make a policy of ``role``'s own."""
    return aws.iam.RolePolicy(
        name,
        role=role.name,
        policy=pulumi.Output.json_dumps({"Version": VERSION, "Statement": list(statements)}),
        opts=pulumi.ResourceOptions(parent=parent),
    )
