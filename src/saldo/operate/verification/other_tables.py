"""The tables beside the accounts: outbox, sweeps, dead letters, and erasures of no event.

Each statement returns the wrong rows of its table, with the column and the reason.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

from saldo.operate.verification.account import STAMPS_APART_MAX
from saldo.operate.verification.findings import CLOCK_AHEAD_MAX, NO_EVENT, Fault
from saldo.project.dead_letters import DATA_CHARACTERS_MAX, parked_id, reason_of, sequence_of
from saldo.project.postgres import ERASURE_SWEEP, LAG_SWEEP
from saldo.record.postgres import CLAIM_S, OUTBOX_SWEEP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

ROWS_MAX = 100_000
TRACEPARENT = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"

OUTBOX = """
SELECT wrong."column", wrong.reason, o.account_id, o.position
FROM event_store.outbox AS o
LEFT JOIN event_store.event AS e ON e.account_id = o.account_id AND e.position = o.position
CROSS JOIN LATERAL (
    SELECT "column", reason FROM (VALUES
        (1, e.position IS NULL, 'position', 'the store has no such event'),
        (2, o.erased AND e.private_text IS NOT NULL, 'erased',
         'the event was not erased: the row stays'),
        (3, o.appended_at > $1, 'appended_at', 'it is in the future'),
        (4, o.appended_at + $2::interval < e.appended_at, 'appended_at',
         'it is before the event''s'),
        (5, o.claimed_until > $1, 'claimed_until', 'no claim lasts so long'),
        (6, o.traceparent !~ $3, 'traceparent', 'it is no trace context')
    ) AS c (rank, is_wrong, "column", reason) WHERE is_wrong ORDER BY rank LIMIT 1
) AS wrong
ORDER BY o.account_id, o.position LIMIT $4
"""
ERASURES = """
SELECT DISTINCT ON (account_id) 'position' AS "column", 'the store has no such event' AS reason,
       account_id, position
FROM event_store.erasure AS t
WHERE NOT EXISTS (SELECT FROM event_store.event AS e
                  WHERE e.account_id = t.account_id AND e.position = t.position)
