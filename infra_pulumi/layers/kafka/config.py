"""Kafka in a stack file, and the topic's settings that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from infra_pulumi.section import Problem, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.config import Stack


HOUR_MS = 3_600_000
# Two brokers cannot keep two replicas in sync while one restarts.
BROKERS_FOR_REPLICATION = 3
# One dispatcher pod may be away while its node is replaced.
CONSUMERS_PROTECTED = 2


class KafkaConfig(Section):
    """Where the facts travel."""

    kind: Literal["msk", "strimzi"]
    brokers: int
    storage_gib: int
    partitions: int
    # Each is a dispatcher pod of its own.
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
        if stack.get("protected") and 1 <= self.consumers < CONSUMERS_PROTECTED:
            yield "consumers", f"must be at least {CONSUMERS_PROTECTED} in a protected stack"
        if self.kind == "msk" and aws_config and self.brokers % len(aws_config.zones):
            yield "brokers", "must be a multiple of the number of zones"
        if not 1 <= self.consumers <= self.partitions:
            limit = f"must be from 1 to the {self.partitions} partitions"
            yield "consumers", f"{limit}; more would have nothing to read"
        if self.retention_hours < 1 or self.storage_gib < 1:
            yield "", "retentionHours and storageGib must be at least 1"


def topic_config(stack: Stack) -> dict[str, str]:
    """Return the topic's settings, as Kafka spells them."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(stack.kafka.retention_hours * HOUR_MS),
        # Retention goes by the broker's clock, and a recorder whose own is off is not refused.
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(stack.kafka.min_in_sync),
    }
