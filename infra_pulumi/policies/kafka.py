"""Kafka by MSK, and by Strimzi in the cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from infra_pulumi.parts import (
    CONSUMER_GROUP,
    KAFKA_SOURCE_USER,
    TOPIC,
)
from infra_pulumi.policies.policy import (
    MSK,
    STRIMZI,
    Inputs,
    differences,
    policy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


# Twelve spread the accounts.
PARTITIONS = 12


@policy("Facts travel encrypted, from and to somebody known.", "aws:msk/cluster:Cluster", where=MSK)
def msk_knows_its_clients(cluster: Inputs) -> Iterator[str]:
    transit = cluster.get("encryptionInfo", {}).get("encryptionInTransit", {})
    yield from differences(transit, {"clientBroker": "TLS", "inCluster": True})
    if not cluster.get("encryptionInfo", {}).get("encryptionAtRestKmsKeyArn"):
        yield "encryptionAtRestKmsKeyArn is missing"
    clients = cluster.get("clientAuthentication", {})
    yield from differences(clients, {"unauthenticated": False})
    yield from differences(clients.get("sasl", {}), {"iam": True, "scram": True})
    public = cluster.get("brokerNodeGroupInfo", {}).get("connectivityInfo", {})
    yield from differences(public.get("publicAccess", {}), {"type": "DISABLED"})


@policy(
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


@policy("The same in the cluster.", "Kafka", where=STRIMZI)
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


@policy(
    "Twelve partitions spread the accounts; retention is finite, since the store is the truth.",
    "KafkaTopic",
    "aws:msk/topic:Topic",
    where=("msk", "strimzi"),
)
def topics_are_finite(topic: Inputs) -> Iterator[str]:
    spec = topic.get("spec", topic)
    config = spec.get("config") or json.loads(spec.get("configs", "{}"))
    if spec.get("partitions", spec.get("partitionCount")) != PARTITIONS:
        yield f"must have {PARTITIONS} partitions"
    if int(config.get("retention.ms", -1)) <= 0:
        yield "retention.ms must be finite"
    if (spec.get("topicName") or spec.get("name")) != TOPIC:
        yield f"must be called {TOPIC}"


@policy(
    "The source reads one topic in one group; the recorder writes it. Neither does more.",
    "KafkaUser",
    where=STRIMZI,
)
def kafka_users_do_one_thing(user: Inputs) -> Iterator[str]:
    writes = user["metadata"]["name"] != KAFKA_SOURCE_USER
    for acl in user["spec"]["authorization"]["acls"]:
        if acl["resource"]["name"] not in {TOPIC, CONSUMER_GROUP}:
            yield f"must not reach {acl['resource']}"
        may = {"Describe", "Write" if writes else "Read"}
        # Knative deletes the group when the source goes.
        may |= {"Delete"} if acl["resource"]["type"] == "group" else set()
        excess = set(acl["operations"]) - may
        if acl["type"] != "allow" or excess:
            yield f"must not {sorted(excess)}"
