"""The sweeps' notes on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saldo.operate.verification.findings import CLOCK_AHEAD_MAX, Fault
from saldo.project.postgres import ERASURE_SWEEP, LAG_SWEEP
from saldo.record.outbox import OUTBOX_SWEEP

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

STORE_SWEEPS = "SELECT name, swept_at, found FROM event_store.sweep"
MODEL_SWEEPS = """
SELECT name, swept_at, found, watermark, lag_positions, lag_s FROM read_model.sweep
"""
NEWEST = "SELECT max(appended_at) FROM event_store.event"
STANDS_ON_EVENT = "SELECT EXISTS (SELECT FROM event_store.event WHERE appended_at = $1)"


async def check_sweeps(
    event_store: asyncpg.Connection[asyncpg.Record],
    read_model: asyncpg.Connection[asyncpg.Record],
    now: datetime,
) -> tuple[list[Fault], list[str]]:
    """Return faults and notes."""
    faults: list[Fault] = []
    notes: list[str] = []
    for row in await event_store.fetch(STORE_SWEEPS):
        faults += _sweep_faults("event_store.sweep", row, {OUTBOX_SWEEP}, now)
    newest = await event_store.fetchval(NEWEST)
    for row in await read_model.fetch(MODEL_SWEEPS):
        faults += _sweep_faults("read_model.sweep", row, {LAG_SWEEP, ERASURE_SWEEP}, now)
        watermark = row["watermark"]
        if watermark > now + CLOCK_AHEAD_MAX:
            reason = "it is in the future: the next sweep sets it right"
            faults.append(Fault("read_model.sweep", "watermark", reason))
        elif row["name"] == ERASURE_SWEEP:
            continue
        elif newest is None or watermark > newest:
            notes.append("the lag sweep's watermark is beyond the newest event: a restored store?")
        elif newest <= now and not await event_store.fetchval(STANDS_ON_EVENT, watermark):
            reason = "no event was appended at that time"
            faults.append(Fault("read_model.sweep", "watermark", reason))
    return faults, notes


def _sweep_faults(table: str, row: asyncpg.Record, names: set[str], now: datetime) -> list[Fault]:
    if row["name"] not in names:
        return [Fault(table, "name", f"{row['name']!r} is no sweep of this version")]
    if row["swept_at"] > now + CLOCK_AHEAD_MAX:
        return [Fault(table, "swept_at", "it is in the future")]
    return [
        Fault(table, column, "it is negative")
        for column, value in row.items()
        if column in {"found", "lag_positions", "lag_s"} and value < 0
    ]
