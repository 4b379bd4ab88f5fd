"""The preview and the outcome of an import: as text, or as JSON."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rich.markup import escape

from saldo.bank_import.options import ImportOptions
from saldo.bank_import.sender import Outcome
from saldo.bank_import.statement import BankStatement, StatementBalance
from saldo.domain.money import CURRENCY_DIGITS, format_minor
from saldo.operate.terminal import print_table, results

# Enough of both ends to check dates, signs and descriptions.
FIRST_LINES_SHOWN = 10
LAST_LINES_SHOWN = 5
LEFT_OUT_SHOWN = 10
REWORDED_SHOWN = 20


def preview_json(options: ImportOptions, statement: BankStatement) -> dict[str, Any]:
    """Return the preview for scripts; amounts are decimal strings."""
    currency = statement.currency
    income_minor, expense_minor = _totals(statement)
    days = [line.occurred_on.isoformat() for line in statement.lines]
    return {
        "file": options.file.name,
        "format": statement.format,
        "accountId": options.account,
        "bankAccount": statement.bank_account,
        "currency": currency,
        "from": days[0] if days else None,
        "to": days[-1] if days else None,
        "lines": len(statement.lines),
        "income": format_minor(income_minor, currency),
        "expense": format_minor(expense_minor, currency),
        "opening": _balance_json(statement.opening, currency),
        "closing": _balance_json(statement.closing, currency),
        "leftOut": [{"line": each.number, "reason": each.reason} for each in statement.left_out],
        "remarks": statement.remarks,
    }


def outcome_json(statement: BankStatement, outcome: Outcome) -> dict[str, Any]:
    """Return the outcome for scripts."""
    currency, closing = statement.currency, statement.closing
    comparison = None
    if closing is not None and outcome.saldo_minor is not None:
        comparison = {
            "on": closing.on.isoformat(),
            "statement": format_minor(closing.amount_minor, currency),
            "saldo": format_minor(outcome.saldo_minor, currency),
            "difference": format_minor(outcome.saldo_minor - closing.amount_minor, currency),
        }
    return {
        "recorded": outcome.recorded,
        "alreadyThere": outcome.already_there,
        "reworded": outcome.reworded,
        "position": outcome.position,
        "comparison": comparison,
        "uncompared": outcome.uncompared,
    }


def show_preview(options: ImportOptions, statement: BankStatement) -> None:
    """Show what would be recorded, what is left out, and remarks about the file."""
    lines, currency, opening = statement.lines, statement.currency, statement.opening
    income_minor, expense_minor = _totals(statement)
    recorded = "recorded too" if options.with_opening_balance else "not recorded"
    facts = {
        "File": options.file.name,
        "Format": statement.format,
        "Bank account": statement.bank_account,
        "Saldo account": options.account,
        "Period": lines and f"{lines[0].occurred_on} to {lines[-1].occurred_on}",
        "Lines": f"{len(lines):,}",
        "Income": _money(income_minor, currency),
        "Expense": _money(expense_minor, currency),
        "Opening balance": opening and f"{_balance(opening, currency)}, {recorded}",
        "Closing balance": statement.closing and _balance(statement.closing, currency),
    }
    for name, text in facts.items():
        if text:
            results.print(f"[bold]{name:<16}[/] {escape(text)}")
    hidden = max(0, len(lines) - FIRST_LINES_SHOWN - LAST_LINES_SHOWN)
    rows = [
        (
            str(line.number),
            line.occurred_on.isoformat(),
            "[green]INCOME[/]" if line.amount_minor > 0 else "[red]EXPENSE[/]",
            _money(abs(line.amount_minor), currency),
            escape(line.description),
            escape(line.reference or ""),
        )
        for line in lines[:FIRST_LINES_SHOWN] + lines[FIRST_LINES_SHOWN + hidden :]
    ]
    if hidden:
        rows.insert(FIRST_LINES_SHOWN, ("…", "", "", "", f"{hidden:,} more", ""))
    print_table(("line", "date", "type", "value", "description", "reference"), rows)
    if statement.left_out:
        results.print(f"[yellow]{len(statement.left_out)} lines are left out:[/]")
        for each in statement.left_out[:LEFT_OUT_SHOWN]:
            results.print(f"  line {each.number}: {escape(each.reason)}")
        if len(statement.left_out) > LEFT_OUT_SHOWN:
            results.print(f"  and {len(statement.left_out) - LEFT_OUT_SHOWN} more")
    for remark in statement.remarks:
        results.print(f"[yellow]Note:[/] {escape(remark)}")


def show_outcome(options: ImportOptions, statement: BankStatement, outcome: Outcome) -> None:
    """Show what was recorded, and whether the balances of Saldo and the bank agree."""
    results.print(
        f"[green]{outcome.recorded} recorded[/], {outcome.already_there} were there already "
        f"in account {escape(options.account)}."
    )
    if outcome.reworded:
        numbers = ", ".join(str(number) for number in outcome.reworded[:REWORDED_SHOWN])
        more = "" if len(outcome.reworded) <= REWORDED_SHOWN else " and more"
        results.print(
            f"[yellow]{len(outcome.reworded)} were there already with another description or "
            f"reference, and stay as they are:[/] lines {numbers}{more}"
        )
    if outcome.uncompared:
        results.print(f"[yellow]The balance was not compared:[/] {escape(outcome.uncompared)}")
    opening, closing, currency = statement.opening, statement.closing, statement.currency
    if closing is None or outcome.saldo_minor is None:
        return
    difference_minor = outcome.saldo_minor - closing.amount_minor
    bank = _money(closing.amount_minor, currency)
    if not difference_minor:
        results.print(f"[green]The balance of {closing.on} agrees with the bank's: {bank}.[/]")
        return
    results.print(
        f"[red]The balance of {closing.on} differs:[/] the bank says {bank}, Saldo "
        f"{_money(outcome.saldo_minor, currency)}: {_money(difference_minor, currency)}."
    )
    if opening and not options.with_opening_balance and difference_minor == -opening.amount_minor:
        results.print(
            "That is the statement's opening balance, which Saldo lacks: run the import again with "
            "--with-opening-balance, which records nothing else twice."
        )


def _totals(statement: BankStatement) -> tuple[int, int]:
    amounts = [line.amount_minor for line in statement.lines]
    return sum(each for each in amounts if each > 0), -sum(each for each in amounts if each < 0)


def _money(amount_minor: int, currency: str) -> str:
    """Return an amount for people, with all of the currency's digits: ``-1,234.50 BRL``."""
    digits = CURRENCY_DIGITS[currency]
    return f"{Decimal(amount_minor).scaleb(-digits):,.{digits}f} {currency}"


def _balance(balance: StatementBalance, currency: str) -> str:
    return f"{_money(balance.amount_minor, currency)} on {balance.on}"


def _balance_json(balance: StatementBalance | None, currency: str) -> dict[str, str] | None:
    if balance is None:
        return None
    return {"on": balance.on.isoformat(), "value": format_minor(balance.amount_minor, currency)}
