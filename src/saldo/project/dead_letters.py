"""Dead letters: events given up on, parked where an operator finds them.

Only what may be kept is kept: the attributes and the public text, never the private part.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from saldo.domain.commands import ACCOUNT_ID

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

REASON_CHARACTERS_MAX = 1_000
DATA_CHARACTERS_MAX = 10_000

PARK_DELIVERED = """
INSERT INTO read_model.dead_letter
    (dead_letter_id, account_id, event_id, position, reason, attributes, data)
VALUES (gen_random_uuid(), $1, $2, $3, $4, $5::jsonb, $6)
ON CONFLICT (account_id, event_id) DO UPDATE
SET received_at = clock_timestamp(), redriven_at = NULL
"""


async def park_delivered(
    pool: asyncpg.Pool[asyncpg.Record], attributes: Mapping[str, Any], data: object
) -> None:
    """Park an event that KafkaSource gave up on; parking it twice keeps one."""
    subject = str(attributes.get("subject") or "")
    account_id = subject if ACCOUNT_ID.fullmatch(subject) else ""
    sequence = str(attributes.get("sequence") or "")
    await pool.execute(
        PARK_DELIVERED,
        account_id,
        str(attributes.get("id") or "")[:255],
        int(sequence) if sequence.isdecimal() and len(sequence) < 19 else None,  # noqa: PLR2004 - a bigint
        _reason(attributes)[:REASON_CHARACTERS_MAX],
        json.dumps({name: _stored(text) for name, text in attributes.items()}),
        _public_part(data),
    )


def _reason(attributes: Mapping[str, Any]) -> str:
    code = attributes.get("knativeerrorcode") or "no answer"
    try:
        answer = base64.b64decode(str(attributes.get("knativeerrordata") or ""))
    except ValueError:
        answer = b""
    return f"{code} {answer.decode('utf-8', 'replace')}".replace("\0", "").strip()


def _stored(text: object) -> str:
    return str(text).replace("\0", "")[:REASON_CHARACTERS_MAX]


def _public_part(data: object) -> str | None:
    """The data without its private part; nothing of data that is not one of our own events."""
    event = data.get("event") if isinstance(data, dict) else None
    return None if event is None else json.dumps(event)[:DATA_CHARACTERS_MAX].replace("\\u0000", "")
