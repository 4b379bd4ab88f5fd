"""Kafka: MSK, or Strimzi in the cluster. Either way TLS only, and nobody without an identity."""

# ruff: noqa: PLR0913, PLR0917 - a layer is made from every layer that it stands on

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pulumi
import pulumi_aws as aws
import pulumi_random as random

from infra_pulumi import versions
from infra_pulumi.isolation import EVENTING, MSK_IAM_PORT, MSK_SCRAM_PORT, STRIMZI_CLIENT_PORT, part
from infra_pulumi.isolation import namespace as all_pods_of
from infra_pulumi.keys import layer_key, log_group
from infra_pulumi.operators import custom_resource
from infra_pulumi.parts import (
    CONSUMER_GROUP,
    KAFKA_RECORDER_USER,
    KAFKA_SOURCE_USER,
    NAMESPACE,
    RECORD,
    TOPIC,
)
from infra_pulumi.section import Problem, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pulumi_kubernetes as k8s

    from infra_pulumi.cluster import Cluster
    from infra_pulumi.config import Stack
    from infra_pulumi.network import AwsConfig, Network
    from infra_pulumi.operators import Operators
    from infra_pulumi.secrets import Secrets

HOUR_MS = 3_600_000
# Two brokers cannot keep two replicas in sync while one restarts.
BROKERS_FOR_REPLICATION = 3
SOURCE_SECRET = "kafka-source"  # noqa: S105 - its name
RECORDER_SECRET = "kafka-recorder"  # noqa: S105 - its name
MECHANISM = "SCRAM-SHA-512"
STRIMZI_API = "kafka.strimzi.io/v1"
STRIMZI_CLUSTER = "saldo"
ZONE_LABEL = "topology.kubernetes.io/zone"
# Where Strimzi publishes the authority that its brokers' certificates come from.
STRIMZI_CA = (f"{STRIMZI_CLUSTER}-cluster-ca-cert", "ca.crt")


class KafkaConfig(Section):
    """Where the facts travel."""

    kind: Literal["msk", "strimzi"]
    brokers: int
    storage_gib: int
    partitions: int
    consumers: int
    retention_hours: int
    # MSK only.
    instance_type: str | None = None

    @property
    def replication(self) -> int:
        """Return the number of copies of each record."""
        return min(BROKERS_FOR_REPLICATION, self.brokers)

    @property
    def min_in_sync(self) -> int:
        """Return how many copies a record needs before it is acknowledged."""
        return max(1, self.replication - 1)

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        aws_config = stack.get("aws")
        if stack.get("shape") == "cluster" and self.kind == "msk":
            yield "kind", "msk is there in the shape aws only"
        if (self.kind == "msk") != (self.instance_type is not None):
            yield "instanceType", "goes with kind msk, and only with it"
        if self.brokers < 1 or self.brokers == BROKERS_FOR_REPLICATION - 1:
            yield "brokers", "must be 1, or at least 3 (with two, a restart stops the topic)"
        if stack.get("protected") and self.brokers < BROKERS_FOR_REPLICATION:
            yield "brokers", "must be at least 3 in a protected stack"
        if self.kind == "msk" and aws_config and self.brokers % len(aws_config.zones):
            yield "brokers", "must be a multiple of the number of zones"
        if not 1 <= self.consumers <= self.partitions:
            limit = f"must be from 1 to the {self.partitions} partitions"
            yield "consumers", f"{limit}; more would have nothing to read"
        if self.retention_hours < 1 or self.storage_gib < 1:
            yield "", "retentionHours and storageGib must be at least 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaAccess:
    """What the functions and the source need to know."""

    security: Literal["msk-iam", "scram"]
    # For the recorder and for the source: MSK has a listener for each way of logging in.
    recorder_brokers: pulumi.Input[str]
    source_brokers: pulumi.Input[str]
    # Secret and key of a private authority; None where the certificates are publicly known.
    authority: tuple[str, str] | None
    ready: list[pulumi.Resource]
    # What the recorder's IAM role, and that of the Job that sets the ACLs, must allow.
    recorder_statements: list[dict[str, Any]] = field(default_factory=list)
    acl_statements: list[dict[str, Any]] = field(default_factory=list)


