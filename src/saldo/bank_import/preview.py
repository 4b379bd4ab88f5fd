"""The preview and the report of an import: tables, or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from saldo.domain.money import CURRENCY_DIGITS, format_minor
from saldo.operate.terminal import answers

if TYPE_CHECKING:
    from saldo.bank_import.sender import Outcome
    from saldo.bank_import.statement import BankStatement, StatementBalance, StatementLine

# Enough of both ends to check dates, signs and descriptions.
FIRST_LINES_SHOWN = 10
LAST_LINES_SHOWN = 5
LEFT_OUT_SHOWN = 10
REWORDED_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What to import, and into which account."""

    file: str
    account_id: str
    statement: BankStatement
    with_opening_balance: bool


def preview_json(plan: ImportPlan) -> dict[str, Any]:
    """Return the preview for scripts; amounts are decimal strings."""
    statement = plan.statement
    currency = statement.currency
    days = [line.occurred_on.isoformat() for line in statement.lines]
    return {
        "file": plan.file,
        "format": statement.format,
        "accountId": plan.account_id,
        "bankAccount": statement.bank_account,
        "currency": currency,
        "from": days[0] if days else None,
        "to": days[-1] if days else None,
        "lines": len(statement.lines),
        "income": format_minor(_income_minor(statement), currency),
        "expense": format_minor(_expense_minor(statement), currency),
        "opening": _balance_json(statement.opening, currency),
        "closing": _balance_json(statement.closing, currency),
        "leftOut": [{"line": each.number, "reason": each.reason} for each in statement.left_out],
        "remarks": list(statement.remarks),
    }


def report_json(plan: ImportPlan, outcome: Outcome) -> dict[str, Any]:
    """Return the preview with the outcome, for scripts."""
    currency = plan.statement.currency
    closing, saldo_minor = plan.statement.closing, outcome.saldo_minor
    comparison = None
    if closing is not None and saldo_minor is not None:
        comparison = {
            "on": closing.on.isoformat(),
            "statement": format_minor(closing.amount_minor, currency),
            "saldo": format_minor(saldo_minor, currency),
            "difference": format_minor(saldo_minor - closing.amount_minor, currency),
        }
    return {
        **preview_json(plan),
        "recorded": outcome.recorded,
        "alreadyThere": outcome.already_there,
        "reworded": outcome.reworded,
        "position": outcome.position,
        "comparison": comparison,
        "uncompared": outcome.uncompared,
    }


def show_preview(plan: ImportPlan) -> None:
    """Show what would be recorded, what is left out, and remarks about the file."""
    statement = plan.statement
    answers.print(_facts(plan))
    answers.print(_lines(statement))
    if statement.left_out:
        answers.print(f"[yellow]{len(statement.left_out)} lines are left out:[/]")
        for each in statement.left_out[:LEFT_OUT_SHOWN]:
            answers.print(f"  line {each.number}: {escape(each.reason)}")
        if len(statement.left_out) > LEFT_OUT_SHOWN:
            answers.print(f"  and {len(statement.left_out) - LEFT_OUT_SHOWN} more")
    for remark in statement.remarks:
        answers.print(f"[yellow]Note:[/] {escape(remark)}")


def show_report(plan: ImportPlan, outcome: Outcome) -> None:
    """Show what was recorded, and whether the balances of Saldo and the bank agree."""
    answers.print(
        f"[green]{outcome.recorded} recorded[/], {outcome.already_there} were there already "
        f"in account {escape(plan.account_id)}."
    )
    if outcome.reworded:
        numbers = ", ".join(str(number) for number in outcome.reworded[:REWORDED_SHOWN])
        more = "" if len(outcome.reworded) <= REWORDED_SHOWN else " and more"
        answers.print(
            f"[yellow]{len(outcome.reworded)} were there already with another description or "
            f"reference, and stay as they are:[/] lines {numbers}{more}"
        )
    if outcome.uncompared:
        answers.print(f"[yellow]The balance was not compared:[/] {escape(outcome.uncompared)}")
    if outcome.saldo_minor is not None:
        _show_comparison(plan, outcome.saldo_minor)


