"""The entry point of saldo-base/postgres: what the official image does with the same settings.

Standard library only; it runs in a container, by itself. POSTGRES_PASSWORD_FILE and POSTGRES_DB are
used when the data directory is new.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DATA = Path(os.environ.get("PGDATA", "/var/lib/postgresql/18/docker"))
SUPERUSER = "postgres"


def main(arguments: list[str]) -> None:
    """Make the data directory if it is not there, then become the server."""
    if not (DATA / "PG_VERSION").exists():
        make_data_dir()
    # The official image's `postgres` is this command's first word; flags may follow it.
    flags = arguments[1:] if arguments[:1] == ["postgres"] else arguments
    os.execvp("postgres", ["postgres", "-D", str(DATA), "-c", "listen_addresses=*", *flags])  # noqa: S606, S607


def make_data_dir() -> None:
    """Run initdb with the password, let the network in by it alone, and create the database."""
    DATA.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["initdb", "--pgdata", str(DATA), "--username", SUPERUSER, "--encoding", "UTF8"]
        + ["--locale", "C", "--auth-local", "trust", "--auth-host", "scram-sha-256"]
        + ["--pwfile", os.environ["POSTGRES_PASSWORD_FILE"]],
        check=True,
    )
    with (DATA / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")
    database = os.environ.get("POSTGRES_DB", SUPERUSER)
    if database != SUPERUSER:
        # In single-user mode: no client can connect before it is there.
        subprocess.run(
            ["postgres", "--single", "-D", str(DATA), SUPERUSER],  # noqa: S607
            input=f'CREATE DATABASE "{database}"\n',
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
