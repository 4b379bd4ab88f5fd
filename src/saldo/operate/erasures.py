"""``saldo erasures``: which private parts were erased, for an event store that is restored later.

What is restored has the texts that were erased since its copy was made. So the list of erasures is
kept apart from the copy, and what it names is erased again. It holds no text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.operate.errors import StreamsError
from saldo.operate.settings import connected
from saldo.operate.streams import parse_line
from saldo.record.postgres import ERASE_PRIVATE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

PREFETCH_ROWS = 2_000

ERASURES = """
SELECT account_id, position, hash, erased_at FROM event_store.event
WHERE erased_at IS NOT NULL ORDER BY erased_at, account_id, position
"""
HELD = """
SELECT private_text IS NULL AS erased FROM event_store.event
WHERE account_id = $1 AND position = $2 AND hash = $3
"""


@dataclass(slots=True)
class Repeated:
    """The outcome of a list. ``absent`` are events that this store does not have."""

    erased: int = 0
    erased_before: int = 0
    absent: int = 0


async def save_erasures(url: str, out: TextIO) -> int:
    """Write the event store's erasures to ``out``; return how many there are."""
    saved = 0
    async with connected(url) as connection:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            async for row in connection.cursor(ERASURES, prefetch=PREFETCH_ROWS):
                line = {
                    "account": row["account_id"],
                    "position": row["position"],
                    "hash": row["hash"].hex(),
                    "erasedAt": row["erased_at"].isoformat(),
                }
                out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
                saved += 1
        out.write(json.dumps({"end": {"erasures": saved}}) + "\n")
    return saved


async def repeat_erasures(url: str, lines: Iterable[str]) -> Repeated:
    """Erase again what a list, or a whole export, says was erased; raise StreamsError.

    Each is erased as DELETE /private does it. Run it again after an interruption.
    """
    repeated, ended = Repeated(), False
    async with connected(url) as connection:
        for number, line in enumerate(lines, start=1):
            members = parse_line(line, number)
            ended = "end" in members
            if ended or members.get("erasedAt") is None:
                continue
            try:
                event = (members["account"], members["position"], bytes.fromhex(members["hash"]))
            except (LookupError, ValueError, TypeError) as error:
                raise StreamsError(f"line {number}: it is not an erasure: {error}") from error
            held = await connection.fetchrow(HELD, *event)
            if held is None:
                repeated.absent += 1
            elif held["erased"]:
                repeated.erased_before += 1
            else:
                await connection.execute(ERASE_PRIVATE, *event[:2])
                repeated.erased += 1
    if not ended:
        raise StreamsError("the list is cut off: what it names was erased, the rest is missing")
    return repeated
