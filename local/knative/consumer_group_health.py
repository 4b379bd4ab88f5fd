"""The health of KafkaSource: whether its consumer group has members, all with partitions.

It has no port that could be asked; what it is to Kafka is what counts.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_S = 5.0  # short: the health check asks again


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the group is stable, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="python -m local.knative.consumer_group_health", description=__doc__
    )
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT")
    parser.add_argument("--group", required=True)
    given = parser.parse_args(arguments)
    admin = AdminClient({"bootstrap.servers": given.bootstrap, "log_level": 0})
    try:
        asked = admin.describe_consumer_groups([given.group], request_timeout=TIMEOUT_S)
        found = asked[given.group].result(TIMEOUT_S)
    except (KafkaException, TimeoutError) as error:
        print(f"{given.group}: {error}", file=sys.stderr)
        return 1
    return 0 if found.state == ConsumerGroupState.STABLE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
