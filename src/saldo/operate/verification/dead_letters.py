"""The dead letters: each as the event store has it, or as its attributes say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from saldo.operate.verification.findings import CLOCK_AHEAD_MAX, NO_EVENT, Fault
from saldo.project.dead_letters import DATA_CHARACTERS_MAX, parked_id, reason_of, sequence_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import asyncpg

ROWS_MAX = 100_000
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


async def check_dead_letters(
    event_store: asyncpg.Connection[asyncpg.Record],
    read_model: asyncpg.Connection[asyncpg.Record],
    now: datetime,
) -> tuple[list[Fault], list[str]]:
    """Return faults and notes."""
    letters = await read_model.fetch(DEAD_LETTERS, ROWS_MAX)
    faults = await _letter_faults(event_store, letters, now)
    waiting = sum(row["redriven_at"] is None for row in letters)
    notes = [f"{waiting} dead letters wait: see saldo dead-letters list"] if waiting else []
    return faults, notes


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
                Fault("dead_letter", wrong[0], wrong[1], row["account_id"] or None, row["position"])
            )
    return faults


def _letter_fault(
    row: asyncpg.Record, event: asyncpg.Record | None, now: datetime
) -> tuple[str, str] | None:
    """Return the wrong column of a dead letter and why, or None.

    One that the projector parked itself has no attributes and must be as the event store has it;
    one that was delivered must be as its own attributes say.
    """
    for column in ("received_at", "redriven_at"):
        if row[column] is not None and row[column] > now + CLOCK_AHEAD_MAX:
            return column, "it is in the future"
    attributes = json.loads(row["attributes"])
    if attributes:
        return _delivered_fault(row, attributes)
    if event is None:
        return "position", NO_EVENT
    if row["event_id"] != str(event["event_id"]):
        return "event_id", "the store has another event at this position"
    if row["data"] != event["public_text"]:
        return "data", "it is not the event's public_text"
    return None


def _delivered_fault(row: asyncpg.Record, attributes: Mapping[str, str]) -> tuple[str, str] | None:
    if row["account_id"] not in {attributes.get("subject") or "", ""}:
        return "account_id", "it is not the attributes' subject"
    # The bare id is how earlier versions parked an event of another source.
    if row["event_id"] not in {parked_id(attributes), attributes.get("id", "")}:
        return "event_id", "it is not the attributes' id"
    if row["position"] != sequence_of(attributes):
        return "position", "it is not the attributes' sequence"
    if not reason_of(attributes).startswith(row["reason"]):
        return "reason", "it is not what the attributes say"
    return _data_fault(row["data"], attributes)


def _data_fault(data: str | None, attributes: Mapping[str, str]) -> tuple[str, str] | None:
    if data is None or len(data) == DATA_CHARACTERS_MAX:  # nothing, or cut off
        return None
    try:
        event = json.loads(data)
    except ValueError:
        return "data", "it is not JSON"
    # What is parked of a record that is not Saldo's may be of any form.
    if isinstance(event, dict) and event.get("id") != attributes.get("id"):
        return "data", "it is of another event than the attributes"
    return None
