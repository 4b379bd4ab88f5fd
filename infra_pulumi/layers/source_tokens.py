"""Whose tokens the KafkaSource and the PingSources show: those of the cluster's own issuer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_kubernetes as k8s

from infra_pulumi.section import HttpsUrl, Problem, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.layers.eks.cluster import Cluster

KUBERNETES = "https://kubernetes.default.svc.cluster.local"
# Kubernetes keeps this ConfigMap, with its own authority, in every namespace.
KUBERNETES_ROOTS = "kube-root-ca.crt"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcesIdentity:
    """Who issues the sources' tokens, and where the keys of them are."""

    issuer: pulumi.Input[str]
    jwks_url: pulumi.Input[str]
    # The ConfigMap with the authority of the keys' server; None where it is publicly known.
    authority: str | None
    ready: list[pulumi.Resource]


class SourcesConfig(Section):
    """Who issues the tokens of the cluster's service accounts, where it is not Kubernetes' own."""

    issuer: HttpsUrl
    # Where anybody may read its keys.
    jwks_url: HttpsUrl

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        if stack.get("shape") == "aws":
            yield "", "means nothing in the shape aws, whose cluster's issuer is known"


def named_identity(config: SourcesConfig) -> SourcesIdentity:
    """Return the identity that the stack file names."""
    return SourcesIdentity(issuer=config.issuer, jwks_url=config.jwks_url, authority=None, ready=[])


def eks_identity(cluster: Cluster) -> SourcesIdentity:
    """EKS publishes its cluster's keys to the internet."""
    return SourcesIdentity(
        issuer=cluster.issuer,
        jwks_url=pulumi.Output.concat(cluster.issuer, "/keys"),
        authority=None,
        ready=[],
    )


def kubernetes_identity(name: str, provider: k8s.Provider) -> SourcesIdentity:
    """Any other cluster keeps them at its API, for those who log in to it, which no function does.

    They are public keys: whoever reaches the API may read them from here on.
    """
    binding = k8s.rbac.v1.ClusterRoleBinding(
        name,
        metadata={"name": "saldo-reads-token-keys"},
        role_ref={
            "api_group": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:service-account-issuer-discovery",
        },
        subjects=[
            {
                "api_group": "rbac.authorization.k8s.io",
                "kind": "Group",
                "name": "system:unauthenticated",
            }
        ],
        opts=pulumi.ResourceOptions(provider=provider),
    )
    return SourcesIdentity(
        issuer=KUBERNETES,
        jwks_url=f"{KUBERNETES}/openid/v1/jwks",
        authority=KUBERNETES_ROOTS,
        ready=[binding],
    )
