"""The namespace of everything that is Saldo's, and who in it may talk to whom.

Nothing may, in or out, until a policy here says so. Peers outside the cluster have no labels, so
they are named by network: the data subnets, and what is reached by HTTPS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s

from infra_pulumi.parts import FUNCTIONS, NAMESPACE, OPERATE, PORT, RECORD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra_pulumi.config import Stack


POSTGRES_PORT = 5432
# MSK's listeners, and Strimzi's one for clients.
MSK_IAM_PORT, MSK_SCRAM_PORT = 9098, 9096
STRIMZI_CLIENT_PORT = 9093
# queue-proxy before each function: requests (plain, HTTP/2, TLS), its metrics and the function's.
QUEUE_PROXY_METRICS_PORT = 9091
QUEUE_PROXY_PORTS = (8012, 8013, 8112, 9090, QUEUE_PROXY_METRICS_PORT)
# The agent of EKS Pod Identity, on the node itself.
POD_IDENTITY = "169.254.170.23/32"
LINK_LOCAL = "169.254.0.0/16"

# Who a pod is, to the policies below.
PART = "saldo/part"
SERVING, EVENTING = "knative-serving", "knative-eventing"
DATABASE_PART, MIGRATE_PART, KAFKA_ACLS_PART = "database", "migrate", "kafka-acls"
STRIMZI_PODS = {"strimzi.io/cluster": "saldo"}

# What Pod Security's level "restricted" asks of every pod, and a read-only root on top.
RESTRICTED_POD: dict[str, Any] = {
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED_CONTAINER: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}

Peer = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """Peers and the TCP ports they are reached on; no ports is all of them."""

    peers: tuple[Peer, ...]
    ports: tuple[int, ...]

    def rule(self, side: str) -> dict[str, Any]:
        """Return the rule of a policy; ``side`` is "to" or "from"."""
        rule: dict[str, Any] = {side: list(self.peers)}
        if self.ports:
            rule["ports"] = [{"protocol": "TCP", "port": port} for port in self.ports]
        return rule


def part(name: str) -> Peer:
    """Return the pods of one part of Saldo."""
    return {"podSelector": {"matchLabels": {PART: name}}}


def namespace(name: str) -> Peer:
    """All pods of a namespace."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def networks(cidrs: Sequence[str]) -> tuple[Peer, ...]:
    """Addresses outside the cluster."""
    return tuple({"ipBlock": {"cidr": cidr}} for cidr in cidrs)


