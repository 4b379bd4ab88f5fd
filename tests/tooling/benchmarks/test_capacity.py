"""The capacity model, and its tables in the documents."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.capacity import RATES, Measured, plan, plan_table
from benchmarks.documents import between_marks, tables

MEASURED = Measured(
    record_us=300,
    read_us=150,
    project_us=120,
    postgres_record_us=200,
    postgres_read_us=50,
    postgres_project_us=100,
    wal_bytes=2_000,
    stored_bytes=1_500,
)


def test_documents_hold_the_tables_of_the_committed_reports() -> None:
    """`make bench-docs` writes them again."""
    for document, named in tables().items():
        text = document.read_text()
        for name, table in named.items():
            assert table in text
            assert between_marks(text, name, table) == text


def test_plan_for_1000_a_second_matches_a_calculation_by_hand() -> None:
    small = plan(MEASURED, 1_000)
    # 1,000 x 300 us are 0.3 cores, half a core at 60 %: the fewest pods are two.
    assert (small.record_pods, small.balance_pods, small.project_pods) == (2, 2, 2)
    assert (small.consumers, small.partitions) == (1, 6)
    assert small.connections == (2 + 2 * 2 + 2 * 2) * 4
    assert small.cores == pytest.approx(1_000 * 400e-6 / 0.6)
    assert small.stored_tb_a_day == pytest.approx(1_000 * 86_400 * 1_500 / 1e12)
    assert small.servers == 1


def test_pods_grow_with_the_rate_and_keep_their_headroom() -> None:
    large = plan(MEASURED, 100_000)
    assert large.record_pods == 50
    assert large.balance_pods == 50
    assert large.project_pods == 20
    assert large.consumers == 100
    assert large.partitions == 150


def test_server_limit_is_the_first_one_reached() -> None:
    by_cpu = replace(MEASURED, wal_bytes=1)
    assert by_cpu.server_max_per_s == pytest.approx(64 * 0.6 * 1e6 / 400)
    by_wal = replace(MEASURED, wal_bytes=1_000_000)
    assert by_wal.server_max_per_s == pytest.approx(150)


@pytest.mark.parametrize("per_s", RATES)
def test_every_consumer_has_a_partition(per_s: int) -> None:
    planned = plan(MEASURED, per_s)
    assert planned.partitions >= planned.consumers
    assert planned.servers * MEASURED.server_max_per_s >= per_s


def test_table_shows_the_limit_of_one_server() -> None:
    assert "reaches its limit at about 75,000 transactions a second" in plan_table(MEASURED)


def test_missing_mark_is_reported() -> None:
    with pytest.raises(ValueError, match="the marks of plan"):
        between_marks("nothing", "plan", "table")
