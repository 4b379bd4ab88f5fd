"""Knative: Serving behind Kourier, Eventing with the KafkaSource, both by the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pulumi
import pulumi_kubernetes as k8s

from infra_pulumi import versions
from infra_pulumi.custom_resources import custom_resource
from infra_pulumi.layers.certificates import API as CERTIFICATES_API
from infra_pulumi.layers.certificates import own_authority
from infra_pulumi.layers.isolation import EVENTING, SERVING
from infra_pulumi.layers.operators import CERT_MANAGER
from infra_pulumi.layers.processors import QUEUE_PROXY_M
from infra_pulumi.section import REPLICAS_MAX, Section, between

if TYPE_CHECKING:
    from infra_pulumi.layers.operators import Operators

# Of the functions, as Services of Knative.
SERVING_API = "serving.knative.dev/v1"
API = "operator.knative.dev/v1beta1"
# The operator's sources; its definition asks for a word on each.
SOURCES = ("ceph", "github", "gitlab", "kafka", "rabbitmq", "redis")
# What Knative is told to refuse, and a stack file must not ask for.
TIMEOUT_S_MAX, PODS_LIMIT, CONCURRENCY_LIMIT = 120, 50, 1000
KOURIER = "kourier.ingress.networking.knative.dev"
# The authority behind the certificates of Knative's pods.
INTERNAL = "knative-internal"
# The container whose image Knative names by a tag that moves.
GATEWAY = "3scale-kourier-gateway/kourier-gateway"


# What Knative makes with minAvailable 80%, which of one or two pods is all: no node would drain.
SERVING_BUDGETS = ("activator-pdb", "webhook-pdb", "3scale-kourier-gateway-pdb")
EVENTING_BUDGETS = ("eventing-webhook",)
# Brokers, channels and sinks, which nothing of Saldo uses: those that the operator may stop, and
# those that Kubernetes scales, which always have one pod.
STOPPED = ("imc-controller", "imc-dispatcher", "job-sink", "mt-broker-controller", "request-reply")
IDLE = {"mt-broker-ingress": "ingress", "mt-broker-filter": "filter"}
IDLE_CPU, IDLE_MEMORY = "5m", "50Mi"


class KnativeConfig(Section):
    """Knative's own control plane."""

    replicas: Annotated[int, between(1, REPLICAS_MAX)]
    # TLS from the gateway to the functions' pods, which is alpha in Knative.
    internal_tls: bool


