"""Who the pods of a function or a Job are, to Kubernetes and to AWS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi_kubernetes as k8s

from infra_pulumi.iam_roles import pod_role
from infra_pulumi.parts import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pulumi

    from infra_pulumi.layers.functions.dependencies import Dependencies


def pod_identity(
    deps: Dependencies, parent: pulumi.Resource, name: str, statements: Sequence[dict[str, Any]]
) -> list[pulumi.Resource]:
    """Allow a service account ``statements`` in AWS; return what its pods must wait for."""
    cluster = deps.cluster
    if cluster is None or not statements:
        return []
    return pod_role(
        name,
        cluster=cluster.name,
        namespace=NAMESPACE,
        service_account=name,
        statements=statements,
        parent=parent,
    ).ready


def service_account(deps: Dependencies, parent: pulumi.Resource, name: str) -> pulumi.Resource:
    """Make the service account of a part of Saldo."""
    return k8s.core.v1.ServiceAccount(
        name,
        metadata={"name": name, "namespace": NAMESPACE},
        # No function calls Kubernetes; Pod Identity brings a token of its own.
        automount_service_account_token=False,
        opts=deps.inside(parent),
    )