def topic_config(stack: Stack) -> dict[str, str]:
    """The topic's settings, as Kafka spells them."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(stack.kafka.retention_hours * HOUR_MS),
        # Retention goes by the broker's clock, and a recorder whose own is off is not refused.
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(stack.kafka.min_in_sync),
    }


class Strimzi(pulumi.ComponentResource):
    """Kafka in the cluster: brokers that are their own controllers, a user a client."""

    access: KafkaAccess

    def __init__(
        self,
        name: str,
        stack: Stack,
        provider: k8s.Provider,
        operators: Operators,
        secrets: Secrets,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Strimzi", name, None, opts)
        self._stack, self._provider = stack, provider
        operator = [] if operators.strimzi is None else [operators.strimzi]
        self._own = pulumi.ResourceOptions(parent=self, provider=provider, depends_on=operator)
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
                    _acl("group", CONSUMER_GROUP, ["Read", "Describe"]),
                ],
            ),
        ]
        brokers = f"{STRIMZI_CLUSTER}-kafka-bootstrap.{NAMESPACE}.svc:{STRIMZI_CLIENT_PORT}"
        self.access = KafkaAccess(
            security="scram",
            recorder_brokers=brokers,
            source_brokers=brokers,
            authority=STRIMZI_CA,
            ready=[cluster, topic, *users],
        )
        self.register_outputs({"brokers": brokers})

    def _after(self, *resources: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self, provider=self._provider, depends_on=list(resources)
        )

    def _pool(self) -> pulumi.Resource:
        kafka = self._stack.kafka
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
                    "requests": {"cpu": "250m", "memory": "1Gi"},
                    "limits": {"memory": "1Gi"},
                },
                "jvmOptions": {"-Xms": "512m", "-Xmx": "512m"},
            },
            labels={"strimzi.io/cluster": STRIMZI_CLUSTER},
            opts=self._own,
        )

    def _cluster(self, pool: pulumi.Resource) -> pulumi.Resource:
        kafka = self._stack.kafka
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
                "requests": {"cpu": "50m", "memory": "384Mi"},
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
                "partitions": self._stack.kafka.partitions,
                "replicas": self._stack.kafka.replication,
                "config": topic_config(self._stack),
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
        """A user whose password is made up first: the source wants user and mechanism beside it."""
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


class Msk(pulumi.ComponentResource):
    """MSK: IAM for the recorder, SCRAM for the source, whose client has no IAM worth trusting."""

    access: KafkaAccess

    def __init__(
        self,
        name: str,
        stack: Stack,
        place: AwsConfig,
        network: Network,
        cluster: Cluster,
        secrets: Secrets,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Msk", name, None, opts)
        self._stack, self._place, self._title = stack, place, f"saldo-{pulumi.get_stack()}"
        self._own = pulumi.ResourceOptions(parent=self)
        key = layer_key("kafka", place, parent=self, protect=stack.protected, logs=True)
        group = aws.ec2.SecurityGroup(
            "kafka",
            vpc_id=network.vpc_id,
            description="Kafka's clients",
            tags={"Name": f"{self._title}-kafka"},
            opts=self._own,
        )
        cluster.allow("nodes-to-kafka-iam", cluster.nodes, group, (MSK_IAM_PORT, MSK_IAM_PORT))
        cluster.allow(
            "nodes-to-kafka-scram", cluster.nodes, group, (MSK_SCRAM_PORT, MSK_SCRAM_PORT)
        )
        msk = self._brokers(network, group, key)
        topic = aws.msk.Topic(
            "topic",
            cluster_arn=msk.arn,
            name=TOPIC,
            partition_count=stack.kafka.partitions,
            replication_factor=stack.kafka.replication,
            configs=json.dumps(topic_config(stack)),
            opts=pulumi.ResourceOptions(parent=self, protect=stack.protected),
        )
        user = self._source_user(secrets, msk)
        self.access = KafkaAccess(
            security="msk-iam",
            recorder_brokers=msk.bootstrap_brokers_sasl_iam,
            source_brokers=msk.bootstrap_brokers_sasl_scram,
            authority=None,
            ready=[topic, user],
            recorder_statements=_recorder_statements(msk.arn),
            acl_statements=_acl_statements(msk.arn),
        )
        self.register_outputs({"brokers": msk.bootstrap_brokers_sasl_iam})

    def _brokers(
        self, network: Network, group: aws.ec2.SecurityGroup, key: aws.kms.Key
    ) -> aws.msk.Cluster:
        kafka = self._stack.kafka
        settings = {
            "auto.create.topics.enable": "false",
            "default.replication.factor": kafka.replication,
            "min.insync.replicas": kafka.min_in_sync,
            "unclean.leader.election.enable": "false",
            # MSK would let any user with a password do anything until the first ACL is there.
            "allow.everyone.if.no.acl.found": "false",
        }
        configuration = aws.msk.Configuration(
            "kafka",
            kafka_versions=[versions.MSK_KAFKA],
            server_properties="".join(f"{name}={value}\n" for name, value in settings.items()),
            opts=self._own,
        )
        logs = log_group("kafka", f"/saldo/{self._title}/kafka", key, parent=self)
        return aws.msk.Cluster(
            "kafka",
            cluster_name=self._title,
            kafka_version=versions.MSK_KAFKA,
            number_of_broker_nodes=kafka.brokers,
            broker_node_group_info=aws.msk.ClusterBrokerNodeGroupInfoArgs(
                instance_type=kafka.instance_type or "",
                client_subnets=network.subnet_ids["data"],
                security_groups=[group.id],
                storage_info=aws.msk.ClusterBrokerNodeGroupInfoStorageInfoArgs(
                    ebs_storage_info=aws.msk.ClusterBrokerNodeGroupInfoStorageInfoEbsStorageInfoArgs(
                        volume_size=kafka.storage_gib
                    )
                ),
                connectivity_info=aws.msk.ClusterBrokerNodeGroupInfoConnectivityInfoArgs(
                    public_access=aws.msk.ClusterBrokerNodeGroupInfoConnectivityInfoPublicAccessArgs(
                        type="DISABLED"
                    )
                ),
            ),
            client_authentication=aws.msk.ClusterClientAuthenticationArgs(
                sasl=aws.msk.ClusterClientAuthenticationSaslArgs(iam=True, scram=True),
                unauthenticated=False,
            ),
            encryption_info=aws.msk.ClusterEncryptionInfoArgs(
                encryption_at_rest_kms_key_arn=key.arn,
                encryption_in_transit=aws.msk.ClusterEncryptionInfoEncryptionInTransitArgs(
                    client_broker="TLS", in_cluster=True
                ),
            ),
            configuration_info=aws.msk.ClusterConfigurationInfoArgs(
                arn=configuration.arn, revision=configuration.latest_revision
            ),
            enhanced_monitoring="PER_TOPIC_PER_BROKER",
            logging_info=aws.msk.ClusterLoggingInfoArgs(
                broker_logs=aws.msk.ClusterLoggingInfoBrokerLogsArgs(
                    cloudwatch_logs=aws.msk.ClusterLoggingInfoBrokerLogsCloudwatchLogsArgs(
                        enabled=True, log_group=logs.name
                    )
                )
            ),
            opts=pulumi.ResourceOptions(parent=self, protect=self._stack.protected),
        )

    def _source_user(self, secrets: Secrets, msk: aws.msk.Cluster) -> pulumi.Resource:
        """The source's user. MSK takes it from a secret whose name and key must be as here."""
        password = random.RandomPassword("kafka-source", length=48, special=False, opts=self._own)
        secret = secrets.store(
            "kafka-source",
            pulumi.Output.json_dumps({"username": KAFKA_SOURCE_USER, "password": password.result}),
            path=f"AmazonMSK_{self._title}/source",
        )
        association = aws.msk.SingleScramSecretAssociation(
            "kafka-source", cluster_arn=msk.arn, secret_arn=secret.secret_arn, opts=self._own
        )
        aws.secretsmanager.SecretPolicy(
            "kafka-source",
            secret_arn=secret.secret_arn,
            policy=pulumi.Output.json_dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Sid": "MskReadsTheUser",
                            "Effect": "Allow",
                            "Principal": {"Service": "kafka.amazonaws.com"},
                            "Action": "secretsmanager:getSecretValue",
                            "Resource": secret.secret_arn,
                            "Condition": {
                                "StringEquals": {"aws:SourceAccount": self._place.account}
                            },
                        }
                    ],
                }
            ),
            opts=self._own,
        )
        secrets.deliver(
            SOURCE_SECRET,
            secret.secret_arn,
            {"user": "{{ .username }}", "password": "{{ .password }}", "type": MECHANISM},
            properties=["username", "password"],
        )
        return association


