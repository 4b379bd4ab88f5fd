"""``saldo dead-letters``: what the projector gave up on, and how it is redriven.

A dead letter of one of Saldo's accounts only shows that the account may have stopped. Redriving it
clears the block and catches the account up, in the order of its stream; nothing is applied twice. A
dead letter of no account is delivered again as it was, or dropped, when the operator says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import httpx
import typer

from saldo.operate import terminal
from saldo.operate.errors import CommandError
from saldo.operate.settings import Pool, open_both_pools
from saldo.project.catch_up import CatchUp
from saldo.project.postgres import PostgresDatabases

LIST_MAX = 1_000
DELIVERY_TIMEOUT_S = 30.0
COLUMNS = ("dead_letter_id", "account_id", "position", "reason", "received_at", "redriven_at")
# datacontenttype has its own header. The KafkaSource added the others when it gave up.
NOT_REDELIVERED = frozenset(
    {"datacontenttype", "knativeerrordest", "knativeerrorcode", "knativeerrordata"}
)

LIST = """
SELECT dead_letter_id, account_id, event_id, position, reason, received_at, redriven_at
FROM read_model.dead_letter WHERE ($1 OR redriven_at IS NULL)
ORDER BY received_at, account_id, event_id LIMIT $2
"""
SHOW = "SELECT * FROM read_model.dead_letter WHERE dead_letter_id = $1"
KNOWN_STREAM = "SELECT position FROM event_store.stream WHERE account_id = $1 AND position > 0"
UNBLOCK = """
UPDATE read_model.balance SET blocked_at = NULL, blocked_reason = NULL, blocked_schema = NULL
WHERE account_id = $1
"""
REDRIVEN = """
UPDATE read_model.dead_letter SET redriven_at = clock_timestamp()
WHERE account_id = $1 AND redriven_at IS NULL AND (position IS NULL OR position <= $2)
"""
REDELIVERED = """
UPDATE read_model.dead_letter SET redriven_at = clock_timestamp() WHERE dead_letter_id = $1
"""
DROP = "DELETE FROM read_model.dead_letter WHERE dead_letter_id = $1"
BLOCKED = """
SELECT account_id FROM read_model.balance WHERE blocked_schema IS NOT NULL
UNION
SELECT account_id FROM read_model.dead_letter WHERE redriven_at IS NULL AND account_id <> ''
ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriven:
    """An account's position after it was redriven."""

    account_id: str
    position: int
    projected: int
    blocked: bool
    letters: int


async def find_letter(read_model: Pool, dead_letter_id: UUID) -> dict[str, Any]:
    """Return all of a dead letter; raise CommandError if there is none."""
    row = await read_model.fetchrow(SHOW, dead_letter_id)
    if row is None:
        raise CommandError("there is no such dead letter")
    return dict(row)


async def redrive_letter(
    dead_letter_id: UUID, streams: Pool, read_model: Pool, *, to: str | None
) -> Redriven | None:
    """Redrive its account. A dead letter of no account is delivered to ``to`` instead."""
    row = await find_letter(read_model, dead_letter_id)
    account_id = row["account_id"]
    if account_id and await streams.fetchval(KNOWN_STREAM, account_id) is not None:
        return await redrive_account(account_id, streams, read_model)
    if to is None:
        raise CommandError(
            "it is of no account of Saldo's: deliver it again with --to URL, or drop it"
        )
    await _deliver(row, to)
    await read_model.execute(REDELIVERED, dead_letter_id)
    return None


async def redrive_account(account_id: str, streams: Pool, read_model: Pool) -> Redriven:
    """Clear the account's block and catch it up to the end of its stream.

    Interrupted in between, the account is unblocked, and the projector goes on.
    """
    await read_model.execute(UNBLOCK, account_id)
    catch_up = CatchUp(PostgresDatabases(streams, read_model))
    reached = (await catch_up.to_end([account_id]))[account_id]
    done = await read_model.execute(REDRIVEN, account_id, reached.position)
    return Redriven(
        account_id=account_id,
        position=reached.position,
        projected=reached.projected,
        blocked=reached.blocked,
        letters=int(done.rpartition(" ")[2]),
    )


async def _deliver(row: dict[str, Any], to: str) -> None:
    """Deliver the CloudEvent in binary mode, without its private part, which was never stored."""
    headers = {"content-type": "application/json"}
    for name, value in json.loads(row["attributes"]).items():
        if name not in NOT_REDELIVERED:
            headers[f"ce-{name}"] = str(value)
    body = "null" if row["data"] is None else f'{{"event":{row["data"]},"private":null}}'
    async with httpx.AsyncClient(timeout=DELIVERY_TIMEOUT_S) as client:
        try:
            response = await client.post(to, content=body.encode(), headers=headers)
        except httpx.HTTPError as error:
            raise CommandError(f"{to} cannot be reached: {error}") from error
    if not response.is_success:
        raise CommandError(f"{to} returned {response.status_code}: {response.text[:200]}")


dead_letters = terminal.App(no_args_is_help=True, help="Events that the projector gave up on.")


@dead_letters.command("list")
async def list_letters(
    *,
    redriven: Annotated[bool, typer.Option("--all", help="Those put through, too.")] = False,
    as_json: terminal.AsJson = False,
) -> None:
    """List what waits, the oldest first."""
    async with open_both_pools() as (_, read_model):
        rows = [dict(row) for row in await read_model.fetch(LIST, redriven, LIST_MAX)]
    cells = [[row[name] for name in COLUMNS] for row in rows]
    terminal.respond(rows, lambda: terminal.print_table(COLUMNS, cells), as_json=as_json)


@dead_letters.command("show")
async def show_letter(dead_letter_id: UUID) -> None:
    """Show all of one, in JSON."""
    async with open_both_pools() as (_, read_model):
        terminal.print_json(await find_letter(read_model, dead_letter_id))


@dead_letters.command("redrive")
async def redrive_letters(
    dead_letter_id: Annotated[UUID | None, typer.Argument(help="One dead letter.")] = None,
    *,
    account: Annotated[str | None, typer.Option(help="All of one account.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every account that waits.")] = False,
    to: Annotated[str | None, typer.Option(help="Deliver one of no account to this URL.")] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Put dead letters through again: each account's stream in its order, nothing twice."""
    if sum((dead_letter_id is not None, account is not None, every)) != 1:
        terminal.fail("give a dead letter's id, --account or --all", code=terminal.USAGE)
    async with open_both_pools() as pools:
        if dead_letter_id is not None:
            one = await redrive_letter(dead_letter_id, *pools, to=to)
            done = [] if one is None else [one]
        else:
            waiting = [row["account_id"] for row in await pools[1].fetch(BLOCKED)]
            accounts = waiting if account is None else [account]
            done = [await redrive_account(each, *pools) for each in accounts]

    shown = [
        f"{each.account_id}: {'[red]still blocked[/]' if each.blocked else 'caught up'} "
        f"at position {each.position}, {each.projected} events projected, "
        f"{each.letters} dead letters put through"
        for each in done
    ]
    nothing = "nothing waits" if dead_letter_id is None else "delivered"
    failed = any(each.blocked for each in done)
    terminal.respond(done, "\n".join(shown) or nothing, as_json=as_json, failed=failed)


@dead_letters.command("drop")
async def drop_letter(dead_letter_id: UUID) -> None:
    """Forget one for good."""
    async with open_both_pools() as (_, read_model):
        await find_letter(read_model, dead_letter_id)
        await read_model.execute(DROP, dead_letter_id)
    terminal.results.print("dropped")
