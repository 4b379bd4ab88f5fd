"""The preview and the report of an import: tables, or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from saldo.domain.money import CURRENCY_DIGITS, format_minor

if TYPE_CHECKING:
    from rich.console import Console

    from saldo.bank_import.compare import Comparison
    from saldo.bank_import.sender import Outcome
    from saldo.bank_import.statement import BankStatement, StatementBalance

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


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """The outcome. ``uncompared`` says why there is no comparison, where one was possible."""

    outcome: Outcome
    comparison: Comparison | None = None
    uncompared: str | None = None


def shown_money(amount_minor: int, currency: str) -> str:
    """Return an amount for people, with all of the currency's digits: ``-1,234.50``."""
    digits = CURRENCY_DIGITS[currency]
    whole, fraction = divmod(abs(amount_minor), 10**digits)
    sign = "-" if amount_minor < 0 else ""
    return f"{sign}{whole:,}.{fraction:0{digits}d}" if digits else f"{sign}{whole:,}"


def show_preview(console: Console, plan: ImportPlan) -> None:
    """Show what would be recorded, what is left out, and remarks about the file."""
    statement = plan.statement
    console.print(_facts(plan))
    console.print(_lines(statement))
    if statement.left_out:
        console.print(f"[yellow]{len(statement.left_out)} lines are left out:[/]")
        for each in statement.left_out[:LEFT_OUT_SHOWN]:
            console.print(f"  line {each.number}: {escape(each.reason)}")
        if len(statement.left_out) > LEFT_OUT_SHOWN:
            console.print(f"  and {len(statement.left_out) - LEFT_OUT_SHOWN} more")
    for remark in statement.remarks:
        console.print(f"[yellow]Note:[/] {escape(remark)}")


def show_report(console: Console, plan: ImportPlan, report: ImportReport) -> None:
    """Show what was recorded, and whether the balances of Saldo and the bank agree."""
    outcome = report.outcome
    console.print(
        f"[green]{outcome.recorded} recorded[/], {outcome.already_there} were there already "
        f"in account {escape(plan.account_id)}."
    )
    if outcome.reworded:
        numbers = ", ".join(str(number) for number in outcome.reworded[:REWORDED_SHOWN])
        more = "" if len(outcome.reworded) <= REWORDED_SHOWN else " and more"
        console.print(
            f"[yellow]{len(outcome.reworded)} were there already with another description or "
            f"reference, and stay as they are:[/] lines {numbers}{more}"
        )
    currency = plan.statement.currency
    compared = report.comparison
    if compared is None:
        if report.uncompared:
            console.print(f"[yellow]The balance was not compared:[/] {escape(report.uncompared)}")
        return
    bank = f"{shown_money(compared.statement_minor, currency)} {currency}"
    if not compared.difference_minor:
        console.print(f"[green]The balance of {compared.on} agrees with the bank's: {bank}.[/]")
        return
    console.print(
        f"[red]The balance of {compared.on} differs:[/] the bank says {bank}, Saldo "
        f"{shown_money(compared.saldo_minor, currency)} {currency}: "
        f"{shown_money(compared.difference_minor, currency)} {currency}."
    )
    hint = difference_hint(plan, compared)
    if hint:
        console.print(hint)


def difference_hint(plan: ImportPlan, compared: Comparison) -> str | None:
    """Return the likeliest reason of a difference, or None."""
    opening = plan.statement.opening
    if opening is None or plan.with_opening_balance:
        return None
    if compared.difference_minor != -opening.amount_minor:
        return None
    return (
        "That is the statement's opening balance, which Saldo lacks: run the import again with "
        "--with-opening-balance, which records nothing else twice."
    )