def _show_comparison(plan: ImportPlan, saldo_minor: int) -> None:
    opening, closing = plan.statement.opening, plan.statement.closing
    if closing is None:
        return
    currency = plan.statement.currency
    difference_minor = saldo_minor - closing.amount_minor
    bank = _money(closing.amount_minor, currency)
    if not difference_minor:
        answers.print(f"[green]The balance of {closing.on} agrees with the bank's: {bank}.[/]")
        return
    answers.print(
        f"[red]The balance of {closing.on} differs:[/] the bank says {bank}, Saldo "
        f"{_money(saldo_minor, currency)}: {_money(difference_minor, currency)}."
    )
    if opening and not plan.with_opening_balance and difference_minor == -opening.amount_minor:
        answers.print(
            "That is the statement's opening balance, which Saldo lacks: run the import again with "
            "--with-opening-balance, which records nothing else twice."
        )


def _facts(plan: ImportPlan) -> Table:
    statement = plan.statement
    lines, currency = statement.lines, statement.currency
    table = Table(title=escape(plan.file), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("Format", statement.format)
    if statement.bank_account:
        table.add_row("Bank account", escape(statement.bank_account))
    table.add_row("Saldo account", escape(plan.account_id))
    if lines:
        table.add_row("Period", f"{lines[0].occurred_on} to {lines[-1].occurred_on}")
    table.add_row("Lines", f"{len(lines):,}")
    table.add_row("Income", _money(_income_minor(statement), currency))
    table.add_row("Expense", _money(_expense_minor(statement), currency))
    recorded = ", recorded too" if plan.with_opening_balance else ", not recorded"
    for name, balance, more in (
        ("Opening balance", statement.opening, recorded),
        ("Closing balance", statement.closing, ""),
    ):
        if balance is not None:
            table.add_row(name, f"{_money(balance.amount_minor, currency)} on {balance.on}{more}")
    return table


def _lines(statement: BankStatement) -> Table:
    table = Table(title="What is recorded", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("Line", justify="right", style="dim", no_wrap=True)
    table.add_column("Date", no_wrap=True)
    table.add_column("Type", no_wrap=True)
    table.add_column(statement.currency, justify="right", no_wrap=True)
    table.add_column("Description", overflow="ellipsis", no_wrap=True, max_width=50)
    table.add_column("Reference", overflow="ellipsis", no_wrap=True, max_width=20)
    lines = statement.lines
    hidden = max(0, len(lines) - FIRST_LINES_SHOWN - LAST_LINES_SHOWN)
    for line in lines[:FIRST_LINES_SHOWN]:
        table.add_row(*_cells(line, statement.currency))
    if hidden:
        table.add_row("…", "", "", "", f"{hidden:,} more", "", style="dim")
    for line in lines[FIRST_LINES_SHOWN + hidden :]:
        table.add_row(*_cells(line, statement.currency))
    return table


def _cells(line: StatementLine, currency: str) -> tuple[str, ...]:
    return (
        str(line.number),
        line.occurred_on.isoformat(),
        "[green]INCOME[/]" if line.amount_minor > 0 else "[red]EXPENSE[/]",
        _grouped(abs(line.amount_minor), currency),
        escape(line.description),
        escape(line.reference or ""),
    )


def _grouped(amount_minor: int, currency: str) -> str:
    """Return an amount for people, with all of the currency's digits: ``-1,234.50``."""
    digits = CURRENCY_DIGITS[currency]
    return f"{Decimal(amount_minor).scaleb(-digits):,.{digits}f}"


def _money(amount_minor: int, currency: str) -> str:
    return f"{_grouped(amount_minor, currency)} {currency}"


def _income_minor(statement: BankStatement) -> int:
    return sum(line.amount_minor for line in statement.lines if line.amount_minor > 0)


def _expense_minor(statement: BankStatement) -> int:
    return -sum(line.amount_minor for line in statement.lines if line.amount_minor < 0)


def _balance_json(balance: StatementBalance | None, currency: str) -> dict[str, str] | None:
    if balance is None:
        return None
    return {"on": balance.on.isoformat(), "value": format_minor(balance.amount_minor, currency)}
