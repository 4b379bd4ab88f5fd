"""A new topic: `python -m local.create_topic --bootstrap ADDRESS --topic NAME --partitions N`.

For local/compose.yaml, whose Kafka creates none by itself. One that is there is kept, and given
the partitions that it lacks.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from local.broker import BrokerError, create_topic

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Create it; 1 with one line when that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m local.create_topic", description=__doc__)
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", required=True, type=int)
    parser.add_argument("--retention-ms", required=True, type=int)
    given = parser.parse_args(arguments)
    try:
        create_topic(
            given.bootstrap, given.topic, given.partitions, given.retention_ms, progress=print
        )
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.topic}: at least {given.partitions} partitions")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
