"""The cluster, its nodes, and what is installed in it."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from infra_pulumi.parts import (
    NAMESPACE,
)
from infra_pulumi.policies.policy import (
    AWS,
    BOTH,
    Inputs,
    policy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERYWHERE = "0.0.0.0/0"
_VERSION = re.compile(r"v?\d+\.\d+\.\d+")


@policy(
    "pulumi-eks would open the API to the internet, keep no logs and let everybody be called.",
    "eks:index:Cluster",
    where=AWS,
)
def clusters_are_closed_and_logged(cluster: Inputs) -> Iterator[str]:
    if not cluster:
        # The engine sees the component without its inputs, and the cluster in it: the next policy.
        return
    yield from _api_is_open(cluster.get("authenticationMode"), cluster)
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


@policy(
    "The same of the cluster that pulumi-eks makes of it, which only the engine sees.",
    "aws:eks/cluster:Cluster",
    where=(),
)
def made_clusters_are_closed_and_logged(cluster: Inputs) -> Iterator[str]:
    mode = cluster.get("accessConfig", {}).get("authenticationMode")
    yield from _api_is_open(mode, cluster.get("vpcConfig", {}))
    if "audit" not in cluster.get("enabledClusterLogTypes", []):
        yield "logs are missing"
    if not cluster.get("encryptionConfig"):
        yield "encryptionConfig is missing"


@policy(
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


@policy(
    "An add-on or a chart without a version is another one next week.",
    "aws:eks/addon:Addon",
    "kubernetes:helm.sh/v3:Release",
    where=BOTH,
)
def versions_are_exact(thing: Inputs) -> Iterator[str]:
    version = str(thing.get("addonVersion") or thing.get("version") or "")
    if not _VERSION.match(version):
        yield f"{version!r} is not a version"


@policy(
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


@policy(
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


@policy(
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


def _api_is_open(mode: str | None, network: Inputs) -> Iterator[str]:
    if mode != "API":
        yield "authenticationMode must be API"
    if network.get("endpointPrivateAccess") is not True:
        yield "endpointPrivateAccess must be true"
    if network.get("endpointPublicAccess") is not False:
        cidrs = network.get("publicAccessCidrs") or [EVERYWHERE]
        if any(ipaddress.ip_network(cidr).prefixlen == 0 for cidr in cidrs):
            yield "publicAccessCidrs must be narrow"
