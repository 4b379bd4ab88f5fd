"""The command `make measure-verify`: the time of `saldo verify` for a million events.

The product's own recording and catch-up make the ledger. Only the outbox is emptied by hand, as
after Kafka's acknowledgements.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from local import postgres
from local.postgres import start_postgres
from saldo.operate.verification.run import verify, workers_default
from tests.support import servers
from tests.support.controls import expense, income
from tests.support.servers import Database
from tests.support.stored import opened

ACCOUNTS = 1_000
LINES_A_REQUEST = 1_000
WRITERS = 3
ACCOUNTS_A_ROUND = 5


async def fill(database: Database, events: int) -> None:
    """Record ``events`` over ACCOUNTS accounts, and project them."""
    requests = iter(range(events // LINES_A_REQUEST))
    async with opened(database) as ledger:

        async def write() -> None:
            for number in requests:
                lines = [
                    (income if line % 3 else expense)("1.25", f"account-{line % ACCOUNTS}")
                    for line in range(LINES_A_REQUEST)
                ]
                await ledger.record(*lines, key=f"request-{number}")

        accounts = iter(range(0, ACCOUNTS, ACCOUNTS_A_ROUND))

        async def project() -> None:
            for start in accounts:
                await ledger.project(
                    *(f"account-{start + further}" for further in range(ACCOUNTS_A_ROUND))
                )

        await asyncio.gather(*(write() for _ in range(WRITERS)))
        await asyncio.gather(*(project() for _ in range(WRITERS)))
        await ledger.pool.execute("DELETE FROM event_store.outbox")
        await ledger.pool.execute("VACUUM ANALYZE")


async def measure(folder: Path, events: int) -> dict[str, object]:
    """Return seconds, events and faults of one verification; a kept ``folder`` holds its data."""
    data_dir = folder / "postgres"
    fresh = not data_dir.exists()
    server = start_postgres(data_dir, folder / "postgres.log", durable=False)
    try:
        database = Database(data_dir=data_dir, name=postgres.DATABASE)
        if fresh:
            servers.migrate(database, folder / "migrate.log")
            await fill(database, events)
        async with opened(database) as ledger:
            started = time.monotonic()
            report = await verify(
                ledger.settings, workers=workers_default(), progress=lambda _done, _total: None
            )
            seconds = time.monotonic() - started
    finally:
        server.stop()
    return {
        "events": report.counts.events,
        "faults": report.faults_total,
        "seconds": round(seconds, 1),
        "workers": workers_default(),
        "load": round(os.getloadavg()[0], 1),
    }


def main(arguments: list[str]) -> int:
    """Print the measurement as JSON; 1 when the verification found a fault."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.measure_verify", description=__doc__
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the ledger here, for another measurement")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="saldo-million-") as scratch:
        measured = asyncio.run(measure(given.folder or Path(scratch), given.events))
    print(json.dumps(measured))  # noqa: T201 - it is what the command is for
    return 1 if measured["faults"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
