"""The ACLs that the Job sets in MSK."""

from __future__ import annotations

from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourceType

from infra_pulumi.layers.kafka.kafka_acls import acls
from infra_pulumi.parts import CONSUMER_GROUP, KAFKA_SOURCE_USER, TOPIC


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
