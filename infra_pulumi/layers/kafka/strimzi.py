"""Kafka in the cluster, by Strimzi: TLS only, and nobody without an identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pulumi

from infra_pulumi import versions
from infra_pulumi.custom_resources import custom_resource
from infra_pulumi.layers.isolation import EVENTING, STRIMZI_CLIENT_PORT, part
from infra_pulumi.layers.isolation import namespace as all_pods_of
from infra_pulumi.layers.kafka.access import MECHANISM, RECORDER_SECRET, SOURCE_SECRET, KafkaAccess
from infra_pulumi.layers.kafka.config import BrokersConfig, topic_config
from infra_pulumi.layers.processors import BROKER_M, ENTITY_OPERATOR_M
from infra_pulumi.parts import (
    CONSUMER_GROUP,
    KAFKA_RECORDER_USER,
    KAFKA_SOURCE_USER,
    NAMESPACE,
    RECORD,
    TOPIC,
)

if TYPE_CHECKING:
    import pulumi_kubernetes as k8s

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.operators import Operators
    from infra_pulumi.layers.secrets import Secrets


STRIMZI_API = "kafka.strimzi.io/v1"
STRIMZI_CLUSTER = "saldo"
ZONE_LABEL = "topology.kubernetes.io/zone"
# Where Strimzi publishes the authority that its brokers' certificates come from.
STRIMZI_CA = (f"{STRIMZI_CLUSTER}-cluster-ca-cert", "ca.crt")


class StrimziConfig(BrokersConfig):
    """Kafka in the cluster."""

    kind: Literal["strimzi"]


class Strimzi(pulumi.ComponentResource):
    """Kafka in the cluster: brokers that are their own controllers, a user a client."""

    access: KafkaAccess

    def __init__(
        self,
        name: str,
        stack: Stack,
        config: StrimziConfig,
        provider: k8s.Provider,
        operators: Operators,
        secrets: Secrets,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Strimzi", name, None, opts)
        self._stack, self._config, self._provider = stack, config, provider
        self._own = self._after(*operators.strimzi)
        pool = self._pool()
        cluster = self._cluster(pool)
        topic = self._topic(cluster)
        users = [
            self._user(
                secrets,
                cluster,
                RECORDER_SECRET,
                KAFKA_RECORDER_USER,
                [_acl("topic", TOPIC, ["Write", "Describe"])],
            ),
            self._user(
                secrets,
                cluster,
                SOURCE_SECRET,
                KAFKA_SOURCE_USER,
                [
                    _acl("topic", TOPIC, ["Read", "Describe"]),
                    _acl("group", CONSUMER_GROUP, ["Read", "Describe", "Delete"]),
                ],
            ),
        ]
        brokers = f"{STRIMZI_CLUSTER}-kafka-bootstrap.{NAMESPACE}.svc:{STRIMZI_CLIENT_PORT}"
        self.access = KafkaAccess(
            security="scram",
            recorder_brokers=brokers,
            source_brokers=brokers,
            recorder_secret=RECORDER_SECRET,
            source_secret=SOURCE_SECRET,
            authority=STRIMZI_CA,
            ready=[cluster, topic, *users],
        )
        self.register_outputs({"brokers": brokers})

    def _after(self, *resources: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self, provider=self._provider, depends_on=list(resources)
        )

    def _pool(self) -> pulumi.Resource:
        kafka = self._config
        return custom_resource(
            "brokers",
            STRIMZI_API,
            "KafkaNodePool",
            {
                "replicas": kafka.brokers,
                "roles": ["controller", "broker"],
                "storage": {
                    "type": "jbod",
                    "volumes": [
                        {
                            "id": 0,
                            "type": "persistent-claim",
                            "size": f"{kafka.storage_gib}Gi",
                            "kraftMetadata": "shared",
                            "deleteClaim": not self._stack.protected,
                        }
                    ],
                },
                "resources": {
                    "requests": {"cpu": f"{BROKER_M}m", "memory": "1Gi"},
                    "limits": {"memory": "1Gi"},
                },
                "jvmOptions": {"-Xms": "512m", "-Xmx": "512m"},
            },
            labels={"strimzi.io/cluster": STRIMZI_CLUSTER},
            opts=self._own,
        )

    def _cluster(self, pool: pulumi.Resource) -> pulumi.Resource:
        kafka = self._config
        listener: dict[str, Any] = {
            "name": "clients",
            "port": STRIMZI_CLIENT_PORT,
            "type": "internal",
            "tls": True,
            "authentication": {"type": "scram-sha-512"},
            # The recorder, and the pods that read for the KafkaSource.
            "networkPolicyPeers": [part(RECORD.service), all_pods_of(EVENTING)],
        }
        config: dict[str, Any] = {
            # The topic is made by whoever knows its partitions, never by a client's typo.
            "auto.create.topics.enable": False,
            "default.replication.factor": kafka.replication,
            "min.insync.replicas": kafka.min_in_sync,
            "offsets.topic.replication.factor": kafka.replication,
            "transaction.state.log.replication.factor": kafka.replication,
            "transaction.state.log.min.isr": kafka.min_in_sync,
        }
        limits = {
            "resources": {
                "requests": {"cpu": f"{ENTITY_OPERATOR_M}m", "memory": "384Mi"},
                "limits": {"memory": "384Mi"},
            }
        }
        # Replicas in different zones, brokers too. Any other cluster's nodes may name no zone.
        spread: dict[str, Any] = (
            {} if self._stack.aws is None else {"rack": {"topologyKey": ZONE_LABEL}}
        )
        return custom_resource(
            "kafka",
            STRIMZI_API,
            "Kafka",
            {
                "kafka": {
                    "version": versions.STRIMZI_KAFKA,
                    "metadataVersion": versions.STRIMZI_KAFKA_METADATA,
                    "listeners": [listener],
                    "authorization": {"type": "simple"},
                    "config": config,
                    **spread,
                },
                "entityOperator": {"topicOperator": limits, "userOperator": limits},
            },
            object_name=STRIMZI_CLUSTER,
            opts=self._after(pool),
        )

    def _topic(self, cluster: pulumi.Resource) -> pulumi.Resource:
        return custom_resource(
            "topic",
            STRIMZI_API,
            "KafkaTopic",
            {
                "topicName": TOPIC,
                "partitions": self._config.partitions,
                "replicas": self._config.replication,
                "config": topic_config(self._config),
            },
            object_name=TOPIC,
            labels={"strimzi.io/cluster": STRIMZI_CLUSTER},
            opts=self._after(cluster),
        )

    def _user(
        self,
        secrets: Secrets,
        cluster: pulumi.Resource,
        secret: str,
        user: str,
        acls: list[dict[str, Any]],
    ) -> pulumi.Resource:
        """Make a user. Its password comes first: the source wants user and mechanism beside it."""
        password = secrets.generate(
            secret,
            {"user": user, "password": "{{ .password }}", "type": MECHANISM},
            fields=["password"],
        )
        return custom_resource(
            secret,
            STRIMZI_API,
            "KafkaUser",
            {
                "authentication": {
                    "type": "scram-sha-512",
                    "password": {
                        "valueFrom": {"secretKeyRef": {"name": secret, "key": "password"}}
                    },
                },
                "authorization": {"type": "simple", "acls": acls},
            },
            object_name=user,
            labels={"strimzi.io/cluster": STRIMZI_CLUSTER},
            opts=self._after(cluster, password),
        )


def _acl(kind: str, name: str, operations: list[str]) -> dict[str, Any]:
    return {
        "type": "allow",
        "resource": {"type": kind, "name": name, "patternType": "literal"},
        "operations": operations,
        "host": "*",
    }
