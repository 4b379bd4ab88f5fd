"""``saldo dead-letters``: list, show, redrive and drop."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from saldo.operate.redrive import DeadLetters, Redriven
from saldo.operate.settings import open_both_pools
from saldo.operate.terminal import (
    FAILED,
    USAGE,
    AsJson,
    answers,
    fail,
    print_json,
    print_table,
    respond,
    run,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COLUMNS = ("dead_letter_id", "account_id", "position", "reason", "received_at", "redriven_at")

dead_letters = typer.Typer(no_args_is_help=True, help="Events that the projector gave up on.")


@contextlib.asynccontextmanager
async def _letters() -> AsyncIterator[DeadLetters]:
    async with open_both_pools() as (streams, read_model):
        yield DeadLetters(streams, read_model)


@dead_letters.command("list")
def list_letters(
    *,
    redriven: Annotated[bool, typer.Option("--all", help="Those put through, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what waits, the oldest first."""

    async def listed() -> list[dict[str, object]]:
        async with _letters() as letters:
            return [dict(row) for row in await letters.waiting(redriven=redriven)]

    rows = run(listed())
    cells = [[row[name] for name in COLUMNS] for row in rows]
    respond(rows, lambda: print_table(COLUMNS, cells), as_json=as_json)


@dead_letters.command("show")
def show_letter(dead_letter_id: UUID) -> None:
    """Show all of one, in JSON."""

    async def shown() -> dict[str, object]:
        async with _letters() as letters:
            return dict(await letters.show(dead_letter_id))

    print_json(run(shown()))


@dead_letters.command("redrive")
def redrive_letters(
    dead_letter_id: Annotated[UUID | None, typer.Argument(help="One dead letter.")] = None,
    *,
    account: Annotated[str | None, typer.Option(help="All of one account.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every account that waits.")] = False,
    to: Annotated[
        str | None, typer.Option(help="Where to deliver one that is of no account: a URL.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put dead letters through again: each account's stream in its order, nothing twice."""
    if sum((dead_letter_id is not None, account is not None, every)) != 1:
        fail("give a dead letter's id, --account or --all", code=USAGE)

    async def redriven() -> list[Redriven]:
        async with _letters() as letters:
            if dead_letter_id is not None:
                one = await letters.redrive(dead_letter_id, to=to)
                return [] if one is None else [one]
            accounts = [account] if account is not None else await letters.accounts()
            return [await letters.redrive_account(each) for each in accounts]

    done = run(redriven(), resumes="the same command goes on from here")

    def show() -> None:
        for each in done:
            state = "[red]still blocked[/red]" if each.blocked else "caught up"
            answers.print(
                f"{each.account_id}: {state} at position {each.position}, "
                f"{each.projected} events projected, {each.letters} dead letters put through"
            )
        if not done:
            answers.print("delivered" if dead_letter_id is not None else "nothing waits")

    respond(done, show, as_json=as_json)
    if any(each.blocked for each in done):
        raise typer.Exit(FAILED)


@dead_letters.command("drop")
def drop_letter(dead_letter_id: UUID) -> None:
    """Forget one for good."""

    async def dropped() -> None:
        async with _letters() as letters:
            await letters.drop(dead_letter_id)

    run(dropped())
    answers.print("dropped")
