"""Dashboards and alerts: the files beside this one, handed to whatever Grafana and Prometheus run.

The sidecar of Grafana's chart takes every ConfigMap with the label grafana_dashboard. Prometheus
has no such habit: docs/deploy.md says how it comes by the rules, labelled prometheus_rule.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pulumi
import pulumi_kubernetes as k8s

from infra_pulumi.parts import NAMESPACE

if TYPE_CHECKING:
    from infra_pulumi.isolation import Isolation

HERE = Path(__file__).parent
SLOTS = (
    ("dashboards", "*.json", "grafana_dashboard"),
    ("alerts", "*.yaml", "prometheus_rule"),
)


class Observability(pulumi.ComponentResource):
    """The dashboards and alerts of one stack; ``names`` has theirs, of files that are there."""

    names: list[str]

    def __init__(
        self, name: str, provider: k8s.Provider, isolation: Isolation, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__("saldo:layer:Observability", name, None, opts)
        self.names = []
        for folder, pattern, label in SLOTS:
            for file in sorted((HERE / folder).glob(pattern)):
                title = f"{folder}-{file.stem.replace('_', '-')}"
                k8s.core.v1.ConfigMap(
                    title,
                    metadata={"name": title, "namespace": NAMESPACE, "labels": {label: "1"}},
                    data={file.name: file.read_text()},
                    opts=pulumi.ResourceOptions(
                        parent=self, provider=provider, depends_on=[isolation.namespace]
                    ),
                )
                self.names.append(title)
        self.register_outputs({"names": self.names})