def _below(cluster_arn: pulumi.Input[str], kind: str, name: str) -> pulumi.Output[str]:
    """The ARN of a topic or group, which IAM derives from the cluster's."""
    return pulumi.Output.from_input(cluster_arn).apply(
        lambda arn: f"{arn.replace(':cluster/', f':{kind}/')}/{name}"
    )


def _recorder_statements(cluster: pulumi.Input[str]) -> list[dict[str, Any]]:
    return [
        {
            "Effect": "Allow",
            # The producer is idempotent: a retry of its own writes nothing twice.
            "Action": [
                "kafka-cluster:Connect",
                "kafka-cluster:DescribeCluster",
                "kafka-cluster:WriteDataIdempotently",
            ],
            "Resource": cluster,
        },
        {
            "Effect": "Allow",
            "Action": ["kafka-cluster:DescribeTopic", "kafka-cluster:WriteData"],
            "Resource": _below(cluster, "topic", TOPIC),
        },
    ]


def _acl_statements(cluster: pulumi.Input[str]) -> list[dict[str, Any]]:
    return [
        {
            "Effect": "Allow",
            "Action": [
                "kafka-cluster:AlterCluster",
                "kafka-cluster:Connect",
                "kafka-cluster:DescribeCluster",
            ],
            "Resource": cluster,
        }
    ]
