"""``saldo rebuild``: the read model from the event store."""

from __future__ import annotations

from typing import Annotated

import typer

from saldo.operate.settings import open_both_pools
from saldo.operate.terminal import AsJson, progress_bar, respond
from saldo.project.rebuild import Rebuild, Rebuilt, discard_rebuild

SHOWN_MAX = 50


async def rebuild_command(
    *,
    accept_differences: Annotated[bool, typer.Option(help="Switch even if they differ.")] = False,
    discard: Annotated[bool, typer.Option(help="Only drop what an interrupted run left.")] = False,
    as_json: AsJson = False,
) -> None:
    """Recreate the read model from the event store, and switch to it under traffic."""
    rebuilt = Rebuilt()
    with progress_bar("accounts", as_json=as_json) as progress:
        async with open_both_pools() as (streams, read_model):
            if discard:
                await discard_rebuild(read_model)
            else:
                work = Rebuild(streams, read_model, progress)
                rebuilt = await work.run(accept_differences=accept_differences)

    lines = []
    for d in rebuilt.differences[:SHOWN_MAX]:
        position = "" if d.position is None else f" position {d.position}"
        lines.append(f"[yellow]differs[/] {d.account_id}{position}: {d.table}")
    end = "not switched. --accept-differences switches to the new read model"
    if rebuilt.switched:
        end = f"switched in {rebuilt.switch_ms:.0f} ms"
    lines.append(f"{rebuilt.accounts} accounts, {len(rebuilt.differences)} differences: {end}")
    shown = "discarded" if discard else "\n".join(lines)
    respond(rebuilt, shown, as_json=as_json, failed=not (rebuilt.switched or discard))
