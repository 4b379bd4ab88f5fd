"""Why a bank's file is not imported. Each message is written for the person at the terminal."""

from __future__ import annotations

from saldo.operate.errors import CommandError


class StatementError(CommandError):
    """The file cannot be imported; the reason says what to do, ``number`` is the file's line."""

    def __init__(self, reason: str, *, number: int | None = None) -> None:
        super().__init__(reason if number is None else f"line {number}: {reason}")
        self.reason = reason
        self.number = number


class CurrencyUnknownError(StatementError):
    """Neither the file nor the account has a currency."""


class RecordingError(CommandError):
    """The recorder refused lines or could not be reached."""


class ImportFailedError(CommandError):
    """The import failed; the message names the file and, where it is known, its line."""

    def __init__(self, message: str, *, line: int | None = None, exit_status: int = 1) -> None:
        super().__init__(message)
        self.line = line
        self.exit_status = exit_status
