"""The `saldo` command for users and scripts: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from typer.testing import CliRunner, Result

from saldo.cli import app
from saldo.operate.demo import sample
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support.controls import NOW, income
from tests.support.stored import opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve
    from tests.support.servers import Database, Kafka

COMMANDS = "migrate verify rebuild export restore import dead-letters token balance statement"


class Saldo:
    """Runs commands in this process, with the settings of an operator."""

    def __init__(self, database: Database, **settings: str) -> None:
        url = database.dsn("saldo_operate")
        self.env = {"EVENT_STORE_URL": url, "READ_MODEL_URL": url, "COLUMNS": "200", **settings}

    def __call__(self, *arguments: str, code: int = 0) -> Result:
        # In a thread: a command runs its own loop, and the test may have one.
        with ThreadPoolExecutor(1) as thread:
            result = thread.submit(CliRunner().invoke, app, arguments, env=self.env).result()
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)


@pytest.fixture
def saldo(database: Database) -> Saldo:
    return Saldo(database)


@pytest.fixture
def served(database: Database, serve: Serve) -> Saldo:
    """Serve the functions and return the command with their addresses."""
    return Saldo(
        database,
        RECORD_URL=serve(RECORD).url,
        BALANCE_URL=serve(BALANCE).url,
        PROJECT_URL=serve(PROJECT).url,
    )


def test_help_names_every_command_and_completion(saldo: Saldo) -> None:
    shown = saldo("--help").stdout
    for command in (*COMMANDS.split(), "record", "status", "demo", "--install-completion"):
        assert command in shown


def test_a_missing_setting_is_named(database: Database) -> None:
    bare = Saldo(database, EVENT_STORE_URL="")
    for command in ("verify", "status", "rebuild"):
        assert "EVENT_STORE_URL is missing" in bare(command, code=2).stderr


def test_a_missing_database_is_reported_in_one_line(database: Database) -> None:
    away = Saldo(database, EVENT_STORE_URL="postgresql://nobody@127.0.0.1:1/x")
    assert away("export", "-", code=1).stderr.count("\n") == 1


def test_migrations_are_applied_once(database: Database) -> None:
    url = database.dsn()
    owner = Saldo(database, EVENT_STORE_URL=url, READ_MODEL_URL=url)
    assert owner.json("migrate") == {"event_store": [], "read_model": []}


async def _fill(database: Database) -> None:
    async with opened(database) as ledger:
        await ledger.record(income("10", "ana", description="Salário"))
        await ledger.record(income("10", "bruno"))
        await ledger.project("ana", "bruno")


async def test_verify_exits_with_1_when_something_is_wrong(
    database: Database, saldo: Saldo
) -> None:
    await _fill(database)
    assert saldo.json("verify")["clean"]
    assert "2 events of 2 accounts" in saldo("verify").stdout
    connection = await asyncpg.connect(database.dsn())
    await connection.execute("UPDATE read_model.balance SET balance_minor = 5")
    await connection.close()
    wrong = saldo.json("verify", code=1)
    assert [(f["account_id"], f["column"]) for f in wrong["faults"]] == [
        ("ana", "balance_minor"),
        ("bruno", "balance_minor"),
    ]
    assert "wrong ana position 1: balance.balance_minor" in saldo("verify", code=1).stdout
    assert "2 differences: not switched" in saldo("rebuild", code=1).stdout
    assert saldo.json("rebuild", "--accept-differences")["switched"]
    assert saldo.json("verify")["clean"]


@pytest.mark.parametrize("kind", ["secret", "ed25519"])
async def test_signed_checkpoints_reveal_a_rewritten_table(
    database: Database, saldo: Saldo, tmp_path: Path, kind: str
) -> None:
    await _fill(database)
    key, public, heads = tmp_path / "key", tmp_path / "public", tmp_path / "heads"
    if kind == "secret":
        key.write_text("5a" * 32)
        public.write_text("5a" * 32)
    else:
        private = Ed25519PrivateKey.generate()
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(
            private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    saldo("verify", "--heads", str(heads), "--key", str(key))
    compare = ("verify", "--against", str(heads), "--key", str(public))
    assert "2 accounts were compared with the signed checkpoint" in saldo(*compare).stdout
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana"))  # what comes later is no contradiction
        saldo(*compare)
        await ledger.pool.execute("TRUNCATE event_store.event, event_store.stream")
        await ledger.pool.execute("TRUNCATE event_store.outbox")
        await ledger.record(income("11", "ana"))
        await ledger.pool.execute("TRUNCATE read_model.balance, read_model.statement")
        await ledger.pool.execute("TRUNCATE read_model.daily_total")
        await ledger.project("ana")
    assert saldo.json("verify")["clean"]
    reasons = {f["account_id"]: f["reason"] for f in saldo.json(*compare, code=1)["faults"]}
    assert reasons == {
        "ana": "it is not the signed checkpoint's: the chain was rewritten",
        "bruno": "the event of the signed checkpoint is gone",
    }
    heads.write_text(heads.read_text().replace('"position":1', '"position":2', 1))
    assert "signature" in saldo(*compare, code=1).stderr
    assert "need --key" in saldo("verify", "--against", str(heads), code=2).stderr


async def test_export_and_restore_by_file_and_by_pipe(
    database: Database, saldo: Saldo, tmp_path: Path
) -> None:
    await _fill(database)
    file = tmp_path / "streams.ndjson"
    assert saldo.json("export", str(file))["events"] == 2
    assert saldo("export", "-").stdout == file.read_text()
    assert saldo.json("restore", str(file)) == {
        "accounts": 2,
        "events": 2,
        "present": 2,
        "refused": [],
    }
    file.write_text(file.read_text().replace("Salário", "Salario"))
    assert "line 1" in saldo("restore", str(file), code=1).stderr


async def test_export_names_events_that_a_restore_would_refuse(
    database: Database, saldo: Saldo, tmp_path: Path
) -> None:
    await _fill(database)
    async with opened(database) as ledger:
        account_id = await ledger.pool.fetchval(
            "UPDATE event_store.event SET hash = '' WHERE event_id ="
            " (SELECT min(event_id::text)::uuid FROM event_store.event) RETURNING account_id"
        )
    file = tmp_path / "streams.ndjson"
    exported = saldo("export", str(file), code=1)
    assert f"a restore will refuse {account_id}" in exported.stderr
    assert len(file.read_text().splitlines()) == 3


async def test_erasures_are_saved_and_repeated(
    database: Database, saldo: Saldo, tmp_path: Path
) -> None:
    await _fill(database)
    file = tmp_path / "erasures.ndjson"
    saldo("erasures", "save", str(file))
    assert saldo.json("erasures", "repeat", str(file)) == {
        "erased": 0,
        "erased_before": 0,
        "absent": 0,
    }


async def test_dead_letters_are_listed_shown_and_redriven(database: Database, saldo: Saldo) -> None:
    await _fill(database)
    async with opened(database) as ledger:
        await ledger.record(income("1", "ana"))
        await ledger.pool.execute(
            "UPDATE event_store.event SET private_text = '[]' WHERE position = 2"
        )
        await ledger.project("ana")
        [letter] = saldo.json("dead-letters", "list")
        identity = letter["dead_letter_id"]
        assert "ana" in saldo("dead-letters", "list").stdout
        assert json.loads(saldo("dead-letters", "show", identity).stdout)["position"] == 2
        assert saldo.json("dead-letters", "redrive", identity, code=1)[0]["blocked"]
        await ledger.erase("ana", 2)
        assert saldo.json("dead-letters", "redrive", "--all")[0]["projected"] == 1
        assert "nothing waits" in saldo("dead-letters", "redrive", "--all").stdout
        saldo("dead-letters", "drop", identity)
        assert saldo.json("dead-letters", "list", "--all") == []
        for command in ("show", "drop"):
            assert "no such" in saldo("dead-letters", command, identity, code=1).stderr
        assert "give a dead letter" in saldo("dead-letters", "redrive", code=2).stderr
        assert saldo.json("verify")["clean"]


def test_the_ledger_commands_call_the_functions(served: Saldo) -> None:
    recorded = served.json("record", "ana", "income", "1000.50", "Salário", "--key", "salary")
    assert (recorded["position"], recorded["balance"]) == (1, 1000.50)
    assert (
        served.json("record", "ana", "income", "1000.50", "Salário", "--key", "salary") == recorded
    )
    assert "412" in served("record", "ana", "expense", "5", "--expected", "7", code=1).stderr
    assert "400" in served("record", "ana", "gift", "5", code=1).stderr
    served("dead-letters", "redrive", "--account", "ana")  # catches it up, Kafka is down here
    assert served.json("balance", "ana")["position"] == 1
    assert "1000.5" in served("balance", "ana", "nobody").stdout
    [line] = served.json("statement", "ana")
    assert (line["description"], line["balance"]) == ("Salário", 1000.50)
    assert "Salário" in served("statement", "ana", "--limit", "1").stdout
    assert "404" in served("balance", "nobody", code=1).stderr
    assert "cannot be reached" in without_balance(served)("balance", "ana", code=1).stderr


def without_balance(served: Saldo) -> Saldo:
    """Return the same settings with an unreachable get_balance."""
    down = Saldo.__new__(Saldo)
    down.env = served.env | {"BALANCE_URL": "http://127.0.0.1:1"}
    return down


def test_the_demo_records_a_year_once(served: Saldo) -> None:
    demo = served.json("demo")
    assert demo["replayed"] == 0
    assert len(demo["balances"]) == 5
    assert demo["transactions"] > 1_000
    assert served.json("demo")["replayed"] == demo["transactions"]
    assert list(sample(7, NOW.date())) == list(sample(7, NOW.date()))
    assert list(sample(7, NOW.date())) != list(sample(8, NOW.date()))


def test_status_shows_every_part_and_what_waits(served: Saldo) -> None:
    served("record", "ana", "income", "5")
    served("dead-letters", "redrive", "--account", "ana")
    status = served.json("status")
    assert status["parts"] == dict.fromkeys(status["parts"], "ok")
    assert len(status["parts"]) == 5
    assert (status["events"], status["behind_positions"]) == (1, 0)
    assert status["outbox_rows"] == 1  # Kafka is down here
    shown = without_balance(served)("status", code=1).stdout
    assert "get_balance" in shown
    assert "down" in shown


def test_status_checks_no_function_whose_url_is_not_set(served: Saldo) -> None:
    """Nothing listens on the local stack's ports where the command runs as a Job."""
    del served.env["PROJECT_URL"]
    status = served.json("status")
    assert status["parts"]["project_balance"] == "not checked: set PROJECT_URL"
    assert status["parts"]["get_balance"] == "ok"
    assert "project_balance     not checked: set PROJECT_URL" in served("status").stdout


