"""The end of a command: each expected failure is one line and an exit status."""

from __future__ import annotations

import asyncpg
import pytest
from confluent_kafka import KafkaException
from typer.testing import CliRunner, Result

from saldo.bank_import.errors import ImportFailedError
from saldo.operate.errors import CommandError
from saldo.operate.terminal import App, Commands
from saldo.project.errors import RebuildRefused
from saldo.serve.settings import BadSetting


def ended_by(error: Exception) -> Result:
    app = App(cls=Commands)

    @app.command("fail")
    def fail() -> None:
        raise error

    @app.command("other")
    def other() -> None:
        """Make it a group."""

    return CliRunner().invoke(app, ["fail"], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (CommandError("the file is cut off"), 1, "the file is cut off"),
        (ImportFailedError("interrupted", exit_status=130), 130, "interrupted"),
        (RebuildRefused("another runs"), 1, "another runs"),
        (BadSetting("AUTH", "is missing"), 2, "AUTH is missing"),
        (asyncpg.InvalidPasswordError("no such password"), 1, "the database: no such password"),
        (ConnectionRefusedError("refused"), 1, "the database: refused"),
        (
            FileNotFoundError(2, "No such file", "a.csv"),
            1,
            "a.csv: [Errno 2] No such file: 'a.csv'",
        ),
        (KafkaException("no broker"), 1, "Kafka: no broker"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_expected_failure_is_one_line_and_a_status(
    error: Exception, status: int, line: str
) -> None:
    result = ended_by(error)

    assert (result.exit_code, result.stdout) == (status, "")
    assert result.stderr == f"saldo: {line}\n"


def test_closed_pipe_ends_the_command_quietly() -> None:
    result = ended_by(BrokenPipeError(32, "Broken pipe"))

    assert (result.exit_code, result.output) == (1, "")


def test_unexpected_failure_is_raised() -> None:
    assert isinstance(ended_by(ZeroDivisionError()).exception, ZeroDivisionError)
