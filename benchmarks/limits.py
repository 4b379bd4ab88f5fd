"""The limits that the figures are compared with: bare database work, and the framework's start.

``python -m benchmarks.limits`` inserts in a separate process, as a function does.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import asyncpg
import uvloop

from benchmarks.placement import pin
from benchmarks.wrk import PATIENCE_S, NoFigure
from local import postgres, services

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.stack import Stack

CLIENTS = 10
ROWS_A_COMMIT = 100
IMPORT_TIMEOUT_S = 60.0
SAMPLES_MAX = 1_000_000

# As wide as an event: its public text, its private text and its hashes have about so many bytes.
ROW_TEXT = "x" * 700
PREPARE = """
CREATE SCHEMA IF NOT EXISTS benchmark;
CREATE TABLE IF NOT EXISTS benchmark.inserted (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account_id text NOT NULL, body text NOT NULL
);
TRUNCATE benchmark.inserted;
"""
INSERT_ROWS = "INSERT INTO benchmark.inserted (account_id, body) VALUES"
INSERT = f"{INSERT_ROWS} ($1, $2)"


def insert_median_ms(stack: Stack, seconds: float) -> float:
    """Return the median time of a one-row INSERT with its commit, one after another."""
    stack.sql(PREPARE)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.limits", stack.server.dsn(), str(seconds)],
        cwd=services.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = process.communicate(timeout=seconds + PATIENCE_S)
    if process.returncode != 0:
        raise NoFigure("the INSERTs by asyncpg failed; their words are above")
    return float(json.loads(said)["median_ms"])


async def _insert(dsn: str, seconds: float) -> float:
    connection = await asyncpg.connect(dsn)
    took: list[float] = []
    ends_at = time.perf_counter() + seconds
    for _ in range(SAMPLES_MAX):
        began = time.perf_counter()
        await connection.execute(INSERT, "account-1", ROW_TEXT)
        took.append(time.perf_counter() - began)
        if time.perf_counter() >= ends_at:
            break
    await connection.close()
    return statistics.median(took) * 1e3


def pgbench_rows_per_s(stack: Stack, seconds: float) -> float:
    """Return the rows per second of CLIENTS clients, with ROWS_A_COMMIT rows per commit."""
    stack.sql(PREPARE)
    script = stack.folder / "insert.sql"
    rows = ",".join(f"('account-{number}','{ROW_TEXT}')" for number in range(ROWS_A_COMMIT))
    script.write_text(f"{INSERT_ROWS} {rows};\n")
    command: list[str | Path] = [postgres.binary("pgbench"), "--no-vacuum"]
    command += ["--protocol", "prepared", "--client", str(CLIENTS), "--jobs", "1"]
    command += ["--time", str(max(1, round(seconds))), "--file", script, stack.server.dsn()]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said, failed = process.communicate(timeout=seconds + PATIENCE_S)
    found = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
    if process.returncode != 0 or found is None:
        raise NoFigure(f"pgbench failed: {failed.strip()[-300:]}")
    return float(found[1]) * ROWS_A_COMMIT


def import_s(stack: Stack) -> float:
    """Return the seconds in which a Python imports functions-framework and ends."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", "import functions_framework"])
    pin(process.pid, stack.placement.function)
    if process.wait(IMPORT_TIMEOUT_S) != 0:
        raise NoFigure("functions_framework cannot be imported")
    return time.perf_counter() - began


def main() -> None:
    """Insert for so many seconds; prints the median in milliseconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    median_ms = uvloop.run(_insert(options.dsn, options.seconds))
    print(json.dumps({"median_ms": median_ms}))


if __name__ == "__main__":
    main()
