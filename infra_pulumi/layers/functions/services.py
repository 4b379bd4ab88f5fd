"""The functions as Services of Knative, and the names under which callers reach them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi_kubernetes as k8s

from infra_pulumi.custom_resources import custom_resource
from infra_pulumi.layers.database.access import AUTHORITY_DIR
from infra_pulumi.layers.functions.containers import UID, mount
from infra_pulumi.layers.functions.environment import (
    KAFKA_AUTHORITY_DIR,
    SOURCES_AUTHORITY_DIR,
    environment,
    host,
    takes_sources,
)
from infra_pulumi.layers.functions.identities import pod_identity, service_account
from infra_pulumi.layers.isolation import PART, RESTRICTED_CONTAINER
from infra_pulumi.layers.knative import SERVING_API
from infra_pulumi.parts import NAMESPACE, PORT, RECORD, Function

if TYPE_CHECKING:
    import pulumi

    from infra_pulumi.layers.functions.dependencies import Dependencies
    from infra_pulumi.layers.observability import TelemetryConfig

# By which the runbook finds the functions, and their pods.
PART_OF_SALDO = {"app.kubernetes.io/part-of": "saldo"}


def make_service(
    deps: Dependencies,
    parent: pulumi.Resource,
    function: Function,
    image: str,
    jobs: list[pulumi.Resource],
) -> pulumi.Resource:
    """Make one function, of ``image``, after ``jobs``."""
    account = service_account(deps, parent, function.service)
    statements = [
        *deps.database.statements.get(function.role, []),
        *(deps.kafka.recorder_statements if function is RECORD else []),
    ]
    identity = pod_identity(deps, parent, function.service, statements)
    labels = dict(PART_OF_SALDO)
    if function.host is None:
        labels["networking.knative.dev/visibility"] = "cluster-local"
    return custom_resource(
        function.service,
        SERVING_API,
        "Service",
        {
            "template": _template(deps, function, image),
            "traffic": [{"latestRevision": True, "percent": 100}],
        },
        labels=labels,
        opts=deps.inside(
            parent,
            account,
            *identity,
            *jobs,
            *deps.database.ready,
            *deps.kafka.ready,
            *deps.sources.ready,
            deps.hash_secret,
        ),
    )


def _template(deps: Dependencies, function: Function, image: str) -> dict[str, Any]:
    scaling = deps.stack.functions.of(function.name)
    volumes, mounts = _volumes(deps, function)
    return {
        "metadata": {
            "labels": PART_OF_SALDO | {PART: function.service},
            "annotations": {
                "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev",
                "autoscaling.knative.dev/metric": "concurrency",
                "autoscaling.knative.dev/target": str(scaling.concurrency),
                # The target is meant; the rest up to the hard limit is for bursts.
                "autoscaling.knative.dev/target-utilization-percentage": "100",
                "autoscaling.knative.dev/min-scale": str(scaling.pods_min),
                "autoscaling.knative.dev/max-scale": str(scaling.pods_max),
                "autoscaling.knative.dev/window": "60s",
                **_scraped(deps.stack.telemetry),
            },
        },
        "spec": {
            "serviceAccountName": function.service,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containerConcurrency": scaling.concurrency_max,
            # It is the pod's termination grace too.
            "timeoutSeconds": scaling.timeout_s,
            "containers": [_container(deps, function, image, mounts)],
            "volumes": volumes,
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {PART: function.service}},
                }
            ],
        },
    }


def _container(
    deps: Dependencies, function: Function, image: str, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    scaling = deps.stack.functions.of(function.name)
    return {
        "name": "function",
        "image": image,
        "ports": [{"name": "http1", "containerPort": PORT}],
        "env": environment(deps, function),
        # Knative asks every 50 ms until it is ready; a period of its own would slow that down.
        "readinessProbe": {"httpGet": {"path": "/readyz"}},
        "livenessProbe": {
            "httpGet": {"path": "/livez"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "resources": {
            "requests": {"cpu": scaling.cpu, "memory": scaling.memory},
            # No limit on the processor: throttling is felt as latency, memory as a neighbour.
            "limits": {"memory": scaling.memory},
        },
        "securityContext": RESTRICTED_CONTAINER | {"runAsUser": UID, "runAsGroup": UID},
        "volumeMounts": mounts,
    }


def _volumes(
    deps: Dependencies, function: Function
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "database"} | deps.database.authority,
    ]
    mounts = [mount("tmp", "/tmp"), mount("database", AUTHORITY_DIR)]
    if function is RECORD and deps.kafka.authority is not None:
        secret, key = deps.kafka.authority
        items = [{"key": key, "path": key}]
        volumes.append({"name": "kafka", "secret": {"secretName": secret, "items": items}})
        mounts.append(mount("kafka", KAFKA_AUTHORITY_DIR))
    if deps.sources.authority is not None and takes_sources(function):
        volumes.append({"name": "sources", "configMap": {"name": deps.sources.authority}})
        mounts.append(mount("sources", SOURCES_AUTHORITY_DIR))
    return volumes, mounts


def make_disruption_budget(deps: Dependencies, parent: pulumi.Resource, function: Function) -> None:
    """Let one pod of a function go at a time, and a broken one always."""
    spec: Any = {
        "maxUnavailable": 1,
        # A pod that does not come up must not keep its node from being drained.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": {PART: function.service}},
    }
    k8s.policy.v1.PodDisruptionBudget(
        function.service,
        metadata={"name": function.service, "namespace": NAMESPACE},
        spec=spec,
        opts=deps.inside(parent),
    )


def map_domain(
    deps: Dependencies, parent: pulumi.Resource, function: Function, service: pulumi.Resource
) -> None:
    """Give a function the name under which callers reach it, and its certificate."""
    name, certificates = host(deps.stack, function), deps.certificates
    secret = f"{function.service}-tls"
    certificate = certificates.certificate(secret, [name], issuer=certificates.edge)
    custom_resource(
        name,
        "serving.knative.dev/v1beta1",
        "DomainMapping",
        {
            "ref": {"apiVersion": SERVING_API, "kind": "Service", "name": function.service},
            "tls": {"secretName": secret},
        },
        # Whoever still comes without TLS is sent to it.
        annotations={"networking.knative.dev/http-protocol": "Redirected"},
        opts=deps.inside(parent, service, certificate),
    )


def _scraped(telemetry: TelemetryConfig | None) -> dict[str, str]:
    """Return the annotations by which Prometheus' usual configuration finds a pod."""
    if telemetry is None or telemetry.metrics_from is None:
        return {}
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        "prometheus.io/path": "/metrics",
    }
