"""What the functions and the KafkaSource need to know of Kafka, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pulumi


SOURCE_SECRET = "kafka-source"
RECORDER_SECRET = "kafka-recorder"
MECHANISM = "SCRAM-SHA-512"


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaAccess:
    """What the functions and the source need to know."""

    security: Literal["msk-iam", "scram"]
    # For the recorder and for the source: MSK has a listener for each way of logging in.
    recorder_brokers: pulumi.Input[str]
    source_brokers: pulumi.Input[str]
    # Each with the keys user, password and type; the recorder needs none where it logs in by IAM.
    recorder_secret: str | None
    source_secret: str
    # Secret and key of a private authority; None where the certificates are publicly known.
    authority: tuple[str, str] | None
    ready: list[pulumi.Resource]
    # What the recorder's IAM role, and that of the Job that sets the ACLs, must allow.
    recorder_statements: list[dict[str, Any]] = field(default_factory=list)
    acl_statements: list[dict[str, Any]] = field(default_factory=list)
