"""Saldo, from nothing to a URL: the inventory of a stack. Each layer is in a file of its own.

Two shapes. In ``aws`` the program makes the network, the cluster, Kafka and the database; in
``cluster`` it takes any Kubernetes and runs Kafka and PostgreSQL in it. What stands on them is the
same. docs/deploy.md says how to bring a stack up, change it and take it down.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pulumi
import pulumi_aws as aws
import pulumi_random as random

# Pulumi runs this file by its path; the layers are imported as a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from infra_pulumi.certificates import Certificates
from infra_pulumi.cluster import Cluster, kubeconfig_cluster
from infra_pulumi.database import DatabaseAccess, PostgresPod, Rds
from infra_pulumi.edge import Edge
from infra_pulumi.functions import HASH_SECRET, Functions, Surroundings
from infra_pulumi.isolation import Isolation
from infra_pulumi.kafka import KafkaAccess, Msk, Strimzi
from infra_pulumi.knative import Knative
from infra_pulumi.network import Network
from infra_pulumi.observability import Observability
from infra_pulumi.operators import Operators
from infra_pulumi.parts import TOPIC
from infra_pulumi.registry import Registry
from infra_pulumi.secrets import Secrets
from infra_pulumi.settings import read_stack
from infra_pulumi.sources import SourcesIdentity, eks_identity, kubernetes_identity

if TYPE_CHECKING:
    from infra_pulumi.cluster import EksConfig
    from infra_pulumi.config import Stack
    from infra_pulumi.network import AwsConfig

# Keys the hashes of idempotency keys and of account ids in logs: bytes.
HASH_SECRET_BYTES = 32
TOP = pulumi.ResourceOptions()


def aws_stack(stack: Stack, place: AwsConfig, eks: EksConfig, hosted_zone: str) -> None:
    """Everything, from the network up."""
    here = aws.Provider(
        "aws",
        region=place.region,
        # In any other account the preview stops.
        allowed_account_ids=[place.account],
        default_tags={"tags": {"project": "saldo", "stack": pulumi.get_stack()}},
    )
    opts = pulumi.ResourceOptions(providers={"aws": here})
    registry = Registry("registry", stack, place, opts)
    network = Network("network", stack, place, opts)
    cluster = Cluster("cluster", stack, place, eks, network, opts)
    isolation = Isolation("isolation", stack, cluster.provider, network.data_cidrs, TOP)
    operators = Operators("operators", stack, cluster.provider, isolation, cluster, opts)
    secrets = Secrets("secrets", stack, cluster.provider, operators, isolation, opts)
    certificates = Certificates("certificates", stack, cluster.provider, operators, isolation, TOP)
    kafka = (
        Msk("kafka", stack, place, network, cluster, secrets, opts).access
        if stack.kafka.kind == "msk"
        else Strimzi("kafka", stack, cluster.provider, operators, secrets, TOP).access
    )
    database = Rds("database", stack, place, network, cluster, secrets, isolation, opts).access
    knative = Knative("knative", stack, cluster.provider, operators, TOP)
    Edge("edge", stack, hosted_zone, network, cluster, knative, opts)
    key = random.RandomBytes(
        "hash", length=HASH_SECRET_BYTES, opts=pulumi.ResourceOptions(protect=stack.protected)
    )
    kept = secrets.store("hash", key.hex, path=f"saldo-{pulumi.get_stack()}/hash")
    hash_secret = secrets.deliver(HASH_SECRET, kept.secret_arn, {"hex": "{{ .value }}"})
    pulumi.export("repositories", registry.urls)
    pulumi.export("cluster", cluster.name)
    finish(
        stack,
        Surroundings(
            provider=cluster.provider,
            database=database,
            kafka=kafka,
            certificates=certificates,
            sources=eks_identity(cluster),
            hash_secret=hash_secret,
            ready=[isolation, *knative.ready],
            cluster=cluster,
        ),
        isolation,
        opts,
    )


def cluster_stack(stack: Stack, context: str) -> None:
    """What runs in a cluster that is there already."""
    provider = kubeconfig_cluster(context)
    isolation = Isolation("isolation", stack, provider, [], TOP)
    operators = Operators("operators", stack, provider, isolation, None, TOP)
    secrets = Secrets("secrets", stack, provider, operators, isolation, TOP)
    certificates = Certificates("certificates", stack, provider, operators, isolation, TOP)
    kafka: KafkaAccess = Strimzi("kafka", stack, provider, operators, secrets, TOP).access
    database: DatabaseAccess = PostgresPod(
        "database", stack, provider, secrets, certificates, isolation, TOP
    ).access
    knative = Knative("knative", stack, provider, operators, TOP)
    # Sixty-four hexadecimal digits: the hash of a secret is as hard to guess as the secret.
    hash_secret = secrets.generate(
        HASH_SECRET, {"hex": "{{ .password | sha256sum }}"}, fields=["password"]
    )
    identity: SourcesIdentity = kubernetes_identity("sources", provider)
    finish(
        stack,
        Surroundings(
            provider=provider,
            database=database,
            kafka=kafka,
            certificates=certificates,
            sources=identity,
            hash_secret=hash_secret,
            ready=[isolation, *knative.ready],
            cluster=None,
        ),
        isolation,
        TOP,
    )


def finish(
    stack: Stack, around: Surroundings, isolation: Isolation, opts: pulumi.ResourceOptions
) -> None:
    """What both shapes end in: the functions, the dashboards, and where to look."""
    if stack.images is None:
        pulumi.log.warn(
            "saldo:images is pending: no function is deployed."
            " Run `make images-push`, put the digests it prints there, and `pulumi up` again."
        )
    else:
        functions = Functions("functions", stack, stack.images, around, opts)
        pulumi.export("urls", functions.urls)
    observability = Observability("observability", around.provider, isolation, TOP)
    pulumi.export("topic", TOPIC)
    pulumi.export("dashboards", observability.names)


STACK = read_stack()
if STACK.aws is not None and STACK.eks is not None and STACK.edge.hosted_zone is not None:
    aws_stack(STACK, STACK.aws, STACK.eks, STACK.edge.hosted_zone)
else:
    cluster_stack(STACK, STACK.context or "")
