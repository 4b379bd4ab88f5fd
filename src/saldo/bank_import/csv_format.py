"""CSV exports of banks: any delimiter, decimal separator, order of dates, and header.

What the file shows beyond doubt is detected. The user is asked for the rest; nothing is guessed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from saldo.bank_import.amounts import Decimal, decimal_of, parse_amount
from saldo.bank_import.csv_columns import CsvLayout, bank_words, find_layout, plain_name
from saldo.bank_import.dates import looks_like_date, read_dates
from saldo.bank_import.encoding import decode_text
from saldo.bank_import.errors import CurrencyUnknownError, StatementError
from saldo.bank_import.options import ReadingOptions
from saldo.bank_import.statement import (
    BankStatement,
    LeftOut,
    StatementBalance,
    StatementLine,
    join_pages,
    tidy_description,
    tidy_reference,
)
from saldo.domain.money import CURRENCY_DIGITS

# Lines that state a balance between the transactions, as Brazilian banks print them. They are
# searched for by their beginnings first, since most descriptions are none of them.
_STATING = re.compile(
    r"s ?a ?l ?d ?o|opening|closing|balance|previous|total|totais|sub", re.IGNORECASE
)


@dataclass(slots=True)
class _Row:
    """A row's texts and amounts by their roles, and the line that it starts on."""

    number: int
    texts: dict[str, str]
    amounts: dict[str, int] = field(default_factory=dict)

    def text(self, role: str) -> str:
        """Return the text; blank where the file has no such column."""
        return self.texts.get(role, "")

    def parse(self, roles: Iterable[str], currency: str, decimal: Decimal) -> None:
        """Parse the amounts in the columns that are not blank; raise StatementError."""
        for role in roles:
            if self.text(role):
                self.amounts[role] = parse_amount(
                    self.text(role), currency, decimal, number=self.number
                )


def parse_csv(
    content: bytes, options: ReadingOptions, currency: str | None = None
) -> BankStatement:
    """Return the statement in ``content``; raise StatementError.

    ``currency`` is needed where the file has no column of it.
    """
    text = decode_text(content, options.encoding)
    layout = find_layout(text, options)
    page = BankStatement()
    rows, stated = _read_rows(text, layout, page)
    if not rows:
        raise StatementError("there is no transaction in the file")
    page.currency = currency = _currency(rows, currency)
    decimal = options.decimal or _decimal(rows, layout)
    for row in rows:
        row.parse((*layout.money, "balance"), currency, decimal)
    page.lines = lines = _lines(rows, layout, options)
    if _latest_first(lines):
        lines.reverse()
    statement = join_pages("csv", [("", page)], lambda page: page)
    statement.opening, statement.closing = _outer_balances(lines)
    if statement.opening is None and stated is not None:
        statement.opening = _stated_opening(stated, currency, decimal, lines[0])
    if statement.gap_minor:
        statement.remarks.append(
            "the lines do not add up from the first balance to the last one "
            f"(off by {statement.gap_minor} minor units): some may be missing"
        )
    return statement


def _read_rows(text: str, layout: CsvLayout, page: BankStatement) -> tuple[list[_Row], _Row | None]:
    """Return the transactions and the opening balance; the others go into ``page.left_out``."""
    rows: list[_Row] = []
    opening: _Row | None = None
    words = bank_words()["rows"]
    for number, cells in _cells_below(text, layout):
        if not _has_amounts(number, cells, layout):
            page.left_out.append(LeftOut(number, "a note, not a transaction"))
            continue
        cells.extend([""] * (layout.width - len(cells)))
        row = _Row(number, {role: cells[column] for role, column in layout.columns.items()})
        row.texts["description"] = " - ".join(filter(None, (cells[c] for c in layout.description)))
        balance = _balance_name(cells, layout)
        if balance in words["opening"] and not rows:
            opening = row
        status = row.text("status")
        if balance is not None:
            reason = "a balance or total, not a transaction"
        elif plain_name(status) in words["not_booked"]:
            reason = f"not booked: its status is {status}"
        elif not any(row.text(role) for role in layout.money):
            reason = "it has no amount"
        elif not row.text("date"):
            raise StatementError("the row has an amount but no date", number=number)
        else:
            rows.append(row)
            continue
        page.left_out.append(LeftOut(number, reason))
    return rows, opening


