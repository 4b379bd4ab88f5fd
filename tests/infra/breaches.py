"""One way, or more, of breaking each policy: what a policy does not notice, it does not guard."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra_pulumi.parts import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable

Inputs = dict[str, Any]


def _any(_inputs: Inputs) -> bool:
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Breach:
    """A change of a good resource, and the words by which its policy must complain."""

    policy: str
    says: str
    do: Callable[[Inputs], object]
    # Which of the resources that the policy judges; the first will do unless said.
    of: Callable[[Inputs], bool] = _any


def _put(path: str, value: object) -> Callable[[Inputs], object]:
    """Set the value under ``path``, whose parts are keys, or numbers of a list."""

    def do(inputs: Inputs) -> None:
        *tables, last = path.split("/")
        table: Any = inputs
        last = last.replace("~1", "/")
        for key in tables:
            table = table[int(key)] if isinstance(table, list) else table.setdefault(key, {})
        if value is ...:
            del table[last]
        else:
            table[last] = value

    return do


def _named(name: str) -> Callable[[Inputs], bool]:
    return lambda inputs: bool(inputs["metadata"]["name"] == name)


def _has_template(workload: Inputs) -> bool:
    """Return whether its pods are where CONTAINER says; those of a CronJob lie deeper."""
    return "template" in workload["spec"]


def _statement(key: str, **changes: object) -> Callable[[Inputs], object]:
    """Change the first statement of the policy document under ``key``."""

    def do(inputs: Inputs) -> None:
        document = json.loads(inputs[key])
        document["Statement"][0] |= changes
        document["Statement"][0].pop("Condition", None)
        inputs[key] = json.dumps(document)

    return do


def _environment(name: str, value: str) -> Callable[[Inputs], object]:
    def do(inputs: Inputs) -> None:
        container = inputs["spec"]["template"]["spec"]["containers"][0]
        container["env"] = [
            *(entry for entry in container["env"] if entry["name"] != name),
            {"name": name, "value": value},
        ]

    return do


CONTAINER = "spec/template/spec/containers/0"
ANNOTATIONS = "spec/template/metadata/annotations"
_projector = _named(PROJECT.service)

BREACHES = [
    Breach(
        policy="subnets-hand-out-no-public-addresses",
        says="mapPublicIpOnLaunch",
        do=_put("mapPublicIpOnLaunch", True),
    ),
    Breach(
        policy="security-groups-have-no-rules-inside",
        says="resources of their own",
        do=_put("egress", [{"protocol": "-1"}]),
    ),
    Breach(
        policy="rules-let-in-groups-or-https",
        says="open to 0.0.0.0/0",
        do=_put("fromPort", 22),
        of=lambda rule: "cidrIpv4" in rule,
    ),
    Breach(
        policy="rules-let-out-to-groups-https-or-one-port-of-a-network",
        says="may call 0.0.0.0/0 on ports 22-443",
        do=_put("fromPort", 22),
        of=lambda rule: "cidrIpv4" in rule,
    ),
    Breach(
        policy="rules-let-out-to-groups-https-or-one-port-of-a-network",
        says="may call 10.0.0.0/8 on ports 1-443",
        do=lambda rule: rule.update(fromPort=1, cidrIpv4="10.0.0.0/8"),
        of=lambda rule: "cidrIpv4" in rule,
    ),
    Breach(policy="listeners-take-https-only", says="port 443", do=_put("port", 80)),
    Breach(
        policy="keys-rotate-and-die-slowly",
        says="enableKeyRotation",
        do=_put("enableKeyRotation", False),
    ),
    Breach(
        policy="keys-rotate-and-die-slowly",
        says="everybody",
        do=_statement("policy", Principal="*"),
    ),
    Breach(
        policy="roles-may-not-do-everything",
        says="must be spelt out",
        do=_statement("policy", Action="kms:*"),
    ),
    Breach(
        policy="roles-may-not-do-everything",
        says="must name what it may touch",
        do=_statement("policy", Action="kms:Decrypt", Resource="*"),
    ),
    Breach(
        policy="roles-trust-one-service",
        says="trust one service",
        do=_statement("assumeRolePolicy", Principal={"AWS": "*"}),
    ),
    Breach(
        policy="roles-trust-one-service",
        says="namespace and service account",
        do=_statement("assumeRolePolicy"),
        of=lambda role: "pods.eks" in role["assumeRolePolicy"],
    ),
    Breach(policy="secrets-have-a-key-of-their-own", says="kmsKeyId", do=_put("kmsKeyId", ...)),
    Breach(
        policy="logs-are-encrypted-and-kept",
        says="retentionInDays",
        do=_put("retentionInDays", 7),
    ),
    Breach(policy="logs-are-encrypted-and-kept", says="kmsKeyId", do=_put("kmsKeyId", ...)),
    Breach(
        policy="clusters-are-closed-and-logged",
        says="publicAccessCidrs must be narrow",
        do=_put("publicAccessCidrs", ["0.0.0.0/0"]),
    ),
    Breach(
        policy="clusters-are-closed-and-logged",
        says="logs are missing: ['audit']",
        do=lambda inputs: inputs["enabledClusterLogTypes"].remove("audit"),
    ),
    Breach(
        policy="clusters-are-closed-and-logged",
        says="NetworkPolicies would do nothing",
        do=_put("vpcCniOptions/enableNetworkPolicy", False),
    ),
    Breach(
        policy="clusters-are-closed-and-logged",
        says="authenticationMode",
        do=_put("authenticationMode", "API_AND_CONFIG_MAP"),
    ),
    Breach(
        policy="made-clusters-are-closed-and-logged",
        says="publicAccessCidrs must be narrow",
        do=_put("vpcConfig/publicAccessCidrs", []),
    ),
    Breach(
        policy="nodes-keep-their-credentials",
        says="ask for tokens",
        do=_put("metadataOptions/httpTokens", "optional"),
    ),
    Breach(
        policy="nodes-keep-their-credentials",
        says="every disk",
        do=_put("blockDeviceMappings/0/ebs/encrypted", "false"),
    ),
    Breach(
        policy="versions-are-exact",
        says="is not a version",
        do=_put("version", "latest"),
        of=lambda thing: "chart" in thing,
    ),
    Breach(
        policy="repositories-are-scanned-and-do-not-move",
        says="IMMUTABLE",
        do=_put("imageTagMutability", "MUTABLE"),
    ),
    Breach(
        policy="databases-are-private-and-kept",
        says="publiclyAccessible",
        do=_put("publiclyAccessible", True),
    ),
    Breach(
        policy="databases-are-private-and-kept",
        says="password must not be",
        do=_put("password", "x"),
    ),
    Breach(
        policy="databases-force-tls",
        says="rds.force_ssl",
        do=lambda inputs: [
            parameter.update(value="0")
            for parameter in inputs["parameters"]
            if parameter["name"] == "rds.force_ssl"
        ],
    ),
    Breach(
        policy="msk-knows-its-clients",
        says="clientBroker must be 'TLS'",
        do=_put("encryptionInfo/encryptionInTransit/clientBroker", "TLS_PLAINTEXT"),
    ),
    Breach(
        policy="msk-knows-its-clients",
        says="unauthenticated must be False",
        do=_put("clientAuthentication/unauthenticated", True),
    ),
    Breach(
        policy="msk-settings-are-said",
        says="min.insync.replicas=2 is missing",
        do=_put("serverProperties", "auto.create.topics.enable=true"),
    ),
    Breach(
        policy="strimzi-knows-its-clients",
        says="must have TLS and authentication",
        do=_put("spec/kafka/listeners/0/tls", False),
    ),
    Breach(
        policy="strimzi-knows-its-clients",
        says="auto.create.topics.enable",
        do=_put("spec/kafka/config/auto.create.topics.enable", True),
    ),
    Breach(
        policy="topics-are-finite",
        says="retention.ms",
        do=_put("spec/config/retention.ms", "-1"),
        of=lambda topic: "spec" in topic,
    ),
    Breach(
        policy="topics-are-finite",
        says="12 partitions",
        do=_put("partitionCount", 1),
        of=lambda topic: "partitionCount" in topic,
    ),
    Breach(
        policy="kafka-users-do-one-thing",
        says="must not ['All']",
        do=_put("spec/authorization/acls/0/operations", ["All"]),
    ),
    Breach(
        policy="kafka-users-do-one-thing",
        says="must not ['Delete']",
        do=_put("spec/authorization/acls/0/operations", ["Delete"]),
    ),
    Breach(
        policy="pods-are-restricted",
        says="readOnlyRootFilesystem",
        do=_put(f"{CONTAINER}/securityContext/readOnlyRootFilesystem", False),
        of=_has_template,
    ),
    Breach(
        policy="pods-are-restricted",
        says="limit on memory",
        do=_put(f"{CONTAINER}/resources/limits", {}),
        of=_has_template,
    ),
    Breach(
        policy="images-are-pinned",
        says="is not pinned",
        do=_put(f"{CONTAINER}/image", "registry.example.com/saldo:latest"),
        of=lambda workload: _has_template(workload) and workload["kind"] != "StatefulSet",
    ),
    Breach(
        policy="images-are-pinned",
        says="is not pinned",
        do=_put(f"{CONTAINER}/image", "docker.io/library/postgres:18.6-bookworm"),
        of=lambda workload: workload["kind"] == "StatefulSet",
    ),
    Breach(
        policy="environments-hold-no-secret",
        says="HASH_SECRET must come from a Secret",
        do=_environment("HASH_SECRET", "00" * 32),
        of=_projector,
    ),
    Breach(
        policy="environments-hold-no-secret",
        says="must not hold a password",
        do=_environment("READ_MODEL_URL", "postgresql://a:b@c/d"),
        of=_projector,
    ),
    Breach(
        policy="templates-hold-no-secret",
        says="password must be a template",
        do=_put("spec/target/template/data/password", "hunter2"),
    ),
    Breach(
        policy="functions-are-bounded-and-drained",
        says="max-scale",
        do=_put(f"{ANNOTATIONS}/autoscaling.knative.dev~1max-scale", ...),
    ),
    Breach(
        policy="functions-are-bounded-and-drained",
        says="timeoutSeconds",
        do=_put("spec/template/spec/timeoutSeconds", 45),
    ),
    Breach(
        policy="functions-are-bounded-and-drained",
        says="as often as Knative does",
        do=_put(f"{CONTAINER}/readinessProbe/periodSeconds", 10),
    ),
    Breach(
        policy="the-projector-is-private",
        says="cluster-local",
        do=_put("metadata/labels", {}),
        of=_projector,
    ),
    Breach(
        policy="the-projector-is-private",
        says="who they are",
        do=_environment("AUTH", "none"),
        of=_projector,
    ),
    Breach(
        policy="the-source-loses-nothing",
        says="delivery.retry is missing",
        do=_put("spec/delivery/retry", ...),
    ),
    Breach(
        policy="the-source-loses-nothing",
        says="initialOffset must be 'earliest'",
        do=_put("spec/initialOffset", "latest"),
    ),
    Breach(
        policy="the-source-loses-nothing",
        says="every sink",
        do=_put("spec/delivery/deadLetterSink/audience", ...),
    ),
    Breach(
        policy="the-source-loses-nothing",
        says="event is young",
        do=_put("spec/delivery/retry", 5),
    ),
    Breach(
        policy="the-source-loses-nothing",
        says="over TLS",
        do=_put("spec/net/tls/enable", False),
    ),
    Breach(
        policy="the-sweeps-come-in-time",
        says="schedule",
        do=_put("spec/schedule", "*/10 * * * *"),
        of=_named("sweep-lagging"),
    ),
    Breach(
        policy="the-sweeps-come-in-time",
        says="under its audience",
        do=_put("spec/sink/audience", "x"),
    ),
    Breach(
        policy="services-stay-inside",
        says="ClusterIP",
        do=_put("spec/type", "LoadBalancer"),
    ),
    Breach(policy="names-have-certificates", says="tls.secretName", do=_put("spec/tls", {})),
    Breach(
        policy="the-namespace-enforces-restricted",
        says="level restricted",
        do=_put("metadata/labels", {}),
        of=_named("saldo"),
    ),
    Breach(
        policy="network-policies-name-peers",
        says="every ingress rule",
        do=_put("spec/ingress", [{"ports": [{"port": 80}]}]),
    ),
    Breach(
        policy="knative-is-pinned-and-identified",
        says="version must be exact",
        do=_put("spec/version", "latest"),
    ),
    Breach(
        policy="knative-is-pinned-and-identified",
        says="authentication-oidc",
        do=_put("spec/config/features", {}),
        of=lambda inputs: inputs["kind"] == "KnativeEventing",
    ),
    Breach(
        policy="no-secret-is-written-here",
        says="External Secrets operator",
        do=lambda _inputs: None,
    ),
]
