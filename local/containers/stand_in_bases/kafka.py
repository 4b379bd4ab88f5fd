"""The entry point of saldo-base/kafka: what apache/kafka does with the same settings.

Standard library only; it runs in a container, by itself. KAFKA_NODE_ID and the like become node.id
and so on, CLUSTER_ID formats the log directory once.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CONFIG = Path("/tmp/server.properties")  # noqa: S108 - the container's own
NOT_PROPERTIES = {"KAFKA_HEAP_OPTS", "KAFKA_JVM_PERFORMANCE_OPTS", "KAFKA_OPTS"}


def main() -> None:
    """Write the properties, format the log directory if it is new, then become the broker."""
    properties = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in os.environ.items()
        if name.startswith("KAFKA_") and name not in NOT_PROPERTIES
    }
    CONFIG.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    java = ["/opt/java/bin/java", *Path("/opt/flags").read_text().splitlines()]
    java += ["-cp", "/opt/kafka/*", "-Dlog4j2.configurationFile=/opt/log4j2.properties"]
    if not (Path(properties["log.dirs"]) / "meta.properties").exists():
        cluster = os.environ["CLUSTER_ID"]
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format"]
            + ["--cluster-id", cluster, "--config", str(CONFIG)],
            check=True,
        )
    os.execv(java[0], [*java, "kafka.Kafka", str(CONFIG)])  # noqa: S606


if __name__ == "__main__":
    main()
