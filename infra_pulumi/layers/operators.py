"""The operators through which the rest is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pulumi
import pulumi_aws as aws

from infra_pulumi import versions
from infra_pulumi.helm_charts import release
from infra_pulumi.iam_roles import PodRole, pod_role
from infra_pulumi.parts import NAMESPACE
from infra_pulumi.section import REPLICAS_MAX, Section, between

if TYPE_CHECKING:
    import pulumi_kubernetes as k8s

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.eks.cluster import Cluster
    from infra_pulumi.layers.isolation import Isolation
    from infra_pulumi.layers.network import AwsConfig

CERT_MANAGER = "cert-manager"
EXTERNAL_SECRETS = "external-secrets"
KNATIVE_OPERATOR = "knative-operator"
STRIMZI = "strimzi"


class OperatorsConfig(Section):
    """The operators that the program installs."""

    replicas: Annotated[int, between(1, REPLICAS_MAX)]


class Operators(pulumi.ComponentResource):
    """The operators of one stack. Each waits until it runs."""

    # What must be there before the objects of each operator; empty where it is there already.
    cert_manager: list[pulumi.Resource]
    external_secrets: list[pulumi.Resource]
    knative: list[pulumi.Resource]
    strimzi: list[pulumi.Resource]
    # By which the External Secrets operator reads this stack's secrets. None outside AWS.
    reader: aws.iam.Role | None

    def __init__(
        self,
        name: str,
        stack: Stack,
        provider: k8s.Provider,
        isolation: Isolation,
        cluster: Cluster | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Operators", name, None, opts)
        # EKS has no nodes to run them on, and no driver for their disks, before it is ready.
        self._cluster, self._nodes = provider, [] if cluster is None else [cluster]

        certifier: list[pulumi.Resource] = []
        reader: list[pulumi.Resource] = []
        certifying: dict[str, Any] = {}
        self.reader = None
        if cluster is not None and stack.aws is not None and stack.edge.hosted_zone is not None:
            certifier = self._certify_by_dns(stack.edge.hosted_zone, cluster).ready
            certifying["extraArgs"] = [
                # An Issuer is one namespace's: it gets the operator's own identity when told so.
                "--issuer-ambient-credentials",
                # It looks for its own record before the authority does. Nodes reach no name server
                # but the network's.
                "--dns01-recursive-nameservers-only",
            ]
            reading = self._read_secrets(stack.aws, cluster)
            self.reader, reader = reading.role, reading.ready
        self.cert_manager = self.external_secrets = self.knative = self.strimzi = []
        if stack.operators is not None:
            self._install(stack, stack.operators.replicas, isolation, certifying, certifier, reader)
        self.register_outputs({})

    def _install(
        self,
        stack: Stack,
        replicas: int,
        isolation: Isolation,
        certifying: dict[str, Any],
        certifier: list[pulumi.Resource],
        reader: list[pulumi.Resource],
    ) -> None:
        self.cert_manager = self._release(
            CERT_MANAGER,
            versions.CERT_MANAGER,
            {
                # Certificates outlive a chart that is taken away.
                "crds": {"enabled": True, "keep": True},
                "replicaCount": replicas,
                **certifying,
            },
            *certifier,
        )
        self.external_secrets = self._release(
            EXTERNAL_SECRETS,
            versions.EXTERNAL_SECRETS,
            {"installCRDs": True, "replicaCount": replicas, "leaderElect": replicas > 1},
            *reader,
        )
        if stack.knative is not None:
            self.knative = self._release(KNATIVE_OPERATOR, versions.KNATIVE_OPERATOR, {})
        if stack.kafka.kind == "strimzi":
            self.strimzi = self._release(
                STRIMZI,
                versions.STRIMZI,
                {
                    "watchNamespaces": [NAMESPACE],
                    "replicas": replicas,
                    # Its pods then meet Pod Security's restricted level, which the namespace asks.
                    "extraEnvs": [
                        {"name": "STRIMZI_POD_SECURITY_PROVIDER_CLASS", "value": "restricted"}
                    ],
                },
                # Its chart makes the operator's rights in the namespaces that it watches.
                isolation.namespace,
            )

    def _release(
        self, name: str, chart: versions.Chart, values: dict[str, Any], *after: pulumi.Resource
    ) -> list[pulumi.Resource]:
        ready = [*self._nodes, *after]
        cluster = self._cluster
        return [release(name, chart, name, values, parent=self, provider=cluster, depends_on=ready)]

    def _read_secrets(self, place: AwsConfig, cluster: Cluster) -> PodRole:
        """Let the External Secrets operator read what this stack keeps in Secrets Manager."""
        stack, here = pulumi.get_stack(), f"{place.region}:{place.account}"
        return pod_role(
            EXTERNAL_SECRETS,
            cluster=cluster.name,
            namespace=EXTERNAL_SECRETS,
            service_account=EXTERNAL_SECRETS,
            statements=[
                {
                    "Effect": "Allow",
                    "Action": ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"],
                    "Resource": [
                        f"arn:aws:secretsmanager:{here}:secret:saldo-{stack}/*",
                        f"arn:aws:secretsmanager:{here}:secret:AmazonMSK_saldo-{stack}/*",
                    ],
                },
                {
                    "Effect": "Allow",
                    "Action": "kms:Decrypt",
                    "Resource": f"arn:aws:kms:{here}:key/*",
                    "Condition": {
                        "StringEquals": {
                            "kms:ViaService": f"secretsmanager.{place.region}.amazonaws.com"
                        },
                        "ForAnyValue:StringLike": {"kms:ResourceAliases": f"alias/saldo-{stack}-*"},
                    },
                },
            ],
            parent=self,
        )

    def _certify_by_dns(self, hosted_zone: str, cluster: Cluster) -> PodRole:
        """Let cert-manager prove to the certificate authority that the domain is ours."""
        return pod_role(
            CERT_MANAGER,
            cluster=cluster.name,
            namespace=CERT_MANAGER,
            service_account=CERT_MANAGER,
            statements=[
                {
                    "Effect": "Allow",
                    "Action": "route53:GetChange",
                    "Resource": "arn:aws:route53:::change/*",
                },
                {
                    "Effect": "Allow",
                    "Action": "route53:ListResourceRecordSets",
                    "Resource": f"arn:aws:route53:::hostedzone/{hosted_zone}",
                },
                {
                    "Effect": "Allow",
                    "Action": "route53:ChangeResourceRecordSets",
                    "Resource": f"arn:aws:route53:::hostedzone/{hosted_zone}",
                    # Its challenges, and no other record.
                    "Condition": {
                        "ForAllValues:StringEquals": {
                            "route53:ChangeResourceRecordSetsRecordTypes": ["TXT"]
                        },
                        "ForAllValues:StringLike": {
                            "route53:ChangeResourceRecordSetsNormalizedRecordNames": [
                                "_acme-challenge.*"
                            ]
                        },
                    },
                },
            ],
            parent=self,
        )
