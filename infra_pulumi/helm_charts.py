"""Helm charts, pinned, each waited for: what comes next needs its custom resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_kubernetes as k8s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra_pulumi.versions import Chart


INSTALL_TIMEOUT_S = 600


def release(
    name: str,
    chart: Chart,
    namespace: str,
    values: dict[str, Any],
    *,
    parent: pulumi.Resource,
    provider: k8s.Provider,
    depends_on: Sequence[pulumi.Resource] = (),
) -> k8s.helm.v3.Release:
    """``chart`` installed in ``namespace``, which it creates."""
    repository = (
        None if chart.repository is None else k8s.helm.v3.RepositoryOptsArgs(repo=chart.repository)
    )
    return k8s.helm.v3.Release(
        name,
        k8s.helm.v3.ReleaseArgs(
            name=name,
            chart=chart.name,
            version=chart.version,
            repository_opts=repository,
            namespace=namespace,
            create_namespace=True,
            atomic=True,
            timeout=INSTALL_TIMEOUT_S,
            values=values,
        ),
        opts=pulumi.ResourceOptions(parent=parent, provider=provider, depends_on=list(depends_on)),
    )
