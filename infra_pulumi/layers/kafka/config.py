"""What every kind of Kafka has in a stack file, and the topic's settings that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra_pulumi.section import Problem, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


HOUR_MS = 3_600_000
# Two brokers cannot keep two replicas in sync while one restarts.
BROKERS_FOR_REPLICATION = 3
# One dispatcher pod may be away while its node is replaced.
CONSUMERS_PROTECTED = 2


class KafkaConfig(Section):
    """Where the facts travel."""

    partitions: int
    # Each is a dispatcher pod of its own.
    consumers: int

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        if stack.get("protected") and 1 <= self.consumers < CONSUMERS_PROTECTED:
            yield "consumers", f"must be at least {CONSUMERS_PROTECTED} in a protected stack"
        if not 1 <= self.consumers <= self.partitions:
            limit = f"must be from 1 to the {self.partitions} partitions"
            yield "consumers", f"{limit}; more would have nothing to read"


class BrokersConfig(KafkaConfig):
    """A Kafka that the program makes."""

    brokers: int
    storage_gib: int
    retention_hours: int

    @property
    def replication(self) -> int:
        """Return the number of copies of each record."""
        return min(BROKERS_FOR_REPLICATION, self.brokers)

    @property
    def min_in_sync(self) -> int:
        """Return how many copies a record needs before it is acknowledged."""
        return max(1, self.replication - 1)

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        if self.brokers < 1 or self.brokers == BROKERS_FOR_REPLICATION - 1:
            yield "brokers", "must be 1, or at least 3 (with two, a restart stops the topic)"
        if stack.get("protected") and self.brokers < BROKERS_FOR_REPLICATION:
            yield "brokers", "must be at least 3 in a protected stack"
        if self.retention_hours < 1 or self.storage_gib < 1:
            yield "", "retentionHours and storageGib must be at least 1"
        yield from super().problems(stack)


def topic_config(kafka: BrokersConfig) -> dict[str, str]:
    """Return the topic's settings, as Kafka spells them."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(kafka.retention_hours * HOUR_MS),
        # Retention goes by the broker's clock, and a recorder whose own is off is not refused.
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(kafka.min_in_sync),
    }