ORDER BY account_id, position LIMIT $1
"""
STORE_SWEEPS = """
SELECT "column", reason, NULL AS account_id, NULL::bigint AS position
FROM event_store.sweep CROSS JOIN LATERAL (VALUES
    (name <> ALL ($1::text[]), 'name', name || ' is no sweep of this version'),
    (swept_at > $2, 'swept_at', 'it is in the future'),
    (found < 0, 'found', 'it is negative')
) AS c (is_wrong, "column", reason) WHERE is_wrong
"""
MODEL_SWEEPS = """
SELECT "column", reason, NULL AS account_id, NULL::bigint AS position
FROM read_model.sweep CROSS JOIN LATERAL (VALUES
    (name <> ALL ($1::text[]), 'name', name || ' is no sweep of this version'),
    (swept_at > $2, 'swept_at', 'it is in the future'),
    (watermark > $2, 'watermark', 'it is in the future: the next sweep sets it right'),
    (found < 0, 'found', 'it is negative'),
    (lag_positions < 0, 'lag_positions', 'it is negative'),
    (lag_s < 0, 'lag_s', 'it is negative')
) AS c (is_wrong, "column", reason) WHERE is_wrong
"""
LAG_WATERMARK = "SELECT watermark FROM read_model.sweep WHERE name = $1 AND watermark <= $2"
NEWEST = "SELECT max(appended_at) FROM event_store.event"
STANDS_ON_EVENT = "SELECT EXISTS (SELECT FROM event_store.event WHERE appended_at = $1)"
DEAD_LETTERS = """
SELECT account_id, event_id, position, reason, attributes, data, received_at, redriven_at
FROM read_model.dead_letter ORDER BY account_id, event_id LIMIT $1
"""
TEXTS = """
SELECT e.account_id, e.position, e.event_id, e.public_text
FROM unnest($1::text[], $2::bigint[]) AS d (account_id, position)
JOIN event_store.event AS e ON e.account_id = d.account_id AND e.position = d.position
"""


async def check_other_tables(
    event_store: Connection, read_model: Connection, now: datetime
) -> tuple[list[Fault], list[str]]:
    """Return the faults of these tables, and notes."""
    latest = now + CLOCK_AHEAD_MAX
    claimed = latest + timedelta(seconds=CLAIM_S)
    sweeps = [LAG_SWEEP, ERASURE_SWEEP]
    found = {
        "outbox": await event_store.fetch(OUTBOX, claimed, STAMPS_APART_MAX, TRACEPARENT, ROWS_MAX),
        "erasure": await event_store.fetch(ERASURES, ROWS_MAX),
        "event_store.sweep": await event_store.fetch(STORE_SWEEPS, [OUTBOX_SWEEP], latest),
        "read_model.sweep": await read_model.fetch(MODEL_SWEEPS, sweeps, latest),
    }
    faults = [Fault(table, *row) for table, rows in found.items() for row in rows]
    notes: list[str] = []
    watermark = await read_model.fetchval(LAG_WATERMARK, LAG_SWEEP, latest)
    if watermark is not None:
        newest = await event_store.fetchval(NEWEST)
        if newest is None or watermark > newest:
            notes.append("the lag sweep's watermark is beyond the newest event: a restored store?")
        elif newest <= now and not await event_store.fetchval(STANDS_ON_EVENT, watermark):
            reason = "no event was appended at that time"
            faults.append(Fault("read_model.sweep", "watermark", reason))
    letters = await read_model.fetch(DEAD_LETTERS, ROWS_MAX)
    waiting = sum(row["redriven_at"] is None for row in letters)
    if waiting:
        notes.append(f"{waiting} dead letters wait: see saldo dead-letters list")
    placed = [
        (row["account_id"], row["position"]) for row in letters if row["position"] is not None
    ]
    ids, positions = zip(*placed, strict=True) if placed else ((), ())
    events = {(row[0], row[1]): row for row in await event_store.fetch(TEXTS, ids, positions)}
    for row in letters:
        account_id, position = row["account_id"], row["position"]
        for wrong, column, reason in _letter_checks(
            row, events.get((account_id, position)), latest
        ):
            if wrong:
                faults.append(Fault("dead_letter", column, reason, account_id or None, position))
                break
    return faults, notes


def _letter_checks(
    row: asyncpg.Record, event: asyncpg.Record | None, latest: datetime
) -> Iterator[tuple[bool, str, str]]:
    """Yield whether a column of a dead letter is wrong, the column, and why.

    A letter that the projector parked itself has no attributes and must be as the event store has
    it; one that was delivered must be as its own attributes say.
    """
    for column in ("received_at", "redriven_at"):
        yield row[column] is not None and row[column] > latest, column, "it is in the future"
    told = json.loads(row["attributes"])
    data = row["data"]
    if told:
        subjects = {told.get("subject") or "", ""}
        yield row["account_id"] not in subjects, "account_id", "it is not the attributes' subject"
        # The bare id is how earlier versions parked an event of another source.
        ids = {parked_id(told), told.get("id", "")}
        yield row["event_id"] not in ids, "event_id", "it is not the attributes' id"
        wrong = row["position"] != sequence_of(told)
        yield wrong, "position", "it is not the attributes' sequence"
        wrong = not reason_of(told).startswith(row["reason"])
        yield wrong, "reason", "it is not what the attributes say"
        if data is not None and len(data) < DATA_CHARACTERS_MAX:  # else nothing, or cut off
            yield from _data_checks(data, told)
    elif event is None:
        yield True, "position", NO_EVENT
    else:
        wrong = row["event_id"] != str(event["event_id"])
        yield wrong, "event_id", "the store has another event at this position"
        yield data != event["public_text"], "data", "it is not the event's public_text"


def _data_checks(data: str, attributes: Mapping[str, str]) -> Iterator[tuple[bool, str, str]]:
    try:
        event = json.loads(data)
    except ValueError:
        yield True, "data", "it is not JSON"
        return
    # What is parked of a record that is not Saldo's may be of any form.
    wrong = isinstance(event, dict) and event.get("id") != attributes.get("id")
    yield wrong, "data", "it is of another event than the attributes"
