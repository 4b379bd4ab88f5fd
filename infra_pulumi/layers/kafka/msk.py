"""Kafka by MSK: TLS only, and nobody without an identity."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import pulumi
import pulumi_aws as aws
import pulumi_random as random

from infra_pulumi import versions
from infra_pulumi.kms_keys import layer_key, log_group
from infra_pulumi.layers.isolation import MSK_IAM_PORT, MSK_SCRAM_PORT
from infra_pulumi.layers.kafka.access import MECHANISM, SOURCE_SECRET, KafkaAccess
from infra_pulumi.layers.kafka.config import BrokersConfig, topic_config
from infra_pulumi.parts import KAFKA_SOURCE_USER, TOPIC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.eks.cluster import Cluster
    from infra_pulumi.layers.network import AwsConfig, Network
    from infra_pulumi.layers.secrets import Secrets
    from infra_pulumi.section import Problem


class MskConfig(BrokersConfig):
    """Kafka by MSK."""

    kind: Literal["msk"]
    instance_type: str

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        if stack.get("aws") and self.brokers % len(stack["aws"].zones):
            yield "brokers", "must be a multiple of the number of zones"
        yield from super().problems(stack)


class Msk(pulumi.ComponentResource):
    """MSK: IAM for the recorder, SCRAM for the source.

    Of Knative 1.23's KafkaSource the controller never reads net.sasl.tokenProvider, without which
    it refuses to log in by IAM.
    """

    access: KafkaAccess

    def __init__(
        self,
        name: str,
        stack: Stack,
        config: MskConfig,
        place: AwsConfig,
        network: Network,
        cluster: Cluster,
        secrets: Secrets,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Msk", name, None, opts)
        self._config, self._place, self._title = config, place, f"saldo-{pulumi.get_stack()}"
        self._protected = stack.protected
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
            partition_count=config.partitions,
            replication_factor=config.replication,
            configs=json.dumps(topic_config(config)),
            opts=pulumi.ResourceOptions(parent=self, protect=stack.protected),
        )
        user = self._source_user(secrets, msk)
        self.access = KafkaAccess(
            security="msk-iam",
            recorder_brokers=msk.bootstrap_brokers_sasl_iam,
            source_brokers=msk.bootstrap_brokers_sasl_scram,
            recorder_secret=None,
            source_secret=SOURCE_SECRET,
            authority=None,
            ready=[topic, user],
            recorder_statements=_recorder_statements(msk.arn),
            acl_statements=_acl_statements(msk.arn),
        )
        self.register_outputs({"brokers": msk.bootstrap_brokers_sasl_iam})

    def _brokers(
        self, network: Network, group: aws.ec2.SecurityGroup, key: aws.kms.Key
    ) -> aws.msk.Cluster:
        kafka = self._config
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
                instance_type=kafka.instance_type,
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
            opts=pulumi.ResourceOptions(parent=self, protect=self._protected),
        )

    def _source_user(self, secrets: Secrets, msk: aws.msk.Cluster) -> pulumi.Resource:
        """Make the source's user. MSK takes it from a secret whose name and key must be as here."""
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
    """Return the ARN of a topic or group, which IAM derives from the cluster's."""
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
