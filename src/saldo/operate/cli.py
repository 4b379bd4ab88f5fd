"""``saldo``: the operator's command."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from saldo.operate.migrate import SIDES, ChangedMigration, migrate

app = typer.Typer(no_args_is_help=True, help="Account balances that are never wrong.")


@app.callback()
def _root() -> None:
    """Saldo's operator commands."""


@app.command("migrate")
def migrate_command(
    event_store_url: Annotated[str, typer.Option(envvar="EVENT_STORE_URL")],
    read_model_url: Annotated[str, typer.Option(envvar="READ_MODEL_URL")],
) -> None:
    """Create or update the tables of both sides."""
    iam = os.environ.get("DATABASE_AUTH") == "rds-iam"
    for side, url in zip(SIDES, (event_store_url, read_model_url), strict=True):
        try:
            applied = asyncio.run(migrate(side, url, iam=iam))
        except ChangedMigration as changed:
            typer.echo(f"saldo: {changed}", err=True)
            raise typer.Exit(1) from changed
        typer.echo(f"{side}: {', '.join(applied) or 'up to date'}")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
