"""``saldo erasures``: save the list of erased private parts, and erase them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saldo.operate.erasures import Repeated, repeat_erasures, save_erasures
from saldo.operate.settings import read_operator_settings
from saldo.operate.terminal import AsJson, answers, notes, opened, respond, run, written

erasures = typer.Typer(no_args_is_help=True, help="Private parts that were erased, for a restore.")


@erasures.command("save")
def save_erasures_command(
    file: Annotated[Path, typer.Argument(help="Where to; - is standard output.", allow_dash=True)],
) -> None:
    """Write which private parts were erased, without any text. Keep it apart from the backups."""

    async def save() -> int:
        url = read_operator_settings().event_store_url
        with written(file) as out:
            return await save_erasures(url, out)

    saved = run(save(), resumes="nothing was written to the file")
    notes.print(f"{saved} erasures")


@erasures.command("repeat")
def repeat_erasures_command(
    file: Annotated[
        Path, typer.Argument(help="A list, or a newer export; - is input.", allow_dash=True)
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Erase again what the list names, after a restore has brought it back."""

    async def repeat() -> Repeated:
        with opened(file) as lines:
            return await repeat_erasures(read_operator_settings().event_store_url, lines)

    done = run(repeat(), resumes="the same command goes on from here")
    shown = (
        f"{done.erased} private parts erased again, {done.erased_before} were erased already, "
        f"{done.absent} are of events that this store does not have"
    )
    respond(done, lambda: answers.print(shown), as_json=as_json)
