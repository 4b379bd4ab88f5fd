"""``saldo export`` and ``saldo restore``: the event streams and their chains as lines of JSON.

A line has an event's exact texts and its hash, so the file proves itself. The last line has the
number of events, so a file that was cut off is recognised. Restoring checks every event as
``verify`` does before it is written, and goes on where an earlier run stopped: what is there
already must have the same hash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from saldo.domain.errors import Unreadable
from saldo.domain.events import TransactionRecorded, read_event
from saldo.operate import terminal
from saldo.operate.errors import CommandError
from saldo.operate.settings import Connection, connected, read_operator_settings
from saldo.operate.verification.chain import Chain
from saldo.operate.verification.findings import FaultError
from saldo.record.postgres import LOCK_STREAMS

PREFETCH_ROWS = 2_000
BATCH_EVENTS = 2_000
LINE_CHARACTERS_MAX = 100_000
REFUSED_MAX = 1_000
SHOWN_MAX = 50

# The columns of an event that a line has, each under the name of a member.
MEMBERS = {
    "account_id": "account",
    "position": "position",
    "public_text": "event",
    "private_text": "private",
    "hash": "hash",
    "balance_minor": "balanceMinor",
    "key_hash": "keyHash",
    "key_line": "keyLine",
    "fingerprint": "fingerprint",
    "erased_at": "erasedAt",
}

TOTAL = "SELECT least(coalesce(sum(position), 0), 2^62)::bigint FROM event_store.stream"
EVENTS = """
SELECT account_id, position, public_text, private_text, hash, balance_minor, key_hash, key_line,
       fingerprint, erased_at
FROM event_store.event ORDER BY account_id, position
"""
HELD = """
SELECT s.account_id, s.position, e.hash
FROM unnest($1::text[], $2::bigint[]) AS l (account_id, position)
JOIN event_store.stream AS s ON s.account_id = l.account_id
LEFT JOIN event_store.event AS e
    ON e.account_id = s.account_id AND e.position = least(s.position, l.position)
"""
# appended_at is stamped again, so that the lag sweep sees what was restored. restored_at says that
# it was, and an erasure keeps its trace. $1 are events, $2 the last one of each stream,
# $3 the streams.
WRITE = """
WITH restored AS (
    INSERT INTO event_store.event (account_id, position, event_id, public_text, private_text, hash,
                                   balance_minor, key_hash, key_line, fingerprint, reverses,
                                   erased_at, appended_at, restored_at)
    SELECT account_id, position, event_id, public_text, private_text, hash, balance_minor, key_hash,
           key_line, fingerprint, reverses, erased_at, statement_timestamp(), statement_timestamp()
    FROM json_populate_recordset(NULL::event_store.event, $1::json)
    RETURNING account_id, position, erased_at
), traced AS (
    INSERT INTO event_store.erasure (account_id, position, erased_at)
    SELECT account_id, position, erased_at FROM restored WHERE erased_at IS NOT NULL
), queued AS (
    INSERT INTO event_store.outbox (account_id, position)
    SELECT account_id, position FROM restored WHERE $4::bool
)
UPDATE event_store.stream AS s
SET currency = n.currency, position = n.position, balance_minor = n.balance_minor,
    overdraft_limit_minor = n.overdraft_limit_minor, hash = n.hash, recorded_at = n.recorded_at
