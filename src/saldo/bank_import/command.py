"""``saldo import FILE``: read a bank's file, show it, record it, compare the balance."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saldo.bank_import.amounts import Decimal
from saldo.bank_import.compare import (
    WAIT_A_REQUEST_S,
    BalanceUnknown,
    Comparison,
    account_currency,
    effective_balance,
)
from saldo.bank_import.csv_columns import CsvMapping
from saldo.bank_import.dates import Order
from saldo.bank_import.detect import (
    FILE_BYTES_MAX,
    Format,
    ReadingOptions,
    detect_format,
    read_statement,
)
from saldo.bank_import.lines import CurrencyUnknown, StatementUnreadable
from saldo.bank_import.preview import (
    ImportPlan,
    ImportReport,
    preview_json,
    report_json,
    show_preview,
    show_report,
)
from saldo.bank_import.sender import (
    ImportFailed,
    Outcome,
    new_client,
    outgoing_lines,
    record_lines,
)
from saldo.domain.commands import ACCOUNT_ID
from saldo.domain.money import CURRENCY_DIGITS
from saldo.operate.ledger_client import Functions
from saldo.operate.terminal import (
    FAILED,
    INTERRUPTED,
    answers,
    notes,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

_CSV = "CSV files"


def _checked_account(account: str) -> str:
    if not ACCOUNT_ID.fullmatch(account):
        raise typer.BadParameter(
            "must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ - and start with a letter "
            "or digit"
        )
    return account


def _checked_currency(currency: str | None) -> str | None:
    code = currency and currency.upper()
    if code and code not in CURRENCY_DIGITS:
        raise typer.BadParameter("must be an ISO 4217 code such as BRL")
    return code


def _checked_delimiter(delimiter: str | None) -> str | None:
    if delimiter is None:
        return None
    mark = "\t" if delimiter in {"\\t", "tab"} else delimiter
    if len(mark) != 1:
        raise typer.BadParameter("must be one character, or tab")
    return mark


def import_statement_command(  # noqa: PLR0913 - a command line has one parameter for each option
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, record nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before recording.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")] = False,
    with_opening_balance: Annotated[
        bool,
        typer.Option(
            "--with-opening-balance",
            help="Record the file's opening balance as the first transaction.",
        ),
    ] = False,
    format: Annotated[  # noqa: A002 - the option's name
        Format | None, typer.Option("--format", help="What the file is; detected by default.")
    ] = None,
    bank_account: Annotated[
        str | None, typer.Option(help="Which account, where the file holds several.")
    ] = None,
    currency: Annotated[
        str | None,
        typer.Option(
            help="The ISO 4217 currency, where neither the file nor the account tells it.",
            callback=_checked_currency,
        ),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="UTF-8, else Windows-1252.", rich_help_panel=_CSV)
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(rich_help_panel=_CSV, callback=_checked_delimiter)
    ] = None,
    decimal: Annotated[Decimal | None, typer.Option(rich_help_panel=_CSV)] = None,
    date_format: Annotated[
        Order | None,
        typer.Option(help="The order of day, month and year.", rich_help_panel=_CSV),
    ] = None,
    date_column: Annotated[
        str | None,
        typer.Option(help="By name, or by number from 1; so are all.", rich_help_panel=_CSV),
    ] = None,
    amount_column: Annotated[str | None, typer.Option(rich_help_panel=_CSV)] = None,
    debit_column: Annotated[str | None, typer.Option(rich_help_panel=_CSV)] = None,
    credit_column: Annotated[str | None, typer.Option(rich_help_panel=_CSV)] = None,
    description_column: Annotated[
        list[str] | None,
        typer.Option(help="May be given several times.", rich_help_panel=_CSV),
    ] = None,
    reference_column: Annotated[
        str | None,
        typer.Option(help="The bank's own id of a transaction.", rich_help_panel=_CSV),
    ] = None,
    balance_column: Annotated[str | None, typer.Option(rich_help_panel=_CSV)] = None,
) -> None:
    """Record a bank's file. What was recorded before is not recorded again."""
    options = ReadingOptions(
        format=format,
        currency=currency,
        bank_account=bank_account,
        encoding=encoding,
        csv=CsvMapping(
            delimiter=delimiter,
            decimal=decimal,
            date_order=date_format,
            date=date_column,
            amount=amount_column,
            debit=debit_column,
            credit=credit_column,
            description=tuple(description_column or ()),
            reference=reference_column,
            balance=balance_column,
        ),
    )
    functions = Functions.from_environment()
    content = _read_file(file, json=json)
    held, unknown = None, ""
    # a dry run does without the functions, unless only they can tell the currency
    needed = currency is None and _is_csv(content, options)
    if needed or not dry_run:
        wait_s = WAIT_A_REQUEST_S if needed else 0
        held, unknown = asyncio.run(_held_currency(functions, account, wait_s))
    try:
        statement = read_statement(content, options, currency_held=held)
    except StatementUnreadable as error:
        why = f" ({unknown})" if isinstance(error, CurrencyUnknown) and unknown else ""
        raise _failed(f"{file.name}: {error}{why}", json=json, line=error.number) from error
    if held is not None and held != statement.currency:
        said = f"the statement is in {statement.currency}, but the account {account} holds {held}"
        raise _failed(said, json=json)
    if with_opening_balance and statement.opening is None:
        raise _failed(f"{file.name} states no opening balance: there is none to record", json=json)
    plan = ImportPlan(
        file=file.name,
        account_id=account,
        statement=statement,
        with_opening_balance=with_opening_balance,
    )
    if dry_run:
        _answer(preview_json(plan), as_json=json, show=lambda out: show_preview(out, plan))
        return
    _ask(plan, yes=yes, json=json)
    report = _record(plan, functions, json=json)
    _answer(
        report_json(plan, report), as_json=json, show=lambda out: show_report(out, plan, report)
    )


