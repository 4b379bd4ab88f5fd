"""The manifest of one object of an operator's kind, waited for until it is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi_kubernetes as k8s

from infra_pulumi.parts import NAMESPACE

if TYPE_CHECKING:
    import pulumi

# These kinds never say that they are ready. All others do, and are waited for: Knative's own kinds,
# and the webhooks that judge them, are there only once KnativeServing and KnativeEventing are.
SILENT = frozenset({"KafkaNodePool", "Password", "TargetGroupBinding"})
READY_TIMEOUT_S = 900
UNTIL_READY = {
    "pulumi.com/waitFor": "condition=Ready",
    "pulumi.com/timeoutSeconds": str(READY_TIMEOUT_S),
}


def custom_resource(
    name: str,
    api_version: str,
    kind: str,
    spec: dict[str, Any],
    *,
    opts: pulumi.ResourceOptions,
    namespace: str | None = NAMESPACE,
    object_name: str | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> k8s.apiextensions.CustomResource:
    """Make an object of an operator's kind, waited for. ``spec`` is as in its definition."""
    metadata: dict[str, Any] = {"name": object_name or name}
    if namespace is not None:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = labels
    noted = (annotations or {}) | ({} if kind in SILENT else UNTIL_READY)
    if noted:
        metadata["annotations"] = noted
    return k8s.apiextensions.CustomResource(
        name,
        api_version=api_version,
        kind=kind,
        metadata=metadata,
        spec=spec,
        opts=opts,
    )
