"""``saldo export`` and ``saldo restore``: the event streams and their chains as lines of JSON.

A line has an event's exact texts and its hash, so the file proves itself. The last line has the
number of events, so a file that was cut off is recognised. Restoring checks every
event as ``verify`` does before it is written, and goes on where an earlier run stopped: what is
there already must have the same hash.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from saldo.domain.errors import Unreadable
from saldo.domain.events import TransactionRecorded, read_event
from saldo.operate.errors import StreamsError
from saldo.operate.settings import connected
from saldo.operate.verification.chain import Chain
from saldo.operate.verification.findings import FaultError
from saldo.record.postgres import LOCK_STREAMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TextIO

    import asyncpg

PREFETCH_ROWS = 2_000
BATCH_EVENTS = 2_000
LINE_CHARACTERS_MAX = 100_000
REFUSED_MAX = 1_000

SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
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
# it was, and an erasure keeps its trace.
WRITE_EVENTS = """
WITH restored AS (
    INSERT INTO event_store.event (account_id, position, event_id, public_text, private_text, hash,
                                   balance_minor, key_hash, key_line, fingerprint, reverses,
                                   erased_at, appended_at, restored_at)
    SELECT *, statement_timestamp(), statement_timestamp()
    FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::bytea[],
                $7::bigint[], $8::bytea[], $9::int[], $10::bytea[], $11::uuid[],
                $12::timestamptz[])
    RETURNING account_id, position, erased_at
)
INSERT INTO event_store.erasure (account_id, position, erased_at)
SELECT * FROM restored WHERE erased_at IS NOT NULL
"""
WRITE_OUTBOX = """
INSERT INTO event_store.outbox (account_id, position)
SELECT * FROM unnest($1::text[], $2::bigint[])
"""
WRITE_STREAMS = """
UPDATE event_store.stream AS s
SET currency = n.currency, position = n.position, balance_minor = n.balance_minor,
    overdraft_limit_minor = n.overdraft_limit_minor, hash = n.hash, recorded_at = n.recorded_at
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[],
            $7::timestamptz[])
    AS n (account_id, currency, position, balance_minor, overdraft_limit_minor, hash, recorded_at)
WHERE s.account_id = n.account_id
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
    async with connected(url) as connection:
        await connection.execute(SNAPSHOT)
        total = await connection.fetchval(TOTAL)
        async for row in connection.cursor(EVENTS, prefetch=PREFETCH_ROWS):
            if chain is None or chain.account_id != row["account_id"]:
                chain = Chain(row["account_id"])
                moved.accounts += 1
            line = json.dumps(_line_of(row), ensure_ascii=False, separators=(",", ":"))
            out.write(line + "\n")
            moved.events += 1
            if chain.account_id != refused_account:
                try:
                    _check_line(parse_line(line, moved.events), chain, moved.events)
                except StreamsError as refused:
                    refused_account = chain.account_id
                    said = f"{refused_account}: {refused}"
                    moved.refused += [said][: REFUSED_MAX - len(moved.refused)]
            if moved.events % PREFETCH_ROWS == 0:
                progress(moved.events, total)
        out.write(json.dumps({"end": {"accounts": moved.accounts, "events": moved.events}}) + "\n")
        progress(moved.events, total)
    return moved


def _line_of(row: asyncpg.Record) -> dict[str, Any]:
    erased_at = row["erased_at"]
    return {
        "account": row["account_id"],
        "position": row["position"],
        "event": row["public_text"],
        "private": row["private_text"],
        "hash": row["hash"].hex(),
        "balanceMinor": row["balance_minor"],
        "keyHash": _hex(row["key_hash"]),
        "keyLine": row["key_line"],
        "fingerprint": _hex(row["fingerprint"]),
        "erasedAt": erased_at and erased_at.isoformat(),
    }


def _hex(stored: bytes | None) -> str | None:
    return None if stored is None else stored.hex()


@dataclass(frozen=True, slots=True)
class _Checked:
    """An event of the file that was checked, and its account's state after it."""

    row: dict[str, Any]
    currency: str | None
    limit_minor: int | None
    recorded_at: datetime | None


