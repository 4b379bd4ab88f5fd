"""``saldo erasures``: which private parts were erased, for an event store that is restored later.

What is restored has the texts that were erased since its copy was made. So the list of erasures is
kept apart from the copy, and what it names is erased again. It holds no text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import typer

from saldo.operate import terminal
from saldo.operate.errors import CommandError
from saldo.operate.settings import connected, read_operator_settings
from saldo.operate.streams import PREFETCH_ROWS, parse_line
from saldo.record.stored_events import ERASE_PRIVATE

ERASURES = """
SELECT account_id AS account, position, hash, erased_at AS "erasedAt" FROM event_store.event
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
    async with (
        connected(url) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        async for row in connection.cursor(ERASURES, prefetch=PREFETCH_ROWS):
            out.write(terminal.json_line(dict(row)))
            saved += 1
    out.write(json.dumps({"end": {"erasures": saved}}) + "\n")
    return saved


async def repeat_erasures(url: str, lines: Iterable[str]) -> Repeated:
    """Erase again what a list, or a whole export, says was erased; raise CommandError.

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
                raise CommandError(f"line {number}: it is not an erasure: {error}") from error
            held = await connection.fetchrow(HELD, *event)
            if held is None:
                repeated.absent += 1
            elif held["erased"]:
                repeated.erased_before += 1
            else:
                await connection.execute(ERASE_PRIVATE, *event[:2])
                repeated.erased += 1
    if not ended:
        raise CommandError("the list is cut off: what it names was erased, the rest is missing")
    return repeated


erasures = terminal.App(no_args_is_help=True, help="Private parts that were erased, for a restore.")


@erasures.command("save")
async def save_command(file: terminal.OutputFile) -> None:
    """Write which private parts were erased, without any text. Keep it apart from the backups."""
    with terminal.written(file) as out:
        saved = await save_erasures(read_operator_settings().event_store_url, out)
    terminal.notes.print(f"{saved} erasures")


@erasures.command("repeat")
async def repeat_command(
    file: Annotated[
        Path, typer.Argument(help="A list or newer export; - is input.", allow_dash=True)
    ],
    *,
    as_json: terminal.AsJson = False,
) -> None:
    """Erase again what the list names, after a restore has brought it back."""
    with terminal.opened(file) as lines:
        done = await repeat_erasures(read_operator_settings().event_store_url, lines)
    shown = (
        f"{done.erased} private parts erased again, {done.erased_before} were erased already, "
        f"{done.absent} are of events that this store does not have"
    )
    terminal.respond(done, shown, as_json=as_json)