def policies(stack: Stack, data_cidrs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the spec of every NetworkPolicy, by its name. ``data_cidrs`` is empty outside AWS."""
    in_aws = stack.aws is not None
    database = _database(stack, data_cidrs)
    outside = Way(peers=(_outside(stack),), ports=_outside_ports(stack))
    # What every function needs: the database, and the keys of those whose tokens it checks.
    identity = Way(peers=networks([POD_IDENTITY]), ports=(80,))
    common = [*database, outside, *([identity] if in_aws else []), *_telemetry(stack)]
    made = {
        "default-deny": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        "dns": _egress({}, [], dns=True),
    }
    kafka = _kafka(stack, data_cidrs)
    # Knative's activator, and its gateway.
    callers = tuple(map(namespace, sorted({SERVING, stack.edge.gateway_namespace})))
    incoming = [Way(peers=callers, ports=QUEUE_PROXY_PORTS), *_scraping(stack)]
    for function in FUNCTIONS:
        ways = [*common, *kafka] if function is RECORD else common
        made[function.service] = _egress({PART: function.service}, ways) | {
            # From Knative's gateway and activator; the function itself checks who is behind. And
            # from Prometheus, past queue-proxy: what comes through it finds no /metrics.
            "ingress": [way.rule("from") for way in incoming],
            "policyTypes": ["Ingress", "Egress"],
        }
    made[MIGRATE_PART] = _egress({PART: MIGRATE_PART}, database)
    # The functions, by way of Knative's gateway: its ports are its own.
    gateway = Way(peers=(namespace(stack.edge.gateway_namespace),), ports=())
    made[OPERATE] = _egress({PART: OPERATE}, [*database, gateway])
    if stack.kafka.kind == "msk":
        made[KAFKA_ACLS_PART] = _egress({PART: KAFKA_ACLS_PART}, [*kafka, identity])
    elif stack.kafka.kind == "strimzi":
        # Strimzi makes the policies for what comes in; this is what its pods themselves call.
        api = Way(peers=({"ipBlock": {"cidr": "0.0.0.0/0"}},), ports=(443, 6443))
        pods = {"podSelector": {"matchLabels": STRIMZI_PODS}}
        made["kafka"] = _egress(STRIMZI_PODS, [Way(peers=(pods,), ports=()), api])
    if stack.database.kind == "pod":
        clients = (*(part(f.service) for f in FUNCTIONS), part(MIGRATE_PART), part(OPERATE))
        made[DATABASE_PART] = {
            "podSelector": {"matchLabels": {PART: DATABASE_PART}},
            "policyTypes": ["Ingress"],
            "ingress": [Way(peers=clients, ports=(POSTGRES_PORT,)).rule("from")],
        }
    return made


def _egress(labels: dict[str, str], ways: Sequence[Way], *, dns: bool = False) -> dict[str, Any]:
    rules = [way.rule("to") for way in ways]
    if dns:
        cluster_dns = namespace("kube-system") | {
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}
        }
        ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
        rules.append({"to": [cluster_dns], "ports": ports})
    selector = {"matchLabels": labels} if labels else {}
    return {"podSelector": selector, "policyTypes": ["Egress"], "egress": rules}


def _outside(stack: Stack) -> Peer:
    """Return the internet, but not the node's own services, and in AWS not the network either."""
    inside = [LINK_LOCAL] if stack.aws is None else [LINK_LOCAL, stack.aws.cidr]
    return {"ipBlock": {"cidr": "0.0.0.0/0", "except": inside}}


def _outside_ports(stack: Stack) -> tuple[int, ...]:
    # Outside AWS the sources' keys are the API server's, which mostly listens on 6443.
    return (443,) if stack.aws is not None else (443, 6443)


def _telemetry(stack: Stack) -> list[Way]:
    """Return the way to a collector in the cluster, whose namespace its host name tells."""
    if stack.telemetry is None or stack.telemetry.endpoint is None:
        return []
    url = urlsplit(stack.telemetry.endpoint)
    service, _, rest = (url.hostname or "").partition(".")
    space, _, tail = rest.partition(".")
    if not (service and tail.startswith("svc")):
        return []
    return [Way(peers=(namespace(space),), ports=(url.port or 80,))]


def _scraping(stack: Stack) -> list[Way]:
    """Return the way of Prometheus to the metrics of a function and of its queue-proxy."""
    if stack.telemetry is None or stack.telemetry.metrics_from is None:
        return []
    ports = (PORT, QUEUE_PROXY_METRICS_PORT)
    return [Way(peers=(namespace(stack.telemetry.metrics_from),), ports=ports)]


def _database(stack: Stack, data_cidrs: Sequence[str]) -> list[Way]:
    if stack.database.kind == "existing":
        return stack.database.ways
    inside = (part(DATABASE_PART),) if stack.database.kind == "pod" else networks(data_cidrs)
    return [Way(peers=inside, ports=(POSTGRES_PORT,))]


def _kafka(stack: Stack, data_cidrs: Sequence[str]) -> list[Way]:
    if stack.kafka.kind == "existing":
        return stack.kafka.ways
    if stack.kafka.kind == "msk":
        return [Way(peers=networks(data_cidrs), ports=(MSK_IAM_PORT,))]
    pods = {"podSelector": {"matchLabels": STRIMZI_PODS}}
    return [Way(peers=(pods,), ports=(STRIMZI_CLIENT_PORT,))]


class Isolation(pulumi.ComponentResource):
    """The namespace with its policies. Whatever runs in it depends on ``namespace``."""

    namespace: k8s.core.v1.Namespace

    def __init__(
        self,
        name: str,
        stack: Stack,
        provider: k8s.Provider,
        data_cidrs: Sequence[str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Isolation", name, None, opts)
        self.namespace = k8s.core.v1.Namespace(
            "namespace",
            metadata={
                "name": NAMESPACE,
                "labels": {
                    f"pod-security.kubernetes.io/{mode}": "restricted"
                    for mode in ("enforce", "audit", "warn")
                },
            },
            opts=pulumi.ResourceOptions(parent=self, provider=provider),
        )
        inside = pulumi.ResourceOptions(parent=self, provider=provider, depends_on=[self.namespace])
        spec: Any
        for policy, spec in policies(stack, data_cidrs).items():
            k8s.networking.v1.NetworkPolicy(
                policy,
                metadata={"name": policy, "namespace": NAMESPACE},
                spec=spec,
                opts=inside,
            )
        self.register_outputs({})
