"""Kafka, by MSK and by Strimzi: who may do what, and where the brokers are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourceType

from infra_pulumi.layers.kafka.kafka_acls import acls
from infra_pulumi.parts import CONSUMER_GROUP, KAFKA_SOURCE_USER, TOPIC
from tests.infra.conftest import by_kind, named

if TYPE_CHECKING:
    from infra_pulumi.capture import Captured

with_msk = pytest.mark.parametrize("stack", ["prod"], indirect=True)


def test_the_source_reads_one_topic_in_one_group_and_no_more() -> None:
    made: list[AclBinding] = acls(KAFKA_SOURCE_USER, TOPIC, CONSUMER_GROUP)

    assert {(a.restype, a.name, a.operation) for a in made} == {
        (ResourceType.TOPIC, TOPIC, AclOperation.READ),
        (ResourceType.TOPIC, TOPIC, AclOperation.DESCRIBE),
        (ResourceType.GROUP, CONSUMER_GROUP, AclOperation.READ),
        (ResourceType.GROUP, CONSUMER_GROUP, AclOperation.DESCRIBE),
        # Knative deletes the group when the source goes, and fails until it may.
        (ResourceType.GROUP, CONSUMER_GROUP, AclOperation.DELETE),
    }
    assert {a.principal for a in made} == {f"User:{KAFKA_SOURCE_USER}"}
    assert {a.permission_type for a in made} == {AclPermissionType.ALLOW}


@with_msk
def test_msk_gets_the_sources_user_from_a_valid_secret(captured: Captured) -> None:
    secret = named(captured, "Secret", "kafka-source")
    association = named(captured, "SingleScramSecretAssociation", "kafka-source")
    policy = named(captured, "SecretPolicy", "kafka-source")
    (statement,) = json.loads(policy.inputs["policy"])["Statement"]

    # The prefix is MSK's condition, and so is a key that is not the account's default one.
    assert secret.inputs["name"].startswith("AmazonMSK_")
    assert secret.inputs["kmsKeyId"] == named(captured, "Key", "secrets").arn
    assert association.inputs["clusterArn"] == statement_cluster(captured)
    assert statement["Principal"] == {"Service": "kafka.amazonaws.com"}
    # MSK documents no condition by which it would say for whom it reads.
    assert "Condition" not in statement


def statement_cluster(captured: Captured) -> str:
    """Return the ARN of the cluster that the recorder's role may connect to."""
    policy = json.loads(named(captured, "RolePolicy", "record-transaction").inputs["policy"])
    (cluster,) = [
        s["Resource"] for s in policy["Statement"] if "kafka-cluster:Connect" in s["Action"]
    ]
    return str(cluster)


@with_msk
def test_the_recorder_and_the_acl_job_have_minimal_rights(
    captured: Captured,
) -> None:
    recorder = json.loads(named(captured, "RolePolicy", "record-transaction").inputs["policy"])
    acls = json.loads(named(captured, "RolePolicy", "kafka-acls").inputs["policy"])
    cluster = statement_cluster(captured)
    allowed = {
        action: statement["Resource"]
        for statement in recorder["Statement"]
        if "kafka-cluster:" in str(statement["Action"])
        for action in statement["Action"]
    }

    topic = cluster.replace(":cluster/", ":topic/") + "/transactions"
    assert allowed == {
        "kafka-cluster:Connect": cluster,
        "kafka-cluster:DescribeCluster": cluster,
        "kafka-cluster:WriteDataIdempotently": cluster,
        "kafka-cluster:DescribeTopic": topic,
        "kafka-cluster:WriteData": topic,
    }
    (statement,) = acls["Statement"]
    assert set(statement["Action"]) == {
        "kafka-cluster:AlterCluster",
        "kafka-cluster:Connect",
        "kafka-cluster:DescribeCluster",
    }
    assert statement["Resource"] == cluster


@pytest.mark.parametrize("stack", ["cluster", "dev"], indirect=True)
def test_the_source_may_delete_its_group_and_nothing_else(captured: Captured) -> None:
    """Knative deletes the group when the source goes, and fails until it may."""
    allowed = {
        (user["metadata"]["name"], acl["resource"]["type"])
        for user in by_kind(captured, "KafkaUser")
        for acl in user["spec"]["authorization"]["acls"]
        if "Delete" in acl["operations"]
    }

    assert allowed == {(KAFKA_SOURCE_USER, "group")}


def test_brokers_are_spread_over_the_zones_of_the_nodes(captured: Captured, stack: str) -> None:
    for kafka in by_kind(captured, "Kafka"):
        rack = kafka["spec"]["kafka"].get("rack")
        assert rack == (
            None if stack == "cluster" else {"topologyKey": "topology.kubernetes.io/zone"}
        )


def test_strimzi_comes_after_the_namespace_that_it_watches(captured: Captured) -> None:
    """Its chart makes RoleBindings there."""
    namespace = named(captured, "Namespace", "namespace")
    releases = [
        r for r in captured.resources if r.type.endswith(":Release") and r.name == "strimzi"
    ]

    assert len(releases) == len(by_kind(captured, "Kafka"))
    for release in releases:
        assert release.inputs["values"]["watchNamespaces"] == [namespace.inputs["metadata"]["name"]]
        assert namespace.urn in release.depends_on