def _read_file(file: Path, *, json: bool) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _failed(f"{file.name} cannot be read: {error.strerror}", json=json) from error
    if len(content) > FILE_BYTES_MAX:
        raise _failed(f"{file.name} has more than {FILE_BYTES_MAX >> 20} MiB", json=json)
    return content


def _is_csv(content: bytes, options: ReadingOptions) -> bool:
    try:
        return (options.format or detect_format(content)) == "csv"
    except StatementUnreadable:
        # read_statement says so, once, with its reason
        return False


async def _held_currency(
    functions: Functions, account_id: str, wait_s: int
) -> tuple[str | None, str]:
    """The account's currency, None where there is none yet; and why it could not be learned."""
    async with new_client(functions.token) as client:
        try:
            url = functions.balance_url
            return await account_currency(client, url, account_id, wait_s=wait_s), ""
        except BalanceUnknown as error:
            # the recorder checks it again, so a file that names its currency can do without
            return None, str(error)


def _ask(plan: ImportPlan, *, yes: bool, json: bool) -> None:
    """Show the plan and let the user say no."""
    if json and not yes:
        raise _failed("--json cannot ask: say --yes to record, or --dry-run to look", json=json)
    if json:
        return
    show_preview(answers, plan)
    if yes:
        return
    if not sys.stdin.isatty():
        raise _failed(
            "nobody is there to ask: say --yes to record, or --dry-run to look", json=json
        )
    count = len(plan.statement.lines)
    if not typer.confirm(f"Record {count:,} transactions into {plan.account_id}?"):
        answers.print("Nothing was recorded.")
        raise typer.Exit(FAILED)


def _record(plan: ImportPlan, functions: Functions, *, json: bool) -> ImportReport:
    """Record and compare; where that fails, the command ends and says how far it got."""
    outcome = Outcome()
    total = len(plan.statement.lines)
    again = "run the same import again to go on: nothing is recorded twice"
    with progress_bar("Recording", as_json=json) as shown:
        try:
            return asyncio.run(
                _record_and_compare(
                    plan, functions, outcome, on_progress=lambda now: shown(now.done, total)
                )
            )
        except ImportFailed as error:
            failure, code = str(error), FAILED
        except KeyboardInterrupt:
            failure, code = "interrupted", INTERRUPTED
    if outcome.done:
        failure = f"{failure}. {outcome.done:,} of {total:,} lines are in the account; {again}"
    else:
        failure = f"{failure}. Nothing was recorded"
    raise _failed(failure, json=json, code=code)


async def _record_and_compare(
    plan: ImportPlan,
    functions: Functions,
    outcome: Outcome,
    on_progress: Callable[[Outcome], None],
) -> ImportReport:
    lines = outgoing_lines(
        plan.statement, plan.account_id, with_opening_balance=plan.with_opening_balance
    )
    async with new_client(functions.token) as client:
        await record_lines(client, functions.record_url, lines, outcome, on_progress)
        closing = plan.statement.closing
        if closing is None:
            return ImportReport(outcome=outcome, comparison=None, uncompared=None)
        try:
            saldo_minor = await effective_balance(
                client,
                functions.balance_url,
                plan.account_id,
                on=closing.on,
                position=outcome.position,
            )
        except BalanceUnknown as error:
            return ImportReport(outcome=outcome, comparison=None, uncompared=str(error))
    comparison = Comparison(
        on=closing.on, statement_minor=closing.amount_minor, saldo_minor=saldo_minor
    )
    return ImportReport(outcome=outcome, comparison=comparison, uncompared=None)


def _answer(members: dict[str, Any], *, as_json: bool, show: Callable[[Console], None]) -> None:
    if as_json:
        print_json(members)
    else:
        show(answers)


def _failed(message: str, *, json: bool, line: int | None = None, code: int = FAILED) -> typer.Exit:
    """Tell the user, and give back what ends the command."""
    if json:
        print_json({"error": {"message": message, "line": line}})
    else:
        notes.print(f"saldo: {message}", markup=False, soft_wrap=True)
    return typer.Exit(code)
