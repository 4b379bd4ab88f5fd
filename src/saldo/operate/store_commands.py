"""The commands that move whole stores: rebuild, export and restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saldo.operate.settings import open_both_pools, read_operator_settings
from saldo.operate.streams import Moved, export_streams, restore_streams
from saldo.operate.terminal import (
    FAILED,
    PIPE,
    AsJson,
    answers,
    notes,
    opened,
    progress_bar,
    respond,
    run,
    written,
)
from saldo.project.rebuild import Rebuild, Rebuilt

SHOWN_MAX = 50


def rebuild_command(
    *,
    accept_differences: Annotated[
        bool, typer.Option(help="Switch even if old and new read model differ.")
    ] = False,
    discard: Annotated[
        bool, typer.Option(help="Only drop what an interrupted rebuild has left.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recreate the read model from the event store, and switch to it under traffic."""

    async def rebuild() -> Rebuilt:
        async with open_both_pools() as (streams, read_model):
            with progress_bar("accounts", as_json=as_json) as progress:
                work = Rebuild(streams, read_model, progress)
                if not discard:
                    return await work.run(accept_differences=accept_differences)
                await work.discard()
                return Rebuilt()

    rebuilt = run(
        rebuild(), resumes="the same command goes on from here, --discard drops what was done"
    )

    def show() -> None:
        if discard:
            answers.print("discarded")
            return
        for d in rebuilt.differences[:SHOWN_MAX]:
            position = "" if d.position is None else f" position {d.position}"
            answers.print(f"[yellow]differs[/yellow] {d.account_id}{position}: {d.table}")
        answers.print(
            f"{rebuilt.accounts} accounts, {len(rebuilt.differences)} differences: "
            + (
                f"switched in {rebuilt.switch_ms:.0f} ms"
                if rebuilt.switched
                else "not switched. --accept-differences switches to the new read model"
            )
        )

    respond(rebuilt, show, as_json=as_json)
    if not rebuilt.switched and not discard:
        raise typer.Exit(FAILED)


def export_command(
    file: Annotated[Path, typer.Argument(help="Where to; - is standard output.", allow_dash=True)],
    *,
    as_json: AsJson = False,
) -> None:
    """Write all event streams as NDJSON, each event with its exact texts and its hash.

    Exit 1 if a restore would refuse some of them; they are written all the same.
    """
    to_pipe = str(file) == PIPE

    async def export() -> Moved:
        url = read_operator_settings().event_store_url
        with progress_bar("events", as_json=as_json or to_pipe) as progress, written(file) as out:
            return await export_streams(url, out, progress)

    moved = run(export(), resumes="nothing was written to the file")

    def show() -> None:
        notes.print(f"{moved.events} events of {moved.accounts} accounts")
        for refused in moved.refused[:SHOWN_MAX]:
            notes.print(f"[red]a restore will refuse[/red] {refused}", soft_wrap=True)

    respond(moved, show, as_json=as_json and not to_pipe)
    if moved.refused:
        raise typer.Exit(FAILED)


def restore_command(
    file: Annotated[Path, typer.Argument(help="An export; - is standard input.", allow_dash=True)],
    *,
    outbox: Annotated[bool, typer.Option(help="Publish the restored events again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an export's streams to the event store; what is there already must be the same."""

    async def restore() -> Moved:
        url = read_operator_settings().event_store_url
        with progress_bar("events", as_json=as_json) as progress, opened(file) as lines:
            return await restore_streams(url, lines, lambda n: progress(n, n), outbox=outbox)

    moved = run(restore(), resumes="the same command goes on from here")

    def show() -> None:
        answers.print(
            f"{moved.events} events of {moved.accounts} accounts, "
            f"{moved.present} were there already"
        )
        if moved.events > moved.present:
            answers.print("What was erased since the export is back: `saldo erasures repeat`")

    respond(moved, show, as_json=as_json)
