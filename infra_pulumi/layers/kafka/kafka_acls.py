"""Lets the KafkaSource's user read the topic in its group, and nothing else. Run as a Job in MSK.

MSK's API knows no ACLs, and its users with a password may do nothing before there are some. This
runs in the image with the command line, whose identity may alter the cluster. It can run again.
"""

from __future__ import annotations

import os
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

TIMEOUT_S = 60


def acls(consumer: str, topic: str, group: str) -> list[AclBinding]:
    """Allow what the source does: read the topic, keep offsets in the group, delete the group."""
    return [
        AclBinding(
            kind,
            name,
            ResourcePatternType.LITERAL,
            f"User:{consumer}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for kind, name, operation in (
            (ResourceType.TOPIC, topic, AclOperation.READ),
            (ResourceType.TOPIC, topic, AclOperation.DESCRIBE),
            (ResourceType.GROUP, group, AclOperation.READ),
            (ResourceType.GROUP, group, AclOperation.DESCRIBE),
            # Knative deletes the group when the source goes.
            (ResourceType.GROUP, group, AclOperation.DELETE),
        )
    ]


def token(_config: str) -> tuple[str, float]:
    """Return a token and when it ends, in seconds; the signer says milliseconds."""
    # Imported when used: it is in the image that runs this, and in no test's environment.
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

    made, ends_ms = MSKAuthTokenProvider.generate_auth_token(os.environ["AWS_REGION"])
    return made, ends_ms / 1000


def main() -> None:
    """Make the ACLs; raises KafkaException if one is refused."""
    config: dict[str, Any] = {
        "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "OAUTHBEARER",
        "oauth_cb": token,
    }
    client = AdminClient(config)
    # The first token is made while polling.
    client.poll(1)
    wanted = acls(os.environ["CONSUMER"], os.environ["KAFKA_TOPIC"], os.environ["CONSUMER_GROUP"])
    for binding, outcome in client.create_acls(wanted, request_timeout=TIMEOUT_S).items():
        outcome.result(timeout=TIMEOUT_S)
        print(binding)


if __name__ == "__main__":
    main()
