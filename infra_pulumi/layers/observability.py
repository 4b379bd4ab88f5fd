"""Dashboards and alerts: the files beside this one, handed to whatever Grafana and Prometheus run.

The sidecar of Grafana's chart takes every ConfigMap with the label grafana_dashboard. Prometheus
has no such habit: docs/deploy.md says how it comes by the rules, labelled prometheus_rule.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pulumi
import pulumi_kubernetes as k8s

from infra_pulumi.parts import NAMESPACE
from infra_pulumi.section import Problem, Section, matching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.layers.isolation import Isolation


# The folders of SLOTS are beside the program.
HERE = Path(__file__).parents[1]
SLOTS = (
    ("dashboards", "*.json", "grafana_dashboard"),
    ("alerts", "*.yaml", "prometheus_rule"),
)

URL = r"https?://[^/]+.*"
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
RATIO = r"0(\.\d{1,9})?|1(\.0{1,9})?"


class TelemetryConfig(Section):
    """Where traces and metrics go, and who comes for them."""

    # A collector of OTLP, as a URL that the functions reach.
    endpoint: Annotated[str, matching(URL, "must be an http or https URL, not {}")] | None = None
    # The part of requests that are traced, from 0 to 1, as a text.
    trace_sample_ratio: (
        Annotated[str, matching(RATIO, "must be from 0 to 1, in quotes, not {}")] | None
    ) = None
    # The namespace whose pods may read /metrics: Prometheus'.
    metrics_from: Annotated[str, matching(LABEL, "{} is not the name of a namespace")] | None = None

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        del stack
        if self.endpoint is None and self.metrics_from is None:
            yield "", "must name an endpoint, or who may read by metricsFrom, or both"
        if self.endpoint is None and self.trace_sample_ratio is not None:
            yield "traceSampleRatio", "must be from 0 to 1, in quotes, of an endpoint"


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
