"""What must hold of every resource of every stack, and why: one list.

The tests run it over all that the program asks for, each policy stating how many resources it saw;
the policy pack beside this file runs it inside ``pulumi preview``, where a violation stops the
deployment. A policy judges one resource by its inputs, in the spelling of Pulumi's wire.
"""

# ruff: noqa: D103 - the sentence in the decorator is each policy's docstring

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra_pulumi.parts import (
    CONSUMER_GROUP,
    KAFKA_SOURCE_USER,
    NAMESPACE,
    PROJECT,
    RECORD,
    TOPIC,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Inputs = dict[str, Any]

EVERYWHERE = "0.0.0.0/0"
HTTPS = 443
TIMEOUT_S_ABOVE = 45
# How long the projector waits for an event that its store does not hold yet.
YOUNG_S = 300
LOG_DAYS_MIN = 90
_VERSION = re.compile(r"v?\d+\.\d+\.\d+")
_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
_CREDENTIALS_IN_URL = re.compile(r"://[^/@:]*:[^/@]+@")
_SECRET_NAME = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL")
# The actions of IAM that AWS knows for no narrower resource: they only look.
_LOOKING = re.compile(r"[a-z0-9-]+:(Describe|Get|List)[A-Za-z]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """One rule. ``on`` has types of Pulumi, or kinds of Kubernetes, which it judges."""

    name: str
    why: str
    on: frozenset[str]
    check: Callable[[Inputs], Iterator[str]]
    # The shapes and the kinds of Kafka in which it must have something to judge.
    where: frozenset[str]

    def applies(self, resource_type: str, inputs: Mapping[str, Any]) -> bool:
        """Whether it judges this resource."""
        if resource_type.startswith("kubernetes:") and "kind" in inputs:
            return _kind(resource_type, inputs) in self.on
        return resource_type in self.on


def _kind(resource_type: str, inputs: Mapping[str, Any]) -> str:
    """Kubernetes' kind; a Service of Knative is told apart from that of Kubernetes."""
    kind = str(inputs["kind"])
    return "KnativeService" if kind == "Service" and "serving.knative" in resource_type else kind


POLICIES: list[Policy] = []


def _policy(
    why: str, *on: str, where: tuple[str, ...]
) -> Callable[[Callable[[Inputs], Iterator[str]]], Callable[[Inputs], Iterator[str]]]:
    def register(
        check: Callable[[Inputs], Iterator[str]],
    ) -> Callable[[Inputs], Iterator[str]]:
        POLICIES.append(
            Policy(
                name=check.__name__.replace("_", "-"),
                why=why,
                on=frozenset(on),
                check=check,
                where=frozenset(where),
            )
        )
        return check

    return register


AWS, CLUSTER, MSK, STRIMZI = ("aws",), ("cluster",), ("msk",), ("strimzi",)
BOTH = ("aws", "cluster")


# --- network ------------------------------------------------------------------------------------


@_policy(
    "Only load balancers and NAT gateways are public, and they bring their own addresses.",
    "aws:ec2/subnet:Subnet",
    where=AWS,
)
def subnets_hand_out_no_public_addresses(subnet: Inputs) -> Iterator[str]:
    if subnet.get("mapPublicIpOnLaunch") is not False:
        yield "mapPublicIpOnLaunch must be false"


@_policy(
    "Rules stand on their own: one written inside its group would fight with the others.",
    "aws:ec2/securityGroup:SecurityGroup",
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup",
    where=AWS,
)
def security_groups_have_no_rules_inside(group: Inputs) -> Iterator[str]:
    if group.get("ingress") or group.get("egress"):
        yield "ingress and egress must be resources of their own"


@_policy(
    "Groups let groups in. The internet is let in to HTTPS, and called by HTTPS, and that is all.",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
    where=AWS,
)
def rules_name_groups_or_https(rule: Inputs) -> Iterator[str]:
    if rule.get("referencedSecurityGroupId"):
        return
    if (rule.get("fromPort"), rule.get("toPort")) != (HTTPS, HTTPS):
        yield f"open to {rule.get('cidrIpv4')} on ports {rule.get('fromPort')}-{rule.get('toPort')}"


@_policy(
    "Callers come by TLS, which is ended where their certificate is.",
    "aws:lb/listener:Listener",
    where=AWS,
)
def listeners_take_https_only(listener: Inputs) -> Iterator[str]:
    if listener.get("port") != HTTPS or listener.get("protocol") != "TCP":
        yield "must pass port 443 on, and no other"


# --- identities and keys ------------------------------------------------------------------------


@_policy(
    "A key that turns over limits what a leaked one opens; a lost one takes its data along.",
    "aws:kms/key:Key",
    where=AWS,
)
def keys_rotate_and_die_slowly(key: Inputs) -> Iterator[str]:
    if key.get("enableKeyRotation") is not True:
        yield "enableKeyRotation must be true"
    if key.get("deletionWindowInDays") != 30:  # noqa: PLR2004 - the longest that there is
        yield "deletionWindowInDays must be 30"
    for statement in _statements(key["policy"]):
        if "*" in _list(_principals(statement)):
            yield "its policy must not let everybody use it"


@_policy(
    "A role may do what its name says. What reaches everything may only look.",
    "aws:iam/rolePolicy:RolePolicy",
    where=AWS,
)
def roles_may_not_do_everything(policy: Inputs) -> Iterator[str]:
    for statement in _statements(policy["policy"]):
        for action in _list(statement["Action"]):
            if "*" in action:
                yield f"{action} must be spelt out"
            narrowed = "*" not in _list(statement["Resource"]) or "Condition" in statement
            if not narrowed and not _LOOKING.fullmatch(action):
                yield f"{action} must name what it may touch"


@_policy(
    "Only AWS's services take a role here, and pods only as one service account of one namespace.",
    "aws:iam/role:Role",
    where=AWS,
)
def roles_trust_one_service(role: Inputs) -> Iterator[str]:
    for statement in _statements(role["assumeRolePolicy"]):
        services = _list(statement["Principal"].get("Service", []))
        if len(services) != 1 or set(statement["Principal"]) != {"Service"}:
            yield f"must trust one service, not {statement['Principal']}"
        if services == ["pods.eks.amazonaws.com"]:
            asked = statement.get("Condition", {}).get("StringEquals", {})
            if {
                "aws:RequestTag/kubernetes-namespace",
                "aws:RequestTag/kubernetes-service-account",
            } - set(asked):
                yield "must name the pod's namespace and service account"


@_policy(
    "A secret is encrypted by the stack's own key, not by one that the whole account may use.",
    "aws:secretsmanager/secret:Secret",
    where=AWS,
)
def secrets_have_a_key_of_their_own(secret: Inputs) -> Iterator[str]:
    if not secret.get("kmsKeyId"):
        yield "kmsKeyId is missing"


@_policy(
    "Logs are evidence: encrypted, and there when last quarter is asked about.",
    "aws:cloudwatch/logGroup:LogGroup",
    where=AWS,
)
def logs_are_encrypted_and_kept(group: Inputs) -> Iterator[str]:
    if not group.get("kmsKeyId"):
        yield "kmsKeyId is missing"
    if not group.get("retentionInDays", 0) >= LOG_DAYS_MIN:
        yield f"retentionInDays must be at least {LOG_DAYS_MIN}"


# --- the cluster --------------------------------------------------------------------------------


@_policy(
    "pulumi-eks would open the API to the internet, keep no logs and let everybody be called.",
    "eks:index:Cluster",
    where=AWS,
)
def clusters_are_closed_and_logged(cluster: Inputs) -> Iterator[str]:  # noqa: C901 - one default of pulumi-eks each
    if not cluster:
        # The engine sees the component without its inputs, and the cluster in it: the next policy.
        return
    if cluster.get("authenticationMode") != "API":
        yield "authenticationMode must be API"
    if cluster.get("endpointPrivateAccess") is not True:
        yield "endpointPrivateAccess must be true"
    if cluster.get("endpointPublicAccess") is not False:
        cidrs = cluster.get("publicAccessCidrs") or [EVERYWHERE]
        if any(ipaddress.ip_network(cidr).prefixlen == 0 for cidr in cidrs):
            yield "publicAccessCidrs must be narrow"
    missing = {"api", "audit", "authenticator", "controllerManager", "scheduler"} - set(
        cluster.get("enabledClusterLogTypes", [])
    )
    if missing:
        yield f"logs are missing: {sorted(missing)}"
    for name in ("encryptionConfigKeyArn", "clusterSecurityGroup", "version"):
        if not cluster.get(name):
            yield f"{name} is missing"
    for name in ("skipDefaultNodeGroup", "skipDefaultSecurityGroups"):
        if cluster.get(name) is not True:
            yield f"{name} must be true"
    if not cluster.get("vpcCniOptions", {}).get("enableNetworkPolicy"):
        yield "NetworkPolicies would do nothing"


@_policy(
    "The same of the cluster that pulumi-eks makes of it, which only the engine sees.",
    "aws:eks/cluster:Cluster",
    where=(),
)
def made_clusters_are_closed_and_logged(cluster: Inputs) -> Iterator[str]:
    if cluster.get("accessConfig", {}).get("authenticationMode") != "API":
        yield "authenticationMode must be API"
    network = cluster.get("vpcConfig", {})
    if network.get("endpointPrivateAccess") is not True:
        yield "endpointPrivateAccess must be true"
    if network.get("endpointPublicAccess") is not False:
        cidrs = network.get("publicAccessCidrs") or [EVERYWHERE]
        if any(ipaddress.ip_network(cidr).prefixlen == 0 for cidr in cidrs):
            yield "publicAccessCidrs must be narrow"
    if "audit" not in cluster.get("enabledClusterLogTypes", []):
        yield "logs are missing"
    if not cluster.get("encryptionConfig"):
        yield "encryptionConfig is missing"


@_policy(
    "No pod reads its node's credentials, and a node's disk is encrypted.",
    "aws:ec2/launchTemplate:LaunchTemplate",
    where=AWS,
)
def nodes_keep_their_credentials(template: Inputs) -> Iterator[str]:
    metadata = template.get("metadataOptions", {})
    if metadata.get("httpTokens") != "required" or metadata.get("httpPutResponseHopLimit") != 1:
        yield "metadataOptions must ask for tokens and allow one hop"
    if not template.get("vpcSecurityGroupIds"):
        yield "vpcSecurityGroupIds must name the nodes' own group"
    for disk in template.get("blockDeviceMappings") or [{}]:
        if str(disk.get("ebs", {}).get("encrypted")).lower() != "true":
            yield "every disk must be encrypted"


@_policy(
    "An add-on or a chart without a version is another one next week.",
    "aws:eks/addon:Addon",
    "kubernetes:helm.sh/v3:Release",
    where=BOTH,
)
def versions_are_exact(thing: Inputs) -> Iterator[str]:
    version = str(thing.get("addonVersion") or thing.get("version") or "")
    if not _VERSION.match(version):
        yield f"{version!r} is not a version"


@_policy(
    "A tag that moves would change what a stack runs behind its back.",
    "aws:ecr/repository:Repository",
    where=AWS,
)
def repositories_are_scanned_and_do_not_move(repository: Inputs) -> Iterator[str]:
    if repository.get("imageTagMutability") != "IMMUTABLE":
        yield "imageTagMutability must be IMMUTABLE"
    if repository.get("imageScanningConfiguration", {}).get("scanOnPush") is not True:
        yield "scanOnPush must be true"
    if [c["encryptionType"] for c in repository.get("encryptionConfigurations", [])] != ["KMS"]:
        yield "must be encrypted by a key"


# --- the database -------------------------------------------------------------------------------


@_policy(
    "The truth is private, encrypted, backed up, and nobody knows its owner's password.",
    "aws:rds/instance:Instance",
    where=AWS,
)
def databases_are_private_and_kept(instance: Inputs) -> Iterator[str]:
    must = {
        "publiclyAccessible": False,
        "storageEncrypted": True,
        "iamDatabaseAuthenticationEnabled": True,
        "manageMasterUserPassword": True,
        "copyTagsToSnapshot": True,
        "autoMinorVersionUpgrade": False,
        "performanceInsightsEnabled": True,
    }
    yield from _differences(instance, must)
    for name in ("kmsKeyId", "masterUserSecretKmsKeyId", "monitoringRoleArn", "caCertIdentifier"):
        if not instance.get(name):
            yield f"{name} is missing"
    if "password" in instance:
        yield "a password must not be in the program"
    if not instance.get("backupRetentionPeriod", 0) >= 1:
        yield "backupRetentionPeriod must be at least 1"


@_policy(
    "No client may talk in the clear, and the budget of connections is computed from this number.",
    "aws:rds/parameterGroup:ParameterGroup",
    where=AWS,
)
def databases_force_tls(group: Inputs) -> Iterator[str]:
    parameters = {p["name"]: str(p["value"]) for p in group.get("parameters", [])}
    if parameters.get("rds.force_ssl") != "1":
        yield "rds.force_ssl must be 1"
    if not parameters.get("max_connections", "").isdecimal():
        yield "max_connections must be said"


# --- Kafka --------------------------------------------------------------------------------------


@_policy(
    "Facts travel encrypted, from and to somebody known.", "aws:msk/cluster:Cluster", where=MSK
)
def msk_knows_its_clients(cluster: Inputs) -> Iterator[str]:
    transit = cluster.get("encryptionInfo", {}).get("encryptionInTransit", {})
    yield from _differences(transit, {"clientBroker": "TLS", "inCluster": True})
    if not cluster.get("encryptionInfo", {}).get("encryptionAtRestKmsKeyArn"):
        yield "encryptionAtRestKmsKeyArn is missing"
    clients = cluster.get("clientAuthentication", {})
    yield from _differences(clients, {"unauthenticated": False})
    yield from _differences(clients.get("sasl", {}), {"iam": True, "scram": True})
    public = cluster.get("brokerNodeGroupInfo", {}).get("connectivityInfo", {})
    yield from _differences(public.get("publicAccess", {}), {"type": "DISABLED"})


@_policy(
    "A typo must not make a topic, a lost broker must not lose a fact, no ACL must not mean all.",
    "aws:msk/configuration:Configuration",
    where=MSK,
)
def msk_settings_are_said(configuration: Inputs) -> Iterator[str]:
    lines = configuration.get("serverProperties", "").split()
    for line in (
        "auto.create.topics.enable=false",
        "default.replication.factor=3",
        "min.insync.replicas=2",
        "unclean.leader.election.enable=false",
        "allow.everyone.if.no.acl.found=false",
    ):
        if line not in lines:
            yield f"{line} is missing"


@_policy("The same in the cluster.", "Kafka", where=STRIMZI)
def strimzi_knows_its_clients(cluster: Inputs) -> Iterator[str]:
    kafka = cluster["spec"]["kafka"]
    for listener in kafka["listeners"]:
        if not (listener.get("tls") and listener.get("authentication")):
            yield f"listener {listener['name']} must have TLS and authentication"
        if listener.get("type") != "internal" or not listener.get("networkPolicyPeers"):
            yield f"listener {listener['name']} must be inside, and name its peers"
    if kafka.get("authorization", {}).get("type") != "simple":
        yield "authorization must be simple"
    if kafka["config"].get("auto.create.topics.enable") is not False:
        yield "auto.create.topics.enable must be false"
    if not kafka.get("version"):
        yield "version must be said"


@_policy(
    "Twelve partitions spread the accounts; retention is finite, since the store is the truth.",
    "KafkaTopic",
    "aws:msk/topic:Topic",
    where=("msk", "strimzi"),
)
def topics_are_finite(topic: Inputs) -> Iterator[str]:
    spec = topic.get("spec", topic)
    config = spec.get("config") or json.loads(spec.get("configs", "{}"))
    if spec.get("partitions", spec.get("partitionCount")) != 12:  # noqa: PLR2004 - see why
        yield "must have 12 partitions"
    if int(config.get("retention.ms", -1)) <= 0:
        yield "retention.ms must be finite"
    if (spec.get("topicName") or spec.get("name")) != TOPIC:
        yield f"must be called {TOPIC}"


@_policy(
    "The source reads one topic in one group; the recorder writes it. Neither does more.",
    "KafkaUser",
    where=STRIMZI,
)
def kafka_users_do_one_thing(user: Inputs) -> Iterator[str]:
    writes = user["metadata"]["name"] != KAFKA_SOURCE_USER
    for acl in user["spec"]["authorization"]["acls"]:
        if acl["resource"]["name"] not in {TOPIC, CONSUMER_GROUP}:
            yield f"must not reach {acl['resource']}"
        excess = set(acl["operations"]) - {"Describe", "Write" if writes else "Read"}
        if acl["type"] != "allow" or excess:
            yield f"must not {sorted(excess)}"


# --- what runs in the cluster -------------------------------------------------------------------


@_policy(
    "Pod Security's level restricted, and a root that nobody writes to: a break-in finds nothing.",
    "KnativeService",
    "Job",
    "CronJob",
    "StatefulSet",
    where=BOTH,
)
def pods_are_restricted(workload: Inputs) -> Iterator[str]:
    spec = _pod(workload)
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken must be false"
    for container in spec["containers"]:
        context = container.get("securityContext", {})
        must = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        yield from _differences(context, must)
        user = spec.get("securityContext", {}).get("runAsUser") or context.get("runAsUser")
        if not user:
            yield "runAsUser must be a number other than root's"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield "must have a limit on memory"


@_policy(
    "What runs is what was built and scanned: a tag may be another image tomorrow.",
    "KnativeService",
    "Job",
    "CronJob",
    "StatefulSet",
    where=BOTH,
)
def images_are_pinned(workload: Inputs) -> Iterator[str]:
    for container in _pod(workload)["containers"]:
        if not _DIGEST.fullmatch(container["image"]):
            yield f"{container['image']} is not pinned"


@_policy(
    "A secret comes from a Secret. One in a manifest is in every history that the manifest is in.",
    "KnativeService",
    "Job",
    "CronJob",
    "StatefulSet",
    where=BOTH,
)
def environments_hold_no_secret(workload: Inputs) -> Iterator[str]:
    for container in _pod(workload)["containers"]:
        for entry in container.get("env", []):
            value = str(entry.get("value", ""))
            if value and _SECRET_NAME.search(entry["name"]):
                yield f"{entry['name']} must come from a Secret"
            if _CREDENTIALS_IN_URL.search(value):
                yield f"{entry['name']} must not hold a password"


@_policy(
    "Templates say where a secret goes, never what it is.",
    "ExternalSecret",
    where=BOTH,
)
def templates_hold_no_secret(secret: Inputs) -> Iterator[str]:
    for key, value in secret["spec"]["target"]["template"]["data"].items():
        if key.endswith(("password", "url", "hex")) and "{{" not in value:
            yield f"{key} must be a template"


@_policy(
    "Bounded, or a busy minute takes all the database's connections; drained, or requests are cut.",
    "KnativeService",
    where=BOTH,
)
def functions_are_bounded_and_drained(service: Inputs) -> Iterator[str]:
    template = service["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    if not int(annotations.get("autoscaling.knative.dev/max-scale", 0)) >= 1:
        yield "max-scale must be said"
    if not annotations.get("autoscaling.knative.dev/class", "").startswith("kpa."):
        yield "must be scaled by Knative's own autoscaler"
    spec = template["spec"]
    if not spec.get("timeoutSeconds", 0) > TIMEOUT_S_ABOVE:
        yield f"timeoutSeconds must be above {TIMEOUT_S_ABOVE}"
    if not spec.get("containerConcurrency", 0) >= 1:
        yield "containerConcurrency must be bounded"
    (container,) = spec["containers"]
    ready, alive = container.get("readinessProbe", {}), container.get("livenessProbe", {})
    if ready.get("httpGet", {}).get("path") != "/readyz" or "periodSeconds" in ready:
        yield "readinessProbe must ask /readyz, as often as Knative does"
    if alive.get("httpGet", {}).get("path") != "/livez":
        yield "livenessProbe must ask /livez"


@_policy(
    "The projector is called by its sources only: not from outside, and with a token always.",
    "KnativeService",
    where=BOTH,
)
def the_projector_is_private(service: Inputs) -> Iterator[str]:
    if service["metadata"]["name"] != PROJECT.service:
        return
    labels = service["metadata"].get("labels", {})
    if labels.get("networking.knative.dev/visibility") != "cluster-local":
        yield "must be cluster-local"
    (container,) = service["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    if environment.get("AUTH") != "oidc" or not environment.get("SINK_SUBJECTS"):
        yield "must ask its sources who they are"
    if environment.get("SINK_AUDIENCE") != PROJECT.audience:
        yield f"SINK_AUDIENCE must be {PROJECT.audience}"


@_policy(
    "A delivery said in part loses its defaults, an offset left to default loses what came before.",
    "KafkaSource",
    where=BOTH,
)
def the_source_loses_nothing(source: Inputs) -> Iterator[str]:
    spec, delivery = source["spec"], source["spec"].get("delivery", {})
    must = {
        "ordering": "unordered",
        "initialOffset": "earliest",
        "consumerGroup": CONSUMER_GROUP,
        "topics": [TOPIC],
    }
    yield from _differences(spec, must)
    for name in ("retry", "backoffPolicy", "backoffDelay", "timeout", "deadLetterSink"):
        if name not in delivery:
            yield f"delivery.{name} is missing"
    for sink in (spec["sink"], delivery.get("deadLetterSink", {})):
        if sink.get("audience") != PROJECT.audience:
            yield "every sink must have its audience"
    delay = float(delivery.get("backoffDelay", "PT0S").removeprefix("PT").removesuffix("S"))
    if delay * (2 ** int(delivery.get("retry", 0)) - 1) <= YOUNG_S:
        yield f"must retry for more than the {YOUNG_S} s for which an event is young"
    net = spec.get("net", {})
    if not (net.get("tls", {}).get("enable") and net.get("sasl", {}).get("enable")):
        yield "must log in, over TLS"


@_policy(
    "When no process is left to sweep by itself, these wake one, every ten minutes.",
    "PingSource",
    where=BOTH,
)
def the_sweeps_come_every_ten_minutes(source: Inputs) -> Iterator[str]:
    spec = source["spec"]
    yield from _differences(spec, {"schedule": "*/10 * * * *", "contentType": "application/json"})
    function = RECORD if "outbox" in spec["data"] else PROJECT
    if (spec["sink"]["ref"]["name"], spec["sink"]["audience"]) != (
        function.service,
        function.audience,
    ):
        yield f"must call {function.name} under its audience"


@_policy(
    "Callers come by the stack's names and its load balancer, and by no other way.",
    "Service",
    "Ingress",
    where=CLUSTER,
)
def services_stay_inside(service: Inputs) -> Iterator[str]:
    if service["kind"] == "Ingress":
        yield "there must be none"
    if service["spec"].get("type", "ClusterIP") != "ClusterIP":
        yield "type must be ClusterIP"


@_policy("A name that callers use has a certificate.", "DomainMapping", where=BOTH)
def names_have_certificates(mapping: Inputs) -> Iterator[str]:
    if not mapping["spec"].get("tls", {}).get("secretName"):
        yield "tls.secretName is missing"


@_policy(
    "Kubernetes itself turns a pod away that does not meet the restricted level.",
    "Namespace",
    where=BOTH,
)
def the_namespace_enforces_restricted(namespace: Inputs) -> Iterator[str]:
    if namespace["metadata"]["name"] != NAMESPACE:
        return
    labels = namespace["metadata"].get("labels", {})
    if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "must enforce the level restricted"


@_policy(
    "A policy that lets everybody in or out of everything is none.",
    "NetworkPolicy",
    where=BOTH,
)
def network_policies_name_peers(policy: Inputs) -> Iterator[str]:
    spec = policy["spec"]
    for side, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(side, []):
            if not rule.get(peers):
                yield f"every {side} rule must name its peers"
    if not spec.get("policyTypes"):
        yield "policyTypes must be said"


@_policy(
    "Knative's version is chosen, and its sources show who they are.",
    "KnativeServing",
    "KnativeEventing",
    where=BOTH,
)
def knative_is_pinned_and_identified(knative: Inputs) -> Iterator[str]:
    spec = knative["spec"]
    if not _VERSION.fullmatch(spec.get("version", "")):
        yield "version must be exact"
    if knative["kind"] == "KnativeEventing":
        features = spec["config"].get("features", {})
        if features.get("authentication-oidc") != "enabled":
            yield "authentication-oidc must be enabled"
        if not spec.get("source", {}).get("kafka", {}).get("enabled"):
            yield "the KafkaSource must be enabled"


@_policy(
    "A Secret written by the program would be in its state, or in a manifest.",
    "Secret",
    where=(),
)
def no_secret_is_written_here(secret: Inputs) -> Iterator[str]:
    yield f"{secret['metadata']['name']} must be made by the External Secrets operator"


def violations(resource_type: str, inputs: Inputs) -> list[tuple[Policy, str]]:
    """Every way in which one resource breaks a policy."""
    return [
        (policy, problem)
        for policy in POLICIES
        if policy.applies(resource_type, inputs)
        for problem in policy.check(inputs)
    ]


def _differences(have: Mapping[str, Any], must: Mapping[str, Any]) -> Iterator[str]:
    for name, value in must.items():
        if have.get(name) != value:
            yield f"{name} must be {value!r}, not {have.get(name)!r}"


def _pod(workload: Inputs) -> dict[str, Any]:
    """The spec of the pods that ``workload`` makes."""
    spec = workload["spec"]
    pod: dict[str, Any] = spec.get("jobTemplate", {}).get("spec", spec)["template"]["spec"]
    return pod


def _statements(policy: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = json.loads(policy)["Statement"]
    return statements


def _principals(statement: dict[str, Any]) -> list[str]:
    principal = statement.get("Principal", {})
    if isinstance(principal, str):
        return [principal]
    return [name for names in principal.values() for name in _list(names)]


def _list(value: Any) -> list[str]:  # noqa: ANN401 - IAM takes one or several
    return value if isinstance(value, list) else [value]
