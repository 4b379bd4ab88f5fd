"""The command ``saldo import`` with the real functions: from files to balances and statements."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from typer.testing import CliRunner

from saldo.bank_import import sender
from saldo.bank_import.sender import CHUNK_LINES_MAX, Outcome
from saldo.cli import app
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support import servers
from tests.support.statement_files import SAMPLES, WRITERS, BankLine, as_csv, as_ofx, numbered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

    from tests.conftest import Serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Saldo:
    """The functions, and a separate account."""

    record_url: str
    balance_url: str
    account: str

    def run(self, *arguments: str) -> Result:
        """Run the command as a script does."""
        return CliRunner().invoke(
            app,
            ["import", *arguments, f"--account={self.account}"],
            env={"RECORD_URL": self.record_url, "BALANCE_URL": self.balance_url},
        )

    def imported(self, file: Path, *arguments: str) -> dict[str, Any]:
        """Import a file, check that it succeeds and return its JSON output."""
        result = self.run(str(file), "--yes", "--json", *arguments)
        assert result.exit_code == 0, result.output
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def statement(self, position: int) -> list[dict[str, Any]]:
        """Return all transactions up to ``position``, by position, once they are projected."""
        query: dict[str, str | int] = {"accountId": self.account}
        httpx.get(
            f"{self.balance_url}/balances",
            params=query | {"minPosition": position},
            headers={"Prefer": "wait=30"},
            timeout=servers.REQUEST_TIMEOUT_S,
        ).raise_for_status()
        url = f"{self.balance_url}/transactions"
        found: list[dict[str, Any]] = []
        cursor: dict[str, str | int] = {}
        for _ in range(100):
            page = httpx.get(
                url, params=query | {"limit": 100} | cursor, timeout=servers.REQUEST_TIMEOUT_S
            ).json()
            found += page["transactions"]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        return sorted(found, key=lambda each: int(each["position"]))

    def exists(self) -> bool:
        """Return whether the event store has the account."""
        url = f"{self.record_url}/accounts/{self.account}/events"
        answer = httpx.get(url, timeout=servers.REQUEST_TIMEOUT_S)
        return answer.status_code == 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """Where the functions of the module are."""

    record_url: str
    balance_url: str


@pytest.fixture(scope="module")
def functions(
    postgres_data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Functions]:
    """Serve the three functions without Kafka, so the projector's sweep catches up."""
    logs = tmp_path_factory.mktemp("import")
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(servers.cloned_database(postgres_data_dir))
        started = {}
        for function in (RECORD, BALANCE, PROJECT):
            log = logs / f"{function.name}.log"
            served = servers.start_function(function, database, log, {})
            stack.callback(served.child.kill)
            started[function.name] = served
        yield Functions(
            record_url=started["record_transaction"].url,
            balance_url=started["get_balance"].url,
        )


@pytest.fixture
def saldo(functions: Functions) -> Saldo:
    return Saldo(
        record_url=functions.record_url,
        balance_url=functions.balance_url,
        account=f"import-{secrets.token_hex(6)}",
    )