async def restore_streams(
    url: str, lines: Iterable[str], progress: Callable[[int], None], *, outbox: bool
) -> Moved:
    """Write the file's streams to the event store; raise StreamsError.

    Each batch is one database transaction, so an interrupted restore leaves whole batches.
    ``outbox`` has the restored events published again.
    """
    moved = Moved()
    ended = False
    chain: Chain | None = None
    batch: list[_Checked] = []
    async with connected(url) as connection:
        for number, line in enumerate(lines, start=1):
            if ended:
                raise StreamsError(f"line {number}: there is more after the end")
            members = parse_line(line, number)
            if "end" in members:
                expected = {"accounts": moved.accounts, "events": moved.events}
                if members["end"] != expected:
                    raise StreamsError(f"line {number}: the file should have {members['end']}")
                ended = True
                continue
            if chain is None or chain.account_id != members.get("account"):
                chain = Chain(str(members.get("account")))
                moved.accounts += 1
            batch.append(_check_line(members, chain, number))
            moved.events += 1
            if len(batch) == BATCH_EVENTS:
                moved.present += await _write(connection, batch, outbox=outbox)
                batch = []
                progress(moved.events)
        moved.present += await _write(connection, batch, outbox=outbox)
        progress(moved.events)
    if not ended:
        raise StreamsError(
            f"the file is cut off after {moved.events} events: those were restored, "
            "the rest is missing"
        )
    return moved


def parse_line(line: str, number: int) -> dict[str, Any]:
    """Return the members of a line; raise StreamsError."""
    try:
        members = json.loads(line) if len(line) <= LINE_CHARACTERS_MAX else None
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise StreamsError(f"line {number}: it is not an event of an export")
    return members


def _check_line(members: dict[str, Any], chain: Chain, number: int) -> _Checked:
    try:
        fact = read_event(members["event"])
        row: dict[str, Any] = {
            "account_id": members["account"],
            "position": members["position"],
            "event_id": fact.event_id,
            "public_text": members["event"],
            "private_text": members["private"],
            "hash": bytes.fromhex(members["hash"]),
            "balance_minor": members["balanceMinor"],
            "key_hash": _bytes(members["keyHash"]),
            "key_line": members["keyLine"],
            "fingerprint": _bytes(members["fingerprint"]),
            "reverses": fact.reverses if isinstance(fact, TransactionRecorded) else None,
            "erased_at": members["erasedAt"] and datetime.fromisoformat(members["erasedAt"]),
        }
        chain.check(row)
    except Unreadable as unreadable:
        raise StreamsError(f"line {number}: {unreadable.reason}") from unreadable
    except FaultError as wrong:
        found = wrong.fault(chain.account_id, members["position"]).text()
        raise StreamsError(f"line {number}: {found}") from wrong
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise StreamsError(f"line {number}: a member is missing or malformed: {error}") from error
    chain.evolve(fact, row["hash"])
    return _Checked(row, chain.currency, chain.limit_minor, chain.recorded_at)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


async def _write(
    connection: asyncpg.Connection[asyncpg.Record], batch: list[_Checked], *, outbox: bool
) -> int:
    """Write what the store lacks of ``batch``; return how many events it had."""
    if not batch:
        return 0
    last = {checked.row["account_id"]: checked for checked in batch}
    first = {c.row["account_id"]: c.row["position"] for c in reversed(batch)}
    async with connection.transaction():
        await connection.execute(LOCK_STREAMS, list(last))
        held: dict[str, int] = {}
        ends = [checked.row["position"] for checked in last.values()]
        hashes = {(c.row["account_id"], c.row["position"]): c.row["hash"] for c in batch}
        for row in await connection.fetch(HELD, list(last), ends):
            account_id, position = row["account_id"], row["position"]
            held[account_id] = position
            common = min(position, last[account_id].row["position"])
            if common < first[account_id] - 1:
                raise StreamsError(f"{account_id}: its events were changed while it was restored")
            if common >= first[account_id] and row["hash"] != hashes[account_id, common]:
                raise StreamsError(
                    f"{account_id} position {common}: the store holds another event there"
                )
        new = [c for c in batch if c.row["position"] > held[c.row["account_id"]]]
        await _append(connection, new, outbox=outbox)
    return len(batch) - len(new)


async def _append(
    connection: asyncpg.Connection[asyncpg.Record], new: list[_Checked], *, outbox: bool
) -> None:
    rows = [checked.row for checked in new]
    names = ["account_id", "position", "event_id", "public_text", "private_text", "hash"]
    names += ["balance_minor", "key_hash", "key_line", "fingerprint", "reverses", "erased_at"]
    await connection.execute(WRITE_EVENTS, *([row[name] for row in rows] for name in names))
    if outbox:
        await connection.execute(WRITE_OUTBOX, *([row[name] for row in rows] for name in names[:2]))
    last = {checked.row["account_id"]: checked for checked in new}
    await connection.execute(
        WRITE_STREAMS,
        list(last),
        [c.currency for c in last.values()],
        [c.row["position"] for c in last.values()],
        [c.row["balance_minor"] for c in last.values()],
        [c.limit_minor for c in last.values()],
        [c.row["hash"] for c in last.values()],
        [c.recorded_at for c in last.values()],
    )
