"""``saldo import FILE``: read a bank's file, show it, record it, compare the balance."""

from __future__ import annotations

import sys

import typer

from saldo.bank_import.balance import WAIT_A_REQUEST_S, account_currency, effective_balance
from saldo.bank_import.errors import (
    CurrencyUnknownError,
    ImportFailedError,
    RecordingError,
    StatementError,
)
from saldo.bank_import.options import ImportOptions, ReadingOptions
from saldo.bank_import.preview import outcome_json, preview_json, show_outcome, show_preview
from saldo.bank_import.sender import Outcome, outgoing_lines, record_lines
from saldo.bank_import.statement import BankStatement
from saldo.operate.errors import CommandError
from saldo.operate.ledger_client import new_client
from saldo.operate.terminal import (
    FAILED,
    INTERRUPTED,
    AsJson,
    print_json,
    progress_bar,
    respond,
    results,
)
from saldo.serve.functions import BALANCE, RECORD


def import_statement_command(
    options: ImportOptions, *, as_json: AsJson = False, reading: ReadingOptions
) -> None:
    """Record a bank's file. What was recorded before is not recorded again."""
    try:
        statement = _read(options, reading)
        preview = preview_json(options, statement)
        if options.dry_run:
            respond(preview, lambda: show_preview(options, statement), as_json=as_json)
            return
        _confirm(options, statement, as_json=as_json)
        outcome = _record(options, statement, as_json=as_json)
    except ImportFailedError as error:
        if not as_json:
            raise
        print_json({"error": {"message": str(error), "line": error.line}})
        raise typer.Exit(error.exit_status) from error
    respond(
        preview | outcome_json(statement, outcome),
        lambda: show_outcome(options, statement, outcome),
        as_json=as_json,
    )


def _read(options: ImportOptions, reading: ReadingOptions) -> BankStatement:
    """Return the file's statement, in the account's currency where both have one."""
    # The readers take a quarter of a second to load, which every other command would spend too.
    from saldo.bank_import.detect import FILE_BYTES_MAX, detect_format, read_statement

    file, account = options.file, options.account
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
        if needed or not options.dry_run:
            wait_s = WAIT_A_REQUEST_S if needed else 0
            try:
                with new_client(BALANCE) as client:
                    held = account_currency(client, account, wait_s=wait_s)
            except CommandError as error:
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
    if options.with_opening_balance and statement.opening is None:
        raise ImportFailedError(f"{file.name} states no opening balance: there is none to record")
    return statement


def _confirm(options: ImportOptions, statement: BankStatement, *, as_json: bool) -> None:
    """Show what would be recorded and let the user say no."""
    if not as_json:
        show_preview(options, statement)
    if options.yes:
        return
    if as_json or not sys.stdin.isatty():
        raise ImportFailedError(
            "there is no terminal to ask at: say --yes to record, or --dry-run to look"
        )
    if not typer.confirm(f"Record {len(statement.lines):,} transactions into {options.account}?"):
        results.print("Nothing was recorded.")
        raise typer.Exit(FAILED)


def _record(options: ImportOptions, statement: BankStatement, *, as_json: bool) -> Outcome:
    """Record the lines and read the balance after them. A failure says how far it got."""
    outcome = Outcome()
    total = len(statement.lines)
    lines = outgoing_lines(
        statement, options.account, with_opening_balance=options.with_opening_balance
    )
    try:
        with progress_bar("Recording", as_json=as_json) as shown, new_client(RECORD) as client:
            record_lines(client, lines, outcome, lambda: shown(outcome.done, total))
        if statement.closing is not None:
            with new_client(BALANCE) as client:
                outcome.saldo_minor = effective_balance(
                    client, options.account, on=statement.closing.on, position=outcome.position
                )
    except (RecordingError, KeyboardInterrupt) as error:
        failure, status = str(error), FAILED
        if isinstance(error, KeyboardInterrupt):
            failure, status = "interrupted", INTERRUPTED
        reached = "Nothing was recorded"
        if outcome.done:
            reached = (
                f"{outcome.done:,} of {total:,} lines are in the account; "
                "run the same import again to go on: nothing is recorded twice"
            )
        raise ImportFailedError(f"{failure}. {reached}", exit_status=status) from error
    except CommandError as error:
        outcome.uncompared = str(error)
    return outcome
