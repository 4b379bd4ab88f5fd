"""The capacity model: from measured figures to pods, partitions, connections, disk and servers.

All measured values come from the committed reports (`make bench`, `make bench-long`). All
assumptions are constants here. The model is linear, and says where it ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.curves import read_long
from benchmarks.report import Report, read_report
from local import services

if TYPE_CHECKING:
    from pathlib import Path

REPORTS = services.ROOT / "benchmarks" / "reports"
RATES = (1_000, 100_000, 1_000_000)

# --- assumed ---------------------------------------------------------------------------------

# Balances read for each transaction.
READS_A_TRANSACTION = 2.0
# No core is planned fuller: a queue grows without bound towards 1.
BUSY_MAX = 0.6
PODS_MIN = 2
POOL_SIZE = 4
# What one consumer of Knative's real dispatcher delivered, unordered, to a sink that answers at
# once: 1,179 events a second were measured on two cores.
CONSUMER_EVENTS_PER_S = 1_000
# Partitions: room for half as many consumers again, since their number cannot shrink.
PARTITIONS_MIN, PARTITION_ROOM = 6, 1.5
# The largest server that is planned with, and what its disk takes of WAL.
SERVER_CORES = 64
SERVER_WAL_BYTES_PER_S = 250e6
# Beyond these one server's connections cost more than they carry, and a pooler stands before it.
CONNECTIONS_MAX = 2_000
DAY_S = 86_400
US, TB, MB = 1e6, 1e12, 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one process, and PostgreSQL for it, takes of CPU; microseconds and bytes."""

    record_us: float
    read_us: float
    project_us: float
    postgres_record_us: float
    postgres_read_us: float
    postgres_project_us: float
    wal_bytes: float
    stored_bytes: float

    @property
    def postgres_us(self) -> float:
        """PostgreSQL's CPU for one transaction with its reads."""
        reads = READS_A_TRANSACTION * self.postgres_read_us
        return self.postgres_record_us + self.postgres_project_us + reads

    @property
    def server_max_per_s(self) -> float:
        """Transactions a second at which one server ends, by its CPU or by its WAL."""
        by_cpu = SERVER_CORES * BUSY_MAX * US / self.postgres_us
        return min(by_cpu, SERVER_WAL_BYTES_PER_S * BUSY_MAX / self.wal_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a number of transactions a second needs."""

    per_s: int
    record_pods: int
    balance_pods: int
    project_pods: int
    partitions: int
    consumers: int
    connections: int
    cores: float
    wal_mb_per_s: float
    stored_tb_a_day: float
    servers: int


def read_measured(folder: Path = REPORTS) -> Measured:
    """Return the measured figures of the reports in ``folder``."""
    report = read_report(folder / "bench.json")
    points = [point.values for point in read_long(folder / "long.json").curve("stored").points]
    first, last = points[0], points[-1]
    # The slope, not the quotient: an empty database already has some megabytes.
    grown_mb = last["database_mb"] - first["database_mb"]
    return Measured(
        record_us=report.row("post_cpu").measured,
        read_us=report.row("get_cpu").measured,
        project_us=report.row("project_cpu").measured,
        postgres_record_us=beside(report, "post_cpu", "postgres_us"),
        postgres_read_us=beside(report, "get_cpu", "postgres_us"),
        postgres_project_us=beside(report, "project_cpu", "postgres_us"),
        wal_bytes=beside(report, "post_cpu", "wal_bytes")
        + beside(report, "project_cpu", "wal_bytes"),
        stored_bytes=grown_mb * MB / (last["stored_events"] - first["stored_events"]),
    )


def beside(report: Report, key: str, name: str) -> float:
    """Return a further value of a row; KeyError if the report has none."""
    value = report.row(key).beside(name)
    if value is None:
        raise KeyError(f"{key} has no {name}")
    return value


def plan(measured: Measured, per_s: int) -> Plan:
    """Return what ``per_s`` transactions a second need."""
    record = pods(per_s * measured.record_us)
    balance = pods(per_s * READS_A_TRANSACTION * measured.read_us)
    project = pods(per_s * measured.project_us)
    consumers = max(1, math.ceil(per_s / CONSUMER_EVENTS_PER_S))
    partitions = PARTITIONS_MIN * math.ceil(
        max(PARTITIONS_MIN, consumers * PARTITION_ROOM) / PARTITIONS_MIN
    )
    return Plan(
        per_s=per_s,
        record_pods=record,
        balance_pods=balance,
        project_pods=project,
        partitions=partitions,
        consumers=consumers,
        # The recorder reaches the event store alone; the other two reach both sides.
        connections=(record + 2 * balance + 2 * project) * POOL_SIZE,
        cores=per_s * measured.postgres_us / US / BUSY_MAX,
        wal_mb_per_s=per_s * measured.wal_bytes / MB,
        stored_tb_a_day=per_s * DAY_S * measured.stored_bytes / TB,
        servers=math.ceil(per_s / measured.server_max_per_s),
    )


def pods(us_a_second: float) -> int:
    """Return how many one-core processes give ``us_a_second`` microseconds of CPU a second."""
    return max(PODS_MIN, math.ceil(us_a_second / US / BUSY_MAX))


def measured_table(measured: Measured) -> str:
    """Format the inputs as Markdown."""
    rows = [
        ("record_transaction, CPU per transaction", f"{measured.record_us:,.0f} us"),
        ("get_balance, CPU per read", f"{measured.read_us:,.0f} us"),
        ("project_balance, CPU per event", f"{measured.project_us:,.0f} us"),
        ("PostgreSQL, CPU per recorded transaction", f"{measured.postgres_record_us:,.0f} us"),
        ("PostgreSQL, CPU per projected event", f"{measured.postgres_project_us:,.0f} us"),
        ("PostgreSQL, CPU per read", f"{measured.postgres_read_us:,.0f} us"),
        ("WAL per transaction, both sides", f"{measured.wal_bytes:,.0f} bytes"),
        ("stored per transaction, both sides with indexes", f"{measured.stored_bytes:,.0f} bytes"),
    ]
    return "\n".join(
        ["| measured | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)]
    )


def plan_table(measured: Measured) -> str:
    """Format the plans as Markdown."""
    plans = [plan(measured, per_s) for per_s in RATES]
    rows: list[tuple[str, list[str]]] = [
        ("pods of record_transaction", [f"{p.record_pods:,}" for p in plans]),
        ("pods of get_balance", [f"{p.balance_pods:,}" for p in plans]),
        ("pods of project_balance", [f"{p.project_pods:,}" for p in plans]),
        ("consumers of KafkaSource", [f"{p.consumers:,}" for p in plans]),
        ("partitions of the topic", [f"{p.partitions:,}" for p in plans]),
        ("connections, both sides", [f"{p.connections:,}" for p in plans]),
        ("cores of PostgreSQL", [f"{p.cores:,.1f}" for p in plans]),
        ("WAL", [f"{p.wal_mb_per_s:,.0f} MB/s" for p in plans]),
        ("database growth per day", [f"{p.stored_tb_a_day:,.2f} TB" for p in plans]),
        ("PostgreSQL servers", [f"{p.servers:,}" for p in plans]),
    ]
    head = "| | " + " | ".join(f"{p.per_s:,}/s" for p in plans) + " |"
    rule = "|---|" + "---|" * len(plans)
    body = [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows]
    end = (
        f"One PostgreSQL server of {SERVER_CORES} cores reaches its limit at about "
        f"{measured.server_max_per_s:,.0f} transactions a second."
    )
    return "\n".join([head, rule, *body, "", end])