def _cells_below(text: str, layout: CsvLayout) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows below the header that are not blank, with the line that each starts on."""
    reader = csv.reader(io.StringIO(text), delimiter=layout.delimiter, strict=True)
    number = 1
    try:
        for place, row in enumerate(reader):
            cells = [cell.strip() for cell in row]
            if place >= layout.rows_above and any(cells):
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise StatementError(
            f"the row is broken ({error}): a quote may be open", number=number
        ) from error


def _has_amounts(number: int, cells: Sequence[str], layout: CsvLayout) -> bool:
    """Return whether the row reaches its amounts; raise StatementError for a broken one."""
    date = layout.columns["date"]
    needed = max(date, *(layout.columns[role] for role in layout.money)) + 1
    if any(cells[layout.width :]):
        raise StatementError(
            f"the row has {len(cells)} columns where the header has {layout.width}", number=number
        )
    if len(cells) < needed and len(cells) > date and looks_like_date(cells[date]):
        raise StatementError(
            f"the row has {len(cells)} columns where {needed} are needed: it is cut off",
            number=number,
        )
    return len(cells) >= needed


def _balance_name(cells: Sequence[str], layout: CsvLayout) -> str | None:
    """Return the plain name of a row that states a balance or a total."""
    words = bank_words()["rows"]
    for column in (*layout.description, layout.columns["date"], 0):
        if _STATING.match(cells[column]):
            name = plain_name(cells[column])
            if name in words["opening"] or name in words["balance"]:
                return name
    return None


def _currency(rows: Sequence[_Row], currency: str | None) -> str:
    for row in rows:
        stated = row.text("currency").upper()
        if stated and currency is not None and stated != currency:
            raise StatementError(
                f"the line is in {stated}, but the statement is in {currency}", number=row.number
            )
        currency = currency or stated or None
    if currency is None:
        raise CurrencyUnknownError("the file does not name its currency: say --currency")
    if currency not in CURRENCY_DIGITS:
        raise StatementError(f"{currency!r} is not an ISO 4217 currency")
    return currency


def _decimal(rows: Sequence[_Row], layout: CsvLayout) -> Decimal:
    found = decimal_of(row.text(role) for row in rows for role in (*layout.money, "balance"))
    if found is not None:
        return found
    undecided = (row for row in rows for role in layout.money if set(",.") & set(row.text(role)))
    raise StatementError(
        "the amounts do not show whether they have a decimal comma or a decimal point: "
        "say --decimal comma or --decimal point",
        number=next(undecided, rows[0]).number,
    )


def _lines(rows: Sequence[_Row], layout: CsvLayout, options: ReadingOptions) -> list[StatementLine]:
    days = read_dates(((row.number, row.text("date")) for row in rows), options.date_format)
    one_column = "amount" in layout.columns
    amounts = _of_one_column(rows) if one_column else _of_two_columns(rows)
    return [
        StatementLine(
            number=row.number,
            occurred_on=days[row.text("date")],
            amount_minor=amount_minor,
            description=tidy_description(row.text("description")),
            reference=tidy_reference(row.text("reference")),
            balance_minor=row.amounts.get("balance"),
        )
        for row, amount_minor in zip(rows, amounts, strict=True)
    ]


def _of_one_column(rows: Sequence[_Row]) -> list[int]:
    amounts = [row.amounts.get("amount", 0) for row in rows]
    sides = [plain_name(row.text("side")) for row in rows]
    debit, credit = bank_words()["sides"].values()
    # a column called "type" tells the sides only when it tells nothing else
    if not set(sides) <= {*debit, *credit}:
        return amounts
    for row, amount_minor, side in zip(rows, amounts, sides, strict=True):
        if amount_minor < 0 and side in credit:
            raise StatementError(
                f"the amount is negative, but its side is {row.text('side')!r}", number=row.number
            )
    return [
        -abs(each) if side in debit else each for each, side in zip(amounts, sides, strict=True)
    ]


def _of_two_columns(rows: Sequence[_Row]) -> list[int]:
    amounts: list[int] = []
    debits_negative: set[bool] = set()
    for row in rows:
        debit_minor, credit_minor = row.amounts.get("debit", 0), row.amounts.get("credit", 0)
        if debit_minor:
            debits_negative.add(debit_minor < 0)
        if debit_minor and credit_minor:
            raise StatementError("the row has both a debit and a credit", number=row.number)
        if credit_minor < 0:
            raise StatementError("the credit is negative", number=row.number)
        # some banks write debits with a minus and some without, but none does both
        if len(debits_negative) > 1:
            raise StatementError("some debits are negative and some are not", number=row.number)
        amounts.append(credit_minor - abs(debit_minor))
    return amounts


def _stated_opening(
    row: _Row, currency: str, decimal: Decimal, first: StatementLine
) -> StatementBalance | None:
    """Return the balance of a line such as SALDO ANTERIOR, in either column."""
    role = "balance" if row.text("balance") else "amount"
    with contextlib.suppress(StatementError):
        row.parse([role], currency, decimal)
    if role not in row.amounts:
        return None
    return StatementBalance(amount_minor=row.amounts[role], on=first.occurred_on)


def _latest_first(lines: Sequence[StatementLine]) -> bool:
    first, last = lines[0].occurred_on, lines[-1].occurred_on
    # within one day only the balances tell
    return first > last or (first == last and not _follow(lines) and _follow(lines[::-1]))


def _follow(lines: Sequence[StatementLine]) -> bool:
    """Return whether each balance is the one before plus the line's amount."""
    return all(
        before.balance_minor is not None
        and before.balance_minor + line.amount_minor == line.balance_minor
        for before, line in pairwise(lines)
    )


def _outer_balances(
    lines: Sequence[StatementLine],
) -> tuple[StatementBalance | None, StatementBalance | None]:
    """Return the balances before the first line and after the last one, where there are any."""
    opening = closing = None
    first, last = lines[0], lines[-1]
    # out of the order of days, the last line's balance is not the last day's
    in_order = all(before.occurred_on <= line.occurred_on for before, line in pairwise(lines))
    if in_order and first.balance_minor is not None:
        before_minor = first.balance_minor - first.amount_minor
        opening = StatementBalance(amount_minor=before_minor, on=first.occurred_on)
    if in_order and last.balance_minor is not None:
        closing = StatementBalance(amount_minor=last.balance_minor, on=last.occurred_on)
    return opening, closing
