"""Saldo, from nothing to a URL: the inventory of a stack. Each layer is in a file of its own.

Two shapes. In ``aws`` the program makes the network and the cluster; in ``cluster`` it takes any
Kubernetes. Operators, Knative, Kafka and PostgreSQL it makes too, or takes those that are there.
What stands on them is the same. docs/deploy.md says how to bring a stack up, change it and take it
down.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pulumi

# Pulumi runs this file by its path; the layers are imported as a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from infra_pulumi.layers.certificates import Certificates
from infra_pulumi.layers.database.existing import ExistingDatabaseConfig, existing_database
from infra_pulumi.layers.database.postgres_pod import PostgresPod, PostgresPodConfig
from infra_pulumi.layers.database.rds import Rds, RdsConfig
from infra_pulumi.layers.edge import Edge
from infra_pulumi.layers.eks.cluster import Cluster, kubeconfig_cluster
from infra_pulumi.layers.functions.dependencies import Dependencies
from infra_pulumi.layers.functions.functions import Functions
from infra_pulumi.layers.isolation import Isolation
from infra_pulumi.layers.kafka.existing import ExistingKafkaConfig, existing_kafka
from infra_pulumi.layers.kafka.msk import Msk, MskConfig
from infra_pulumi.layers.kafka.strimzi import Strimzi, StrimziConfig
from infra_pulumi.layers.knative import Knative
from infra_pulumi.layers.network import Network, in_account
from infra_pulumi.layers.observability import Observability
from infra_pulumi.layers.operators import Operators
from infra_pulumi.layers.registry import Registry
from infra_pulumi.layers.secrets import Secrets
from infra_pulumi.layers.source_tokens import eks_identity, kubernetes_identity, named_identity
from infra_pulumi.parts import TOPIC
from infra_pulumi.pulumi_config import read_stack

if TYPE_CHECKING:
    import pulumi_kubernetes as k8s

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.eks.cluster import EksConfig
    from infra_pulumi.layers.network import AwsConfig

TOP = pulumi.ResourceOptions()


def aws_stack(stack: Stack, place: AwsConfig, eks: EksConfig, hosted_zone: str) -> Dependencies:
    """Make everything in AWS, from the network up, and return what the functions stand on."""
    opts = in_account(place)
    registry = Registry("registry", stack, place, opts)
    network = Network("network", stack, place, opts)
    cluster = Cluster("cluster", stack, place, eks, network, opts)
    provider = cluster.provider
    isolation = Isolation("isolation", stack, provider, network.data_cidrs, TOP)
    operators = Operators("operators", stack, provider, isolation, cluster, opts)
    secrets = Secrets("secrets", stack, provider, operators, isolation, opts)
    certificates = Certificates("certificates", stack, provider, operators, isolation, TOP)
    match stack.kafka:
        case MskConfig() as msk:
            kafka = Msk("kafka", stack, msk, place, network, cluster, secrets, opts).access
        case StrimziConfig() as strimzi:
            kafka = Strimzi("kafka", stack, strimzi, provider, operators, secrets, TOP).access
        case ExistingKafkaConfig() as theirs:
            kafka = existing_kafka(theirs, cluster)
    match stack.database:
        case RdsConfig() as rds:
            database = Rds(
                "database", stack, rds, place, network, cluster, secrets, isolation, opts
            ).access
        case ExistingDatabaseConfig() as their:
            database = existing_database(their, secrets, cluster)
        case PostgresPodConfig():
            raise AssertionError("its section refuses the shape aws")
    knative = knative_of(stack, provider, operators)
    Edge("edge", stack, hosted_zone, network, cluster, knative, opts)
    observability = Observability("observability", provider, isolation, TOP)
    pulumi.export("repositories", registry.urls)
    pulumi.export("cluster", cluster.name)
    pulumi.export("dashboards", observability.names)
    return Dependencies(
        stack=stack,
        provider=provider,
        database=database,
        kafka=kafka,
        certificates=certificates,
        sources=eks_identity(cluster),
        hash_secret=secrets.hash_key(),
        ready=[isolation, *knative],
        cluster=cluster,
        opts=opts,
    )


def cluster_stack(stack: Stack, context: str) -> Dependencies:
    """Make what runs in a cluster that is there already, and return what the functions stand on."""
    provider = kubeconfig_cluster(context)
    isolation = Isolation("isolation", stack, provider, [], TOP)
    operators = Operators("operators", stack, provider, isolation, None, TOP)
    secrets = Secrets("secrets", stack, provider, operators, isolation, TOP)
    certificates = Certificates("certificates", stack, provider, operators, isolation, TOP)
    match stack.kafka:
        case StrimziConfig() as strimzi:
            kafka = Strimzi("kafka", stack, strimzi, provider, operators, secrets, TOP).access
        case ExistingKafkaConfig() as theirs:
            kafka = existing_kafka(theirs, None)
        case MskConfig():
            raise AssertionError("its section refuses the shape cluster")
    match stack.database:
        case PostgresPodConfig() as pod:
            database = PostgresPod(
                "database", stack, pod, provider, secrets, certificates, isolation, TOP
            ).access
        case ExistingDatabaseConfig() as their:
            database = existing_database(their, secrets, None)
        case RdsConfig():
            raise AssertionError("its section refuses the shape cluster")
    knative = knative_of(stack, provider, operators)
    observability = Observability("observability", provider, isolation, TOP)
    pulumi.export("dashboards", observability.names)
    return Dependencies(
        stack=stack,
        provider=provider,
        database=database,
        kafka=kafka,
        certificates=certificates,
        sources=(
            kubernetes_identity("sources", provider)
            if stack.sources is None
            else named_identity(stack.sources)
        ),
        hash_secret=secrets.hash_key(),
        ready=[isolation, *knative],
        cluster=None,
        opts=TOP,
    )


def knative_of(stack: Stack, provider: k8s.Provider, operators: Operators) -> list[pulumi.Resource]:
    """Return what whatever is of Knative's kinds waits for; nothing if it is there already."""
    if stack.knative is None:
        return []
    consumers = stack.kafka.consumers
    return Knative("knative", stack.knative, consumers, provider, operators, TOP).ready


STACK = read_stack()
if STACK.aws is not None and STACK.eks is not None and STACK.edge.hosted_zone is not None:
    deps = aws_stack(STACK, STACK.aws, STACK.eks, STACK.edge.hosted_zone)
else:
    deps = cluster_stack(STACK, STACK.context or "")
pulumi.export("topic", TOPIC)
if STACK.images is None:
    pulumi.log.warn(
        "saldo:images is pending: no function is deployed."
        " Run `make images-push`, put the digests it prints there, and `pulumi up` again."
    )
else:
    functions = Functions("functions", STACK.images, deps)
    pulumi.export("urls", functions.urls)
