"""Everything that the functions stand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

if TYPE_CHECKING:
    import pulumi_kubernetes as k8s

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.certificates import Certificates
    from infra_pulumi.layers.database.access import DatabaseAccess
    from infra_pulumi.layers.eks.cluster import Cluster
    from infra_pulumi.layers.kafka.access import KafkaAccess
    from infra_pulumi.layers.source_tokens import SourcesIdentity


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependencies:
    """Everything that the functions stand on."""

    stack: Stack
    provider: k8s.Provider
    database: DatabaseAccess
    kafka: KafkaAccess
    certificates: Certificates
    sources: SourcesIdentity
    hash_secret: pulumi.Resource
    ready: list[pulumi.Resource]
    cluster: Cluster | None
    # How their component is made: with the provider of AWS, if there is one, for their roles.
    opts: pulumi.ResourceOptions

    def inside(self, parent: pulumi.Resource, *after: pulumi.Resource) -> pulumi.ResourceOptions:
        """Return how an object of ``parent`` is made: after all this, and after ``after``."""
        return pulumi.ResourceOptions(
            parent=parent,
            provider=self.provider,
            depends_on=[*self.ready, *after],
        )
