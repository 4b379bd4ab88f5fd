"""``saldo``: the operator's command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saldo.bank_import.command import import_statement_command
from saldo.operate import ledger_commands
from saldo.operate.dead_letters import dead_letters
from saldo.operate.erasures import erasures
from saldo.operate.migrate import migrate_command
from saldo.operate.rebuild import rebuild_command
from saldo.operate.status import status_command
from saldo.operate.streams import export_command, restore_command
from saldo.operate.terminal import App, Commands
from saldo.operate.token import issuer_command, token_command
from saldo.operate.verification.command import verify_command

if TYPE_CHECKING:
    from collections.abc import Callable

app = App(
    cls=Commands,
    no_args_is_help=True,
    help="Account balances that are never wrong.",
    pretty_exceptions_show_locals=False,  # they hold URLs with passwords
)

_PANELS: dict[str, dict[str, Callable[..., object]]] = {
    "The ledger": {
        "record": ledger_commands.record_command,
        "balance": ledger_commands.balance_command,
        "statement": ledger_commands.statement_command,
        "import": import_statement_command,
        "demo": ledger_commands.demo_command,
    },
    "Operation": {
        "migrate": migrate_command,
        "token": token_command,
        "issuer": issuer_command,
        "status": status_command,
        "verify": verify_command,
        "rebuild": rebuild_command,
        "export": export_command,
        "restore": restore_command,
    },
}
for panel, commands in _PANELS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
app.add_typer(dead_letters, name="dead-letters", rich_help_panel="Operation")
app.add_typer(erasures, name="erasures", rich_help_panel="Operation")

if __name__ == "__main__":
    app()