class Ahead(BaseHTTPRequestHandler):
    """A function that is not ready, on a clock that is three hours ahead."""

    def do_GET(self) -> None:
        self.send_error(503)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + 3 * 3600)


def test_status_names_a_function_with_a_wrong_clock(served: Saldo) -> None:
    """Whether it is ready or not."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Ahead) as server, ThreadPoolExecutor(1) as thread:
        thread.submit(server.serve_forever)
        served.env["BALANCE_URL"] = f"http://127.0.0.1:{server.server_port}"
        status = served.json("status", code=1)
        shown = served("status", code=1).stdout
        server.shutdown()
    assert abs(status["clocks_ahead_s"].pop("get_balance") - 3 * 3600) < 60
    assert status["clocks_ahead_s"] == {"record_transaction": 0.0, "project_balance": 0.0}
    assert status["parts"]["get_balance"] == "responds 503"
    assert "get_balance: its clock is 1" in shown


async def test_verify_reads_the_topic(
    database: Database, serve: Serve, kafka: Kafka, topic: str
) -> None:
    """It holds exactly the committed events; those that a restore lost are listed separately."""
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA_TOPIC": topic,
        "KAFKA_SECURITY": "plaintext",
    }
    record = serve(RECORD, **settings)
    saldo = Saldo(database, RECORD_URL=record.url, **settings)
    for number in range(5):
        saldo("record", "ana", "income", str(number + 1), '","private":')
    record.child.stop(20)  # which waits until all is sent
    async with opened(database) as ledger:
        assert await ledger.pool.fetchval("SELECT count(*) FROM event_store.outbox") == 0
        sound = saldo.json("verify", "--topic")
        assert (sound["clean"], sound["topic"]["records"]) == (True, 5)
        # As after a restore to an earlier point in time: the topic knows of more.
        await ledger.pool.execute("DELETE FROM event_store.event WHERE position = 5")
        await ledger.pool.execute(
            "UPDATE event_store.stream AS s SET position = 4, hash = e.hash, "
            "balance_minor = e.balance_minor, recorded_at = "
            "(e.public_text::json->>'recordedAt')::timestamptz "
            "FROM event_store.event AS e WHERE e.position = 4"
        )
        lost = saldo.json("verify", "--topic", code=1)
        at = saldo.json("verify", "--topic", "--restored-at", "2100-01-01")
        # And an event that was never sent, whose outbox row is gone.
        await ledger.record(income("5", "ana"))
        await ledger.pool.execute("TRUNCATE event_store.outbox")
        missing = saldo.json("verify", "--topic", "--restored-at", "2100-01-01", code=1)
    assert [(f["table"], f["position"]) for f in lost["faults"]] == [("topic", 5)]
    assert (at["clean"], at["topic"]["lost_to_restore"]) == (True, 1)
    assert [f["reason"] for f in missing["faults"]] == ["it is missing"]


def test_the_installed_command_runs() -> None:
    shown = subprocess.run(
        ["saldo", "verify", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"PATH": f"{sys.prefix}/bin", "TERM": "dumb"},
    )
    assert "--against" in shown.stdout
