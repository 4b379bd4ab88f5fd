"""Kafka that is there already, with its topic and a user for Saldo."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator

from infra_pulumi.layers.existing import (
    HOST,
    PORT_MAX,
    Address,
    Cidrs,
    SecretName,
    unreachable,
    ways,
)
from infra_pulumi.layers.kafka.access import KafkaAccess
from infra_pulumi.layers.kafka.config import KafkaConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.layers.eks.cluster import Cluster
    from infra_pulumi.layers.isolation import Way
    from infra_pulumi.section import Problem

_BROKER = re.compile(rf"({HOST}):(\d+)")


def _brokers(bootstrap: str) -> str:
    for broker in bootstrap.split(","):
        found = _BROKER.fullmatch(broker)
        if found is None or not 1 <= int(found[3]) <= PORT_MAX:
            message = f"'{broker}' is not host:port; separate several by commas, without spaces"
            raise ValueError(message)
    return bootstrap


class ExistingKafkaConfig(KafkaConfig):
    """Kafka that is there already. Its topic, its user and their rights are not the program's."""

    kind: Literal["existing"]
    bootstrap: Annotated[str, AfterValidator(_brokers)]
    # TLS and SCRAM-SHA-512: what both the recorder and the KafkaSource can.
    security: Literal["scram"]
    # In Saldo's namespace, with the keys user, password and type.
    secret: SecretName
    # The key in it that holds the authority behind the brokers' certificates; None if public.
    authority: str | None = None
    # The brokers' networks, if they are outside the cluster.
    cidrs: Cidrs = ()
    partitions: int = 12
    consumers: int = 1

    @property
    def addresses(self) -> list[Address]:
        """Return the brokers' hosts and ports."""
        brokers = [broker.rpartition(":") for broker in self.bootstrap.split(",")]
        return [(host, int(port)) for host, _, port in brokers]

    @property
    def ways(self) -> list[Way]:
        """Return what the recorder's policy lets through."""
        return ways(self.addresses, self.cidrs)

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        yield from unreachable(stack, self.addresses, self.cidrs)
        yield from super().problems(stack)


def existing_kafka(config: ExistingKafkaConfig, cluster: Cluster | None) -> KafkaAccess:
    """Return what the functions need of it; nodes of EKS may call it from here on."""
    if cluster is not None:
        cluster.allow_out("nodes-to-kafka", config.addresses, config.cidrs)
    return KafkaAccess(
        security="scram",
        recorder_brokers=config.bootstrap,
        source_brokers=config.bootstrap,
        recorder_secret=config.secret,
        source_secret=config.secret,
        authority=None if config.authority is None else (config.secret, config.authority),
        ready=[],
    )