class Knative(pulumi.ComponentResource):
    """Knative for one stack; whatever is of its kinds depends on ``ready``."""

    ready: list[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: KnativeConfig,
        consumers: int,
        provider: k8s.Provider,
        operators: Operators,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Knative", name, None, opts)
        self._config, self._consumers, self._provider = config, consumers, provider
        self._needs = [*operators.knative, *operators.cert_manager]
        self.ready = [self._serving(), self._eventing()]
        self.register_outputs({})

    def _inside(self, *after: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self, provider=self._provider, depends_on=[*self._needs, *after]
        )

    def _namespace(self, name: str) -> pulumi.Resource:
        return k8s.core.v1.Namespace(name, metadata={"name": name}, opts=self._inside())

    def _serving(self) -> pulumi.Resource:
        issuer = self._issuer()
        return custom_resource(
            SERVING,
            API,
            "KnativeServing",
            {
                "version": versions.KNATIVE_SERVING,
                "high-availability": {"replicas": self._config.replicas},
                "podDisruptionBudgets": _budgets(SERVING_BUDGETS),
                "registry": {"override": {GATEWAY: versions.ENVOY_IMAGE}},
                # Reached by the stack's own load balancer, or by a port-forward: no Service of
                # Kubernetes may order one from the cloud.
                "ingress": {"kourier": {"enabled": True, "service-type": "ClusterIP"}},
                "config": {
                    "network": {
                        "ingress-class": KOURIER,
                        # The certificates of the DomainMappings are made by cert-manager, named.
                        "external-domain-tls": "Disabled",
                        "autocreate-cluster-domain-claims": "true",
                        "system-internal-tls": "Enabled" if issuer else "Disabled",
                    },
                    **_issued_by(issuer),
                    # A Service is known outside by its DomainMapping only.
                    "domain": {"svc.cluster.local": ""},
                    "autoscaler": {
                        "enable-scale-to-zero": "true",
                        "stable-window": "60s",
                        "scale-to-zero-grace-period": "30s",
                        # A Service that forgets its own bound does not get the database's.
                        "max-scale": "10",
                        "max-scale-limit": str(PODS_LIMIT),
                    },
                    "defaults": {
                        "revision-timeout-seconds": "60",
                        "max-revision-timeout-seconds": str(TIMEOUT_S_MAX),
                        "container-concurrency": "200",
                        "container-concurrency-max-limit": str(CONCURRENCY_LIMIT),
                        "enable-service-links": "false",
                    },
                    "features": {
                        "secure-pod-defaults": "enabled",
                        "kubernetes.podspec-topologyspreadconstraints": "enabled",
                    },
                    "gc": {"min-non-active-revisions": "5", "max-non-active-revisions": "20"},
                    # What stands before each function, counted when its pod looks for a node.
                    "deployment": {
                        "queue-sidecar-cpu-request": f"{QUEUE_PROXY_M}m",
                        "queue-sidecar-memory-request": "50Mi",
                        "queue-sidecar-memory-limit": "200Mi",
                    },
                },
            },
            namespace=SERVING,
            opts=self._inside(self._namespace(SERVING), *issuer),
        )

    def _issuer(self) -> list[pulumi.Resource]:
        """Make the authority that certifies Knative's own pods; empty if nothing is to be."""
        if not self._config.internal_tls:
            return []
        first = custom_resource(
            f"{INTERNAL}-self-signed",
            CERTIFICATES_API,
            "ClusterIssuer",
            {"selfSigned": {}},
            namespace=None,
            opts=self._inside(),
        )
        authority = custom_resource(
            f"{INTERNAL}-authority",
            CERTIFICATES_API,
            "Certificate",
            own_authority(INTERNAL, f"{INTERNAL}-self-signed", "ClusterIssuer"),
            # Where cert-manager looks for the Secrets of ClusterIssuers.
            namespace=CERT_MANAGER,
            object_name=INTERNAL,
            opts=self._inside(first),
        )
        return [
            custom_resource(
                INTERNAL,
                CERTIFICATES_API,
                "ClusterIssuer",
                {"ca": {"secretName": INTERNAL}},
                namespace=None,
                opts=self._inside(authority),
            )
        ]

    def _eventing(self) -> pulumi.Resource:
        config = {
            # Sources show the functions whose they are. Alpha: without it the projector refuses
            # every delivery, so an upgrade that drops it is noticed.
            "features": {"authentication-oidc": "enabled"},
        }
        # The source's replicas would share one pod, and one pod is one consumer of Kafka.
        pods = {"name": "DISPATCHERS_MIN_REPLICAS", "value": str(self._consumers)}
        dispatchers = {
            "name": "kafka-controller",
            "env": [{"container": "controller", "envVars": [pods]}],
        }
        return custom_resource(
            EVENTING,
            API,
            "KnativeEventing",
            {
                "version": versions.KNATIVE_EVENTING,
                "high-availability": {"replicas": self._config.replicas},
                "podDisruptionBudgets": _budgets(EVENTING_BUDGETS),
                "workloads": [dispatchers, *_unused()],
                "source": {source: {"enabled": source == "kafka"} for source in SOURCES},
                "config": config,
            },
            namespace=EVENTING,
            opts=self._inside(self._namespace(EVENTING)),
        )


def _issued_by(issuer: list[pulumi.Resource]) -> dict[str, Any]:
    reference = f"kind: ClusterIssuer\nname: {INTERNAL}\n"
    return {"certmanager": {"systemInternalIssuerRef": reference}} if issuer else {}


def _budgets(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"name": name, "maxUnavailable": 1} for name in names]


def _unused() -> list[dict[str, Any]]:
    idle = {"cpu": IDLE_CPU, "memory": IDLE_MEMORY}
    return [{"name": name, "replicas": 0} for name in STOPPED] + [
        {"name": name, "resources": [{"container": container, "requests": idle}]}
        for name, container in IDLE.items()
    ]
