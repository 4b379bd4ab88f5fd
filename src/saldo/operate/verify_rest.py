"""Verifying what belongs to no account's chain: the outbox, the sweeps' notes, the dead letters."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import TYPE_CHECKING

from saldo.operate.verify_account import Fault
from saldo.project.sweep import LAG_SWEEP
from saldo.record.outbox import CLAIM_S, OUTBOX_SWEEP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import asyncpg

# The databases' clocks may differ by so much; nothing is stamped later than this.
AHEAD_MAX = timedelta(seconds=60)
TABLE_ROWS_MAX = 100_000

OUTBOX = """
SELECT o.account_id, o.position, o.appended_at, o.claimed_until, e.position IS NULL AS orphan
FROM event_store.outbox AS o
LEFT JOIN event_store.event AS e ON e.account_id = o.account_id AND e.position = o.position
WHERE e.position IS NULL OR o.appended_at > $1 OR o.claimed_until > $1
ORDER BY o.account_id, o.position LIMIT $2
"""
STORE_SWEEPS = "SELECT name, swept_at, found FROM event_store.sweep"
MODEL_SWEEPS = "SELECT name, swept_at, found, watermark FROM read_model.sweep"
NEWEST = "SELECT max(appended_at) FROM event_store.event"
STANDS_ON_EVENT = "SELECT EXISTS (SELECT FROM event_store.event WHERE appended_at = $1)"
DEAD_LETTERS = """
SELECT dead_letter_id, account_id, event_id, position, reason, attributes, data, received_at,
       redriven_at
FROM read_model.dead_letter ORDER BY account_id, event_id LIMIT $1
"""
TEXTS = """
SELECT e.account_id, e.position, e.event_id, e.public_text
FROM unnest($1::text[], $2::bigint[]) AS d (account_id, position)
JOIN event_store.event AS e ON e.account_id = d.account_id AND e.position = d.position
"""


async def check_outbox(
    event_store: asyncpg.Connection[asyncpg.Record], now: datetime
) -> list[Fault]:
    """Rows of no event, and rows whose times keep every sweep from sending them."""
    faults = []
    latest = now + timedelta(seconds=CLAIM_S) + AHEAD_MAX
    for row in await event_store.fetch(OUTBOX, latest, TABLE_ROWS_MAX):
        if row["orphan"]:
            column, reason = "position", "the store has no such event"
        elif row["appended_at"] > latest:
            column, reason = "appended_at", "it is in the future: no sweep sends the row"
        else:
            column, reason = "claimed_until", "no claim lasts so long: no sweep sends the row"
        faults.append(
            Fault(
                account_id=row["account_id"],
                position=row["position"],
                table="outbox",
                column=column,
                reason=reason,
            )
        )
    return faults


async def check_rest(
    event_store: asyncpg.Connection[asyncpg.Record],
    read_model: asyncpg.Connection[asyncpg.Record],
    now: datetime,
) -> tuple[list[Fault], list[str]]:
    """Faults and notes of the sweeps and the dead letters."""
    faults: list[Fault] = []
    notes: list[str] = []
    for row in await event_store.fetch(STORE_SWEEPS):
        faults += _sweep_faults("event_store.sweep", row, OUTBOX_SWEEP, now)
    newest = await event_store.fetchval(NEWEST)
    for row in await read_model.fetch(MODEL_SWEEPS):
        faults += _sweep_faults("read_model.sweep", row, LAG_SWEEP, now)
        watermark = row["watermark"]
        if watermark > now + AHEAD_MAX:
            reason = "it is in the future: events until then are not swept"
            faults.append(Fault(table="read_model.sweep", column="watermark", reason=reason))
        elif newest is None or watermark > newest:
            notes.append("the lag sweep's watermark is beyond the newest event: a restored store?")
        elif not await event_store.fetchval(STANDS_ON_EVENT, watermark):
            reason = "no event was appended at that time"
            faults.append(Fault(table="read_model.sweep", column="watermark", reason=reason))
    letters = await read_model.fetch(DEAD_LETTERS, TABLE_ROWS_MAX)
    faults += await _letter_faults(event_store, letters, now)
    waiting = sum(row["redriven_at"] is None for row in letters)
    if waiting:
        notes.append(f"{waiting} dead letters wait: see saldo dead-letters list")
    return faults, notes


def _sweep_faults(table: str, row: asyncpg.Record, name: str, now: datetime) -> list[Fault]:
    if row["name"] != name:
        reason = f"{row['name']!r} is no sweep of this version"
        return [Fault(table=table, column="name", reason=reason)]
    if row["swept_at"] > now + AHEAD_MAX:
        return [Fault(table=table, column="swept_at", reason="it is in the future")]
    if row["found"] < 0:
        return [Fault(table=table, column="found", reason="it is negative")]
    return []


async def _letter_faults(
    event_store: asyncpg.Connection[asyncpg.Record],
    letters: Sequence[asyncpg.Record],
    now: datetime,
) -> list[Fault]:
    placed = [row for row in letters if row["position"] is not None]
    events = {
        (row["account_id"], row["position"]): row
        for row in await event_store.fetch(
            TEXTS, [r["account_id"] for r in placed], [r["position"] for r in placed]
        )
    }
    faults = []
    for row in letters:
        wrong = _letter_fault(row, events.get((row["account_id"], row["position"])), now)
        if wrong is not None:
            faults.append(
                Fault(
                    account_id=row["account_id"] or None,
                    position=row["position"],
                    table="dead_letter",
                    column=wrong[0],
                    reason=wrong[1],
                )
            )
    return faults


def _letter_fault(
    row: asyncpg.Record, event: asyncpg.Record | None, now: datetime
) -> tuple[str, str] | None:
    """The wrong column of a dead letter and why, or None.

    One that the projector parked itself has no attributes and must be as the event store has it;
    one that was delivered must be as its own attributes say.
    """
    for column in ("received_at", "redriven_at"):
        if row[column] is not None and row[column] > now + AHEAD_MAX:
            return column, "it is in the future"
    attributes = json.loads(row["attributes"])
    if attributes:
        return _delivered_fault(row, attributes)
    if event is None:
        return "position", "the store has no such event"
    if row["event_id"] != str(event["event_id"]):
        return "event_id", "the store has another event at this position"
    if row["data"] != event["public_text"]:
        return "data", "it is not the event's public_text"
    return None


def _delivered_fault(row: asyncpg.Record, attributes: Mapping[str, str]) -> tuple[str, str] | None:
    if row["account_id"] not in {attributes.get("subject") or "", ""}:
        return "account_id", "it is not the attributes' subject"
    if row["event_id"] != (attributes.get("id") or "")[:255]:
        return "event_id", "it is not the attributes' id"
    if row["position"] is not None and str(row["position"]) != attributes.get("sequence"):
        return "position", "it is not the attributes' sequence"
    code = attributes.get("knativeerrorcode") or "no answer"
    try:
        answer = base64.b64decode(attributes.get("knativeerrordata") or "")
    except ValueError:
        answer = b""
    text = f"{code} {answer.decode('utf-8', 'replace')}".replace("\0", "").strip()
    if not text.startswith(row["reason"]):
        return "reason", "it is not what the attributes say"
    if row["data"] is not None and attributes.get("id"):
        event = json.loads(row["data"]) if row["data"].endswith("}") else None
        if event is not None and event.get("id") != attributes["id"]:
            return "data", "it is of another event than the attributes"
    return None
