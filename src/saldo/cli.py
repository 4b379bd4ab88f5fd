"""``saldo``: the operator's command."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from saldo.bank_import.command import import_statement_command
from saldo.operate.erasure_commands import erasures
from saldo.operate.ledger_commands import (
    balance_command,
    demo_command,
    record_command,
    statement_command,
)
from saldo.operate.migrate import SIDES, ChangedMigration, migrate
from saldo.operate.status import status_command
from saldo.operate.store_commands import (
    dead_letters,
    export_command,
    rebuild_command,
    restore_command,
    verify_command,
)
from saldo.operate.terminal import AsJson, answers, fail, print_json, run
from saldo.operate.token import issuer_command, token_command

app = typer.Typer(
    no_args_is_help=True,
    help="Account balances that are never wrong.",
    pretty_exceptions_show_locals=False,  # they hold URLs with passwords
)

_LEDGER = "The ledger"
_OPERATION = "Operation"
for name, command, panel in (
    ("record", record_command, _LEDGER),
    ("balance", balance_command, _LEDGER),
    ("statement", statement_command, _LEDGER),
    ("import", import_statement_command, _LEDGER),
    ("demo", demo_command, _LEDGER),
    ("token", token_command, _OPERATION),
    ("issuer", issuer_command, _OPERATION),
    ("status", status_command, _OPERATION),
    ("verify", verify_command, _OPERATION),
    ("rebuild", rebuild_command, _OPERATION),
    ("export", export_command, _OPERATION),
    ("restore", restore_command, _OPERATION),
):
    app.command(name, rich_help_panel=panel)(command)
app.add_typer(dead_letters, name="dead-letters", rich_help_panel=_OPERATION)
app.add_typer(erasures, name="erasures", rich_help_panel=_OPERATION)


@app.command("migrate", rich_help_panel=_OPERATION)
def migrate_command(
    event_store_url: Annotated[str, typer.Option(envvar="EVENT_STORE_URL")],
    read_model_url: Annotated[str, typer.Option(envvar="READ_MODEL_URL")],
    *,
    as_json: AsJson = False,
) -> None:
    """Create or update the tables of both sides."""
    iam = os.environ.get("DATABASE_AUTH") == "rds-iam"
    done: dict[str, list[str]] = {}
    for side, url in zip(SIDES, (event_store_url, read_model_url), strict=True):
        try:
            done[side] = run(migrate(side, url, iam=iam))
        except ChangedMigration as changed:
            fail(str(changed))
    if as_json:
        print_json(done)
        return
    for side, applied in done.items():
        answers.print(f"{side}: {', '.join(applied) or 'up to date'}")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