def written(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def a_month(count: int) -> list[BankLine]:
    kinds = itertools.cycle([(520_000, "SALARIO"), (-450, "CAFE"), (-450, "CAFE"), (-9_076, "PAO")])
    first = date(2026, 1, 1)
    return [BankLine(first + timedelta(days=place // 5), *next(kinds)) for place in range(count)]


def test_a_bank_file_becomes_the_accounts_statement(saldo: Saldo) -> None:
    answer = saldo.imported(SAMPLES / "checking.ofx", "--with-opening-balance")

    assert (answer["recorded"], answer["alreadyThere"], answer["reworded"]) == (6, 0, [])
    assert answer["comparison"] == {
        "on": "2026-01-31",
        "statement": "3800.24",
        "saldo": "3800.24",
        "difference": "0",
    }
    assert [
        (each["type"], each["value"], each["occurredAt"][:10], each["description"])
        for each in saldo.statement(6)
    ] == [
        ("INCOME", 500, "2026-01-05", "Opening balance"),
        ("INCOME", 5200, "2026-01-05", "SALÁRIO PADARIA AURORA LTDA"),
        ("EXPENSE", 90.76, "2026-01-10", "MÓVEIS & CIA PARC 02/05"),
        ("EXPENSE", 4.5, "2026-01-10", "CAFÉ DA ESQUINA"),
        ("EXPENSE", 4.5, "2026-01-10", "CAFÉ DA ESQUINA"),
        ("EXPENSE", 1800, "2026-01-31", "ALUGUEL JANEIRO"),
    ]
    assert saldo.statement(6)[1]["metadata"] == {"bankReference": "20260105001"}


@pytest.mark.parametrize(
    "name", ["checking.ofx", "giro.sta", "statement.camt.xml", "extrato.csv", "with_ids.csv"]
)
def test_a_file_imported_twice_is_recorded_once(saldo: Saldo, name: str) -> None:
    currency = ["--currency=BRL"] if name.endswith(".csv") else []
    first = saldo.imported(SAMPLES / name, *currency)

    # the account now tells the currency of a file that does not
    second = saldo.imported(SAMPLES / name)

    assert first["recorded"] == first["lines"]
    assert (second["recorded"], second["alreadyThere"]) == (0, first["lines"])


def test_overlapping_files_are_recorded_as_their_union(saldo: Saldo, tmp_path: Path) -> None:
    """Equal lines on every day; the files share days, and one is of another format."""
    lines = a_month(60)
    days = sorted({line.on for line in lines})

    def between(first: int, after: int) -> list[BankLine]:
        return [line for line in lines if line.on in days[first:after]]

    windows = [as_csv(between(4, 9)), as_ofx(between(0, 6)), as_csv(between(3, 12))]
    files = [written(tmp_path, f"{n}.txt", content) for n, content in enumerate(windows)]
    recorded = [saldo.imported(file, "--currency=BRL")["recorded"] for file in files]

    assert recorded == [25, 20, 15]
    held = saldo.statement(60)
    assert sorted((each["occurredAt"][:10], each["description"]) for each in held) == sorted(
        (line.on.isoformat(), line.description) for line in lines
    )


def test_a_balance_difference_is_shown_with_its_reason(saldo: Saldo) -> None:
    result = saldo.run(str(SAMPLES / "checking.ofx"), "--yes")

    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert "the bank says 3,800.24 BRL, Saldo 3,300.24 BRL: -500.00 BRL" in shown
    assert "--with-opening-balance" in shown

    answer = saldo.imported(SAMPLES / "checking.ofx", "--with-opening-balance")
    assert (answer["recorded"], answer["comparison"]["difference"]) == (1, "0")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken_amount.ofx", "line 20: "),
        ("broken_line.sta", "line 7: "),
        ("broken_xml.camt.xml", "line 21: "),
        ("broken_quote.csv", "line 3: "),
        ("ambiguous_dates.csv", "line 2: "),
    ],
)
def test_a_broken_file_records_nothing(saldo: Saldo, name: str, said: str) -> None:
    result = saldo.run(str(SAMPLES / name), "--yes", "--currency=BRL")

    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert not saldo.exists()


def test_a_dry_run_shows_all_and_records_nothing(saldo: Saldo) -> None:
    result = saldo.run(str(SAMPLES / "checking.ofx"), "--dry-run")

    assert result.exit_code == 0
    assert "SALÁRIO PADARIA" in result.stdout
    assert "line 69: the amount is zero" in result.stdout
    assert not saldo.exists()


def test_a_script_must_pass_yes(saldo: Saldo) -> None:
    for arguments in ([], ["--json"]):
        result = saldo.run(str(SAMPLES / "checking.ofx"), *arguments)

        assert result.exit_code == 1
        assert "--yes" in result.output
    assert not saldo.exists()


def test_a_currency_other_than_the_accounts_is_refused(saldo: Saldo) -> None:
    saldo.imported(SAMPLES / "checking.ofx")

    result = saldo.run(str(SAMPLES / "giro.sta"), "--yes")

    assert result.exit_code == 1
    assert f"the account {saldo.account} holds BRL" in result.stderr
    assert len(saldo.statement(5)) == 5


def test_a_second_opening_balance_is_refused(saldo: Saldo, tmp_path: Path) -> None:
    january = (SAMPLES / "checking.ofx").read_bytes()
    saldo.imported(SAMPLES / "checking.ofx", "--with-opening-balance")
    other = written(tmp_path, "other.ofx", january.replace(b"3800,24", b"3900,24"))

    result = saldo.run(str(other), "--yes", "--with-opening-balance")

    assert result.exit_code == 1
    assert "already has another opening balance" in result.stderr
    assert "Nothing was recorded" in result.stderr


def test_lines_reworded_by_the_bank_stay_as_recorded(saldo: Saldo, tmp_path: Path) -> None:
    lines = numbered(a_month(300))
    reworded = [
        BankLine(line.on, line.amount_minor, f"{line.description} LTDA", line.reference)
        for line in lines
    ]
    saldo.imported(written(tmp_path, "a.ofx", as_ofx(lines[:250])))

    answer = saldo.imported(written(tmp_path, "b.ofx", as_ofx(reworded)))

    assert (answer["recorded"], len(answer["reworded"])) == (50, 250)
    assert len(saldo.statement(300)) == 300


def test_an_import_resumes_after_the_recorder_was_killed(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle and started again, the same command: nothing twice, nothing lost."""
    monkeypatch.setattr(sender, "ATTEMPTS_MAX", 2)
    record, balance = serve(RECORD), serve(BALANCE)
    file = written(tmp_path, "a.ofx", as_ofx(numbered(a_month(12_000))))
    before = Saldo(record_url=record.url, balance_url=balance.url, account="wesley")

    # In the middle: two requests are answered, and the others are not.
    counted = Outcome.count

    def count(self: Outcome, content: bytes) -> None:
        counted(self, content)
        if self.done > CHUNK_LINES_MAX:
            record.child.kill()

    monkeypatch.setattr(Outcome, "count", count)
    result = before.run(str(file), "--yes")
    monkeypatch.setattr(Outcome, "count", counted)

    after = replace(before, record_url=serve(RECORD).url)
    answer = after.imported(file)

    assert (result.exit_code, "again to go on" in result.stderr) == (1, True)
    assert 0 < answer["alreadyThere"] < 12_000
    assert answer["alreadyThere"] + answer["recorded"] == answer["position"] == 12_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("format_name", ["csv", "ofx"])
def test_a_hundred_thousand_lines_are_imported(
    saldo: Saldo, tmp_path: Path, format_name: str
) -> None:
    """Read, checked and recorded, each once; what follows is the projector's work."""
    lines = numbered(
        [
            BankLine(date(2020, 1, 1) + timedelta(days=n // 60), 1 + n % 9_999, f"COMPRA {n}")
            for n in range(100_000)
        ]
    )
    file = written(tmp_path, f"large.{format_name}", WRITERS[format_name](lines))

    answer = saldo.imported(file, "--currency=BRL")

    assert (answer["recorded"], answer["position"]) == (100_000, 100_000)