FROM json_populate_recordset(NULL::event_store.stream, $2::json) AS n
WHERE s.account_id = n.account_id AND s.account_id = ANY ($3::text[])
"""


@dataclass(slots=True, kw_only=True)
class Moved:
    """What an export wrote or a restore read; ``present`` was there already.

    ``refused`` names the first event of each account that a restore will not take.
    """

    accounts: int = 0
    events: int = 0
    present: int = 0
    refused: list[str] = field(default_factory=list)


async def export_streams(url: str, out: TextIO, progress: Callable[[int, int], None]) -> Moved:
    """Write all streams, as they stand in one snapshot, to ``out``.

    They are checked as a restore does. What is wrong is written all the same.
    """
    moved = Moved()
    chain: Chain | None = None
    refused_account: str | None = None
    async with (
        connected(url) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        total = await connection.fetchval(TOTAL)
        async for row in connection.cursor(EVENTS, prefetch=PREFETCH_ROWS):
            if chain is None or chain.account_id != row["account_id"]:
                chain = Chain(row["account_id"])
                moved.accounts += 1
            line = terminal.json_line({member: row[column] for column, member in MEMBERS.items()})
            out.write(line)
            moved.events += 1
            if chain.account_id != refused_account:
                try:
                    _checked(parse_line(line, moved.events), chain, moved.events)
                except CommandError as refused:
                    refused_account = chain.account_id
                    if len(moved.refused) < REFUSED_MAX:
                        moved.refused.append(f"{refused_account}: {refused}")
            if moved.events % PREFETCH_ROWS == 0:
                progress(moved.events, total)
        out.write(json.dumps({"end": {"accounts": moved.accounts, "events": moved.events}}) + "\n")
        progress(moved.events, total)
    return moved


async def restore_streams(
    url: str, lines: Iterable[str], progress: Callable[[int], None], *, outbox: bool
) -> Moved:
    """Write the file's streams to the event store; raise CommandError.

    Each batch is one database transaction, so an interrupted restore leaves whole batches.
    ``outbox`` has the restored events published again.
    """
    moved = Moved()
    ended = False
    chain: Chain | None = None
    batch: list[dict[str, Any]] = []
    async with connected(url) as connection:
        for number, line in enumerate(lines, start=1):
            if ended:
                raise CommandError(f"line {number}: there is more after the end")
            members = parse_line(line, number)
            if "end" in members:
                if members["end"] != {"accounts": moved.accounts, "events": moved.events}:
                    raise CommandError(f"line {number}: the file should have {members['end']}")
                ended = True
                continue
            if chain is None or chain.account_id != members.get("account"):
                chain = Chain(str(members.get("account")))
                moved.accounts += 1
            batch.append(_checked(members, chain, number))
            moved.events += 1
            if len(batch) == BATCH_EVENTS:
                moved.present += await _write(connection, batch, outbox=outbox)
                batch = []
                progress(moved.events)
        moved.present += await _write(connection, batch, outbox=outbox)
        progress(moved.events)
    if not ended:
        raise CommandError(
            f"the file is cut off after {moved.events} events: those were restored, "
            "the rest is missing"
        )
    return moved


def parse_line(line: str, number: int) -> dict[str, Any]:
    """Return the members of a line; raise CommandError."""
    try:
        members = json.loads(line) if len(line) <= LINE_CHARACTERS_MAX else None
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise CommandError(f"line {number}: it is not an event of an export")
    return members


def _checked(members: dict[str, Any], chain: Chain, number: int) -> dict[str, Any]:
    """Return the row of an event that follows on ``chain``, with the stream's state after it."""
    try:
        fact = read_event(members["event"])
        row = {column: members[member] for column, member in MEMBERS.items()}
        for column in ("hash", "key_hash", "fingerprint"):
            row[column] = None if row[column] is None else bytes.fromhex(row[column])
        row["erased_at"] = row["erased_at"] and datetime.fromisoformat(row["erased_at"])
        row["event_id"] = fact.event_id
        row["reverses"] = fact.reverses if isinstance(fact, TransactionRecorded) else None
        chain.check(row)
    except Unreadable as unreadable:
        raise CommandError(f"line {number}: {unreadable}") from unreadable
    except FaultError as wrong:
        found = wrong.fault(chain.account_id, members["position"]).text()
        raise CommandError(f"line {number}: {found}") from wrong
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise CommandError(f"line {number}: a member is missing or malformed: {error}") from error
    chain.evolve(fact, row["hash"])
    return row | {
        name: getattr(chain.account, name)
        for name in ("currency", "recorded_at", "overdraft_limit_minor")
    }


async def _write(connection: Connection, batch: list[dict[str, Any]], *, outbox: bool) -> int:
    """Write what the store lacks of ``batch``; return how many events it had."""
    last = {row["account_id"]: row["position"] for row in batch}
    first = {row["account_id"]: row["position"] for row in reversed(batch)}
    hashes = {(row["account_id"], row["position"]): row["hash"] for row in batch}
    held: dict[str, int] = {}
    async with connection.transaction():
        await connection.execute(LOCK_STREAMS, list(last))
        for account_id, position, held_hash in await connection.fetch(
            HELD, list(last), list(last.values())
        ):
            held[account_id] = position
            common = min(position, last[account_id])
            if common < first[account_id] - 1:
                raise CommandError(f"{account_id}: its events were changed while it was restored")
            if common >= first[account_id] and held_hash != hashes[account_id, common]:
                raise CommandError(
                    f"{account_id} position {common}: the store holds another event there"
                )
        new = [row for row in batch if row["position"] > held[row["account_id"]]]
        ends = {row["account_id"]: row for row in new}
        last_rows = _document(list(ends.values()))
        await connection.execute(WRITE, _document(new), last_rows, list(ends), outbox)
    return len(batch) - len(new)


def _document(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, default=lambda v: f"\\x{v.hex()}" if isinstance(v, bytes) else str(v))


async def export_command(file: terminal.OutputFile, *, as_json: terminal.AsJson = False) -> None:
    """Write all event streams as NDJSON, each event with its exact texts and its hash.

    Exit 1 if a restore would refuse some of them; they are written all the same.
    """
    to_pipe = str(file) == terminal.PIPE
    url = read_operator_settings().event_store_url
    with (
        terminal.progress_bar("events", as_json=as_json or to_pipe) as progress,
        terminal.written(file) as out,
    ):
        moved = await export_streams(url, out, progress)

    lines = [f"{moved.events} events of {moved.accounts} accounts"]
    lines += [f"[red]a restore will refuse[/] {refused}" for refused in moved.refused[:SHOWN_MAX]]
    terminal.respond(
        moved,
        lambda: terminal.notes.print("\n".join(lines), soft_wrap=True),
        as_json=as_json and not to_pipe,
        failed=bool(moved.refused),
    )


async def restore_command(
    file: Annotated[Path, typer.Argument(help="An export; - is standard input.", allow_dash=True)],
    *,
    outbox: Annotated[bool, typer.Option(help="Publish the restored events again.")] = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Write an export's streams to the event store; what is there already must be the same."""
    url = read_operator_settings().event_store_url
    with (
        terminal.progress_bar("events", as_json=as_json) as progress,
        terminal.opened(file) as lines,
    ):
        moved = await restore_streams(url, lines, lambda n: progress(n, n), outbox=outbox)

    shown = (
        f"{moved.events} events of {moved.accounts} accounts, {moved.present} were there already"
    )
    if moved.events > moved.present:
        shown += "\nWhat was erased since the export is back: `saldo erasures repeat`"
    terminal.respond(moved, shown, as_json=as_json)