def preview_json(plan: ImportPlan) -> dict[str, Any]:
    """Return the preview for scripts; amounts are decimal strings."""
    statement = plan.statement
    income, expense = _totals(statement)
    days = _period(statement)
    return {
        "file": plan.file,
        "format": statement.format,
        "accountId": plan.account_id,
        "bankAccount": statement.bank_account,
        "currency": statement.currency,
        "from": days and days[0],
        "to": days and days[1],
        "lines": len(statement.lines),
        "income": format_minor(income, statement.currency),
        "expense": format_minor(expense, statement.currency),
        "opening": _balance_json(statement.opening, statement.currency),
        "closing": _balance_json(statement.closing, statement.currency),
        "leftOut": [{"line": each.number, "reason": each.reason} for each in statement.left_out],
        "remarks": list(statement.remarks),
    }


def report_json(plan: ImportPlan, report: ImportReport) -> dict[str, Any]:
    """Return the preview with the outcome, for scripts."""
    compared = report.comparison
    currency = plan.statement.currency
    comparison = compared and {
        "on": compared.on.isoformat(),
        "statement": format_minor(compared.statement_minor, currency),
        "saldo": format_minor(compared.saldo_minor, currency),
        "difference": format_minor(compared.difference_minor, currency),
    }
    return {
        **preview_json(plan),
        "recorded": report.outcome.recorded,
        "alreadyThere": report.outcome.already_there,
        "reworded": report.outcome.reworded,
        "position": report.outcome.position,
        "comparison": comparison,
        "uncompared": report.uncompared,
    }


def _facts(plan: ImportPlan) -> Table:
    statement = plan.statement
    currency = statement.currency
    income, expense = _totals(statement)
    days = _period(statement)
    table = Table(title=escape(plan.file), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("Format", statement.format)
    if statement.bank_account:
        table.add_row("Bank account", escape(statement.bank_account))
    table.add_row("Saldo account", escape(plan.account_id))
    if days:
        table.add_row("Period", f"{days[0]} to {days[1]}")
    table.add_row("Lines", f"{len(statement.lines):,}")
    table.add_row("Income", f"{shown_money(income, currency)} {currency}")
    table.add_row("Expense", f"{shown_money(expense, currency)} {currency}")
    for name, balance in (("Opening", statement.opening), ("Closing", statement.closing)):
        if balance is not None:
            recorded = ""
            if name == "Opening":
                recorded = ", recorded too" if plan.with_opening_balance else ", not recorded"
            amount = shown_money(balance.amount_minor, currency)
            table.add_row(f"{name} balance", f"{amount} {currency} on {balance.on}{recorded}")
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
    if len(lines) <= FIRST_LINES_SHOWN + LAST_LINES_SHOWN:
        shown, hidden = list(lines), 0
    else:
        shown = [*lines[:FIRST_LINES_SHOWN], *lines[-LAST_LINES_SHOWN:]]
        hidden = len(lines) - len(shown)
    for place, line in enumerate(shown):
        if hidden and place == FIRST_LINES_SHOWN:
            table.add_row("…", "", "", "", f"{hidden:,} more", "", style="dim")
        income = line.amount_minor > 0
        table.add_row(
            str(line.number),
            line.occurred_on.isoformat(),
            "[green]INCOME[/]" if income else "[red]EXPENSE[/]",
            shown_money(abs(line.amount_minor), statement.currency),
            escape(line.description),
            escape(line.reference or ""),
        )
    return table


def _totals(statement: BankStatement) -> tuple[int, int]:
    income = sum(line.amount_minor for line in statement.lines if line.amount_minor > 0)
    expense = -sum(line.amount_minor for line in statement.lines if line.amount_minor < 0)
    return income, expense


def _period(statement: BankStatement) -> tuple[str, str] | None:
    if not statement.lines:
        return None
    days = (statement.lines[0].occurred_on, statement.lines[-1].occurred_on)
    return days[0].isoformat(), days[1].isoformat()


def _balance_json(balance: StatementBalance | None, currency: str) -> dict[str, str] | None:
    if balance is None:
        return None
    return {"on": balance.on.isoformat(), "value": format_minor(balance.amount_minor, currency)}
