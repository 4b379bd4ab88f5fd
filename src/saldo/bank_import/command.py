"""``saldo import FILE``: read a bank's file, show it, record it, compare the balance."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saldo.bank_import.balance import WAIT_A_REQUEST_S, account_currency, effective_balance
from saldo.bank_import.detect import FILE_BYTES_MAX, detect_format, read_statement
from saldo.bank_import.errors import (
    BalanceUnknownError,
    CurrencyUnknownError,
    ImportFailedError,
    RecordingError,
    StatementError,
)
from saldo.bank_import.preview import (
    ImportPlan,
    preview_json,
    report_json,
    show_preview,
    show_report,
)
from saldo.bank_import.reading_options import ReadingOptions
from saldo.bank_import.requests import outgoing_lines
from saldo.bank_import.sender import Outcome, new_client, record_lines
from saldo.domain.commands import ACCOUNT_ID
from saldo.operate.ledger_client import Functions
from saldo.operate.terminal import (
    FAILED,
    INTERRUPTED,
    AsJson,
    answers,
    print_json,
    progress_bar,
    respond,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from saldo.bank_import.statement import BankStatement

HOW_TO_CONFIRM = "say --yes to record, or --dry-run to look"


def _checked_account(account: str) -> str:
    if not ACCOUNT_ID.fullmatch(account):
        raise typer.BadParameter(
            "must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ - and start with a letter "
            "or digit"
        )
    return account


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """Whether and what to record."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, record nothing.")] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before recording.")] = False
    with_opening_balance: Annotated[
        bool,
        typer.Option(
            "--with-opening-balance",
            help="Record the file's opening balance as the first transaction.",
        ),
    ] = False


def import_statement_command(
    file: Annotated[Path, typer.Argument(help="OFX, MT940, CAMT.053 or CSV.", exists=True)],
    account: Annotated[
        str,
        typer.Option(
            "--account",
            "-a",
            help="The Saldo account to record into: one for each account at a bank.",
            callback=_checked_account,
        ),
    ],
    *,
    recording: RecordingOptions,
    as_json: AsJson = False,
    reading: ReadingOptions,
) -> None:
    """Record a bank's file. What was recorded before is not recorded again."""
    functions = Functions()
    with _failures_in_json(as_json=as_json):
        statement = _read(file, account, reading, functions, dry_run=recording.dry_run)
        if recording.with_opening_balance and statement.opening is None:
            raise ImportFailedError(
                f"{file.name} states no opening balance: there is none to record"
            )
        plan = ImportPlan(
            file=file.name,
            account_id=account,
            statement=statement,
            with_opening_balance=recording.with_opening_balance,
        )
        if recording.dry_run:
            respond(preview_json(plan), lambda: show_preview(plan), as_json=as_json)
            return
        _confirm(plan, yes=recording.yes, as_json=as_json)
        outcome = _record(plan, functions, as_json=as_json)
        respond(report_json(plan, outcome), lambda: show_report(plan, outcome), as_json=as_json)


@contextlib.contextmanager
def _failures_in_json(*, as_json: bool) -> Iterator[None]:
    try:
        yield
    except ImportFailedError as error:
        if not as_json:
            raise
        print_json({"error": {"message": str(error), "line": error.line}})
        raise typer.Exit(error.exit_status) from error


def _read(
    file: Path, account: str, reading: ReadingOptions, functions: Functions, *, dry_run: bool
) -> BankStatement:
    """Return the file's statement, in the account's currency where both have one."""
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ImportFailedError(f"{file.name} cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ImportFailedError(f"{file.name} has more than {FILE_BYTES_MAX >> 20} MiB")
    held, unknown = None, ""
    try:
        # A dry run does without the functions, unless the currency is to be had from them only.
        needed = reading.currency is None and (reading.format or detect_format(content)) == "csv"
        if needed or not dry_run:
            wait_s = WAIT_A_REQUEST_S if needed else 0
            try:
                with new_client(functions.balance_url, functions.token) as client:
                    held = account_currency(client, account, wait_s=wait_s)
            except BalanceUnknownError as error:
                # the recorder checks it again, so a file that names its currency can do without
                unknown = f" ({error})"
        statement = read_statement(content, reading, currency_held=held)
    except StatementError as error:
        why = unknown if isinstance(error, CurrencyUnknownError) else ""
        raise ImportFailedError(f"{file.name}: {error}{why}", line=error.number) from error
    if held not in {None, statement.currency}:
        raise ImportFailedError(
            f"the statement is in {statement.currency}, but the account {account} holds {held}"
        )
    return statement


def _confirm(plan: ImportPlan, *, yes: bool, as_json: bool) -> None:
    """Show the plan and let the user say no."""
    if as_json and not yes:
        raise ImportFailedError(f"--json cannot ask: {HOW_TO_CONFIRM}")
    if as_json:
        return
    show_preview(plan)
    if yes:
        return
    if not sys.stdin.isatty():
        raise ImportFailedError(f"there is no terminal to ask at: {HOW_TO_CONFIRM}")
    count = len(plan.statement.lines)
    if not typer.confirm(f"Record {count:,} transactions into {plan.account_id}?"):
        answers.print("Nothing was recorded.")
        raise typer.Exit(FAILED)


def _record(plan: ImportPlan, functions: Functions, *, as_json: bool) -> Outcome:
    """Record the lines and read the balance after them. A failure says how far it got."""
    outcome = Outcome()
    statement, total = plan.statement, len(plan.statement.lines)
    lines = outgoing_lines(
        statement, plan.account_id, with_opening_balance=plan.with_opening_balance
    )
    failure, status = "", FAILED
    try:
        with (
            progress_bar("Recording", as_json=as_json) as shown,
            new_client(functions.record_url, functions.token) as client,
        ):
            record_lines(client, lines, outcome, lambda: shown(outcome.done, total))
        if statement.closing is not None:
            with new_client(functions.balance_url, functions.token) as client:
                outcome.saldo_minor = effective_balance(
                    client, plan.account_id, on=statement.closing.on, position=outcome.position
                )
    except BalanceUnknownError as error:
        outcome.uncompared = str(error)
    except RecordingError as error:
        failure = str(error)
    except KeyboardInterrupt:
        failure, status = "interrupted", INTERRUPTED
    if not failure:
        return outcome
    reached = "Nothing was recorded"
    if outcome.done:
        reached = (
            f"{outcome.done:,} of {total:,} lines are in the account; "
            "run the same import again to go on: nothing is recorded twice"
        )
    raise ImportFailedError(f"{failure}. {reached}", exit_status=status)
