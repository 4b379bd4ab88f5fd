"""Requests that deliver recorded but unprojected events, as KafkaSource sends them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import asyncpg
import httpx
import uvloop

from benchmarks.wrk import NoFigure
from saldo.project.postgres import LAG_SWEEP
from saldo.record.cloud_events import attributes_of, data_of
from saldo.record.postgres import stored_event
from saldo.serve.functions import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.stack import Stack
    from saldo.record.intent import StoredEvent

LINES_A_REQUEST = 1_000
ANSWER_TIMEOUT_S = 60.0
# The accounts of the waves have distinct names: no other load records for them.
WAVE, BENCH = "wave", "bench"
NEWEST = """
SELECT e.* FROM event_store.stream AS s
JOIN event_store.event AS e ON e.account_id = s.account_id AND e.position = s.position
WHERE s.account_id LIKE 'wave-%' ORDER BY md5(s.account_id)
"""
# The watermark of the lag sweep far ahead: the deliveries alone project the events.
SWEEP_AHEAD = f"""
INSERT INTO read_model.sweep (name, watermark, swept_at, found)
VALUES ('{LAG_SWEEP}', now() + interval '1 day', now(), 0)
ON CONFLICT (name) DO UPDATE SET watermark = excluded.watermark
"""  # noqa: S608 - a constant
SWEEP_MARK = f"SELECT watermark FROM read_model.sweep WHERE name = '{LAG_SWEEP}'"  # noqa: S608

SWEEP_BACK = f"UPDATE read_model.sweep SET watermark = '{{mark}}' WHERE name = '{LAG_SWEEP}'"  # noqa: S608
SWEPT_SINCE = f"SELECT swept_at > '{{since}}' FROM read_model.sweep WHERE name = '{LAG_SWEEP}'"  # noqa: S608
FORGET_SWEEP = f"DELETE FROM read_model.sweep WHERE name = '{LAG_SWEEP}'"  # noqa: S608


@contextlib.contextmanager
def unprojected(stack: Stack) -> Iterator[None]:
    """Stop all projection except by deliveries, while KafkaSource is stopped."""
    mark = stack.sql(SWEEP_MARK)
    stack.sql(SWEEP_AHEAD)
    # A sweep that had begun before would still find what is recorded now.
    since = stack.sql("SELECT clock_timestamp()")
    stack.sweep()
    stack.wait_for(SWEPT_SINCE.format(since=since), "a sweep's end")
    try:
        yield
    finally:
        # At the first sweep there was none.
        stack.sql(SWEEP_BACK.format(mark=mark) if mark else FORGET_SWEEP)


def record_wave(stack: Stack, accounts: int, label: str, *, names: str = WAVE) -> None:
    """Record one more event for each of so many accounts, by bulk requests; ``label`` is new."""
    url = f"http://127.0.0.1:{stack.ports[RECORD.name]}/transactions"
    headers = {"Authorization": f"Bearer {stack.token()}"}
    with httpx.Client(headers=headers, timeout=ANSWER_TIMEOUT_S, verify=False) as client:  # noqa: S501 - no TLS here
        for start in range(1, accounts + 1, LINES_A_REQUEST):
            lines = [
                {
                    "accountId": f"{names}-{number}",
                    "type": "INCOME",
                    "value": 10.5,
                    "description": "Coffee beans",
                }
                for number in range(start, min(start + LINES_A_REQUEST, accounts + 1))
            ]
            key = {"Idempotency-Key": f"{label}-{start}"}
            answer = client.post(url, json=lines, headers=key)
            if answer.status_code != httpx.codes.CREATED:
                raise NoFigure(f"a wave was not recorded: {answer.status_code} {answer.text[:200]}")


def write_deliveries(stack: Stack, file: Path) -> int:
    """Write the newest event of each account of the waves to ``file`` as a request; how many."""
    events = uvloop.run(_newest(stack.server.dsn()))
    token = stack.sink_token()
    with file.open("wb") as output:
        for event in events:
            request = delivery(event, token)
            output.write(b"%08d" % len(request) + request)
    return len(events)


def delivery(event: StoredEvent, token: str) -> bytes:
    """Return the request that delivers ``event``, in binary mode."""
    attributes = attributes_of(event, None)
    kind = attributes.pop("datacontenttype")
    body = data_of(event)
    head = [
        "POST / HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {token}",
        f"Content-Type: {kind}",
        *(f"ce-{name}: {text}" for name, text in attributes.items()),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


async def _newest(dsn: str) -> list[StoredEvent]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(NEWEST)
    finally:
        await connection.close()
    return [stored_event(row) for row in rows]


def positions_reached(stack: Stack) -> int:
    """Return how many accounts of the waves have a balance at the end of their stream."""
    return int(
        stack.sql(
            "SELECT count(*) FROM event_store.stream AS s JOIN read_model.balance AS b"
            " USING (account_id) WHERE s.account_id LIKE 'wave-%' AND s.position = b.position"
        )
    )
