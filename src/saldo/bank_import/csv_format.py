"""CSV exports of banks: any delimiter, decimal separator, order of dates, and header.

What the file shows beyond doubt is detected. The user is asked for the rest; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from saldo.bank_import.amounts import Decimal, decimal_of, parse_amount
from saldo.bank_import.csv_columns import (
    CsvLayout,
    find_layout,
    names_in,
    plain_name,
)
from saldo.bank_import.csv_rows import Row, read_table
from saldo.bank_import.dates import read_dates
from saldo.bank_import.encoding import decode_text
from saldo.bank_import.errors import CurrencyUnknownError, StatementError
from saldo.bank_import.statement import (
    BankStatement,
    Page,
    StatementBalance,
    StatementLine,
    gap_between,
    join_pages,
    tidy_description,
    tidy_reference,
)
from saldo.domain.money import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saldo.bank_import.reading_options import ReadingOptions

_SIDES = {
    **dict.fromkeys(names_in("d;dr;debit;debito;expense;despesa;saida;out;withdrawal"), -1),
    **dict.fromkeys(names_in("c;cr;credit;credito;income;receita;entrada;in;deposit"), 1),
}


def parse_csv(
    content: bytes, options: ReadingOptions, currency: str | None = None
) -> BankStatement:
    """Return the statement in ``content``; raise StatementError.

    ``currency`` is needed where the file has no column of it.
    """
    text = decode_text(content, options.encoding)
    layout = find_layout(text, options)
    table = read_table(text, layout)
    if not table.rows:
        raise StatementError("there is no transaction in the file")
    currency = _currency(table.rows, layout, currency)
    money = _Money(table.rows, layout, currency, options.decimal)
    lines = _lines(table.rows, layout, money, options)
    balances = [money.parse(row, layout.balance) for row in table.rows]
    if _latest_first(lines, balances):
        lines.reverse()
        balances.reverse()
    opening, closing = _outer_balances(lines, balances)
    if opening is None and table.opening is not None:
        opening = money.stated_opening(table.opening, lines[0])
    page = Page(currency=currency, lines=lines, left_out=table.left_out)
    gap_minor = gap_between(opening, closing, lines)
    remark = (
        "the lines do not add up from the first balance to the last one "
        f"(off by {gap_minor} minor units): some may be missing"
    )
    remarks = [remark] if gap_minor else []
    return replace(join_pages("csv", [page], remarks), opening=opening, closing=closing)


def _currency(rows: Sequence[Row], layout: CsvLayout, asked: str | None) -> str:
    currency = asked
    if layout.currency is not None:
        for row in rows:
            stated = row.cell(layout.currency).upper()
            if stated and currency is not None and stated != currency:
                raise StatementError(
                    f"the line is in {stated}, but the statement is in {currency}",
                    number=row.number,
                )
            currency = currency or stated or None
    if currency is None:
        raise CurrencyUnknownError("the file does not name its currency: say --currency")
    if currency not in CURRENCY_DIGITS:
        raise StatementError(f"{currency!r} is not an ISO 4217 currency")
    return currency


def _decimal(rows: Sequence[Row], layout: CsvLayout) -> Decimal:
    columns = [*layout.money, *([] if layout.balance is None else [layout.balance])]
    found = decimal_of(row.cells[column] for row in rows for column in columns)
    if found is not None:
        return found
    undecided = next(
        (row for row in rows if any(m in row.cells[c] for c in layout.money for m in ",.")),
        rows[0],
    )
    raise StatementError(
        "the amounts do not show whether they have a decimal comma or a decimal point: "
        "say --decimal comma or --decimal point",
        number=undecided.number,
    )


def _lines(
    rows: Sequence[Row], layout: CsvLayout, money: _Money, options: ReadingOptions
) -> list[StatementLine]:
    days = read_dates(((row.number, row.cells[layout.date]) for row in rows), options.date_format)
    return [
        StatementLine(
            number=row.number,
            occurred_on=days[row.cells[layout.date]],
            amount_minor=money.of(row),
            description=tidy_description(
                " - ".join(filter(None, (row.cells[each] for each in layout.description)))
            ),
            reference=tidy_reference(row.cell(layout.reference)),
        )
        for row in rows
    ]


class _Money:
    """Reads a row's signed amount and its balance."""

    def __init__(
        self, rows: Sequence[Row], layout: CsvLayout, currency: str, decimal: Decimal | None
    ) -> None:
        self._layout = layout
        self._currency = currency
        self._decimal: Decimal = decimal or _decimal(rows, layout)
        self._debit_sign = 0
        self._side = layout.side
        # a column called "type" tells the sides only when it tells nothing else
        if layout.amount is None or any(
            plain_name(text) not in _SIDES for text in {row.cell(layout.side) for row in rows}
        ):
            self._side = None

    def of(self, row: Row) -> int:
        """Return signed minor units; raise StatementError."""
        if self._layout.amount is None:
            return self._of_two_columns(row)
        amount_minor = self.parse(row, self._layout.amount) or 0
        if self._side is None:
            return amount_minor
        side = row.cells[self._side]
        sign = _SIDES[plain_name(side)]
        if amount_minor < 0 < sign:
            raise StatementError(
                f"the amount is negative, but its side is {side!r}", number=row.number
            )
        return sign * abs(amount_minor)

    def _of_two_columns(self, row: Row) -> int:
        debit_minor = self.parse(row, self._layout.debit) or 0
        credit_minor = self.parse(row, self._layout.credit) or 0
        if debit_minor and credit_minor:
            raise StatementError("the row has both a debit and a credit", number=row.number)
        if credit_minor < 0:
            raise StatementError("the credit is negative", number=row.number)
        if not debit_minor:
            return credit_minor
        # some banks write debits with a minus and some without, but none does both
        sign = 1 if debit_minor > 0 else -1
        if self._debit_sign not in {0, sign}:
            raise StatementError("some debits are negative and some are not", number=row.number)
        self._debit_sign = sign
        return -abs(debit_minor)

    def parse(self, row: Row, column: int | None) -> int | None:
        """Return the cell's amount, None for a blank cell; raise StatementError."""
        text = row.cell(column)
        if not text:
            return None
        return parse_amount(text, self._currency, self._decimal, number=row.number)

    def stated_opening(self, row: Row, first: StatementLine) -> StatementBalance | None:
        """Return the balance of a line such as SALDO ANTERIOR, in either column."""
        column = self._layout.balance if row.cell(self._layout.balance) else self._layout.amount
        try:
            amount_minor = self.parse(row, column)
        except StatementError:
            return None
        if amount_minor is None:
            return None
        return StatementBalance(amount_minor=amount_minor, on=first.occurred_on)


def _latest_first(lines: Sequence[StatementLine], balances: Sequence[int | None]) -> bool:
    first, last = lines[0].occurred_on, lines[-1].occurred_on
    if first != last:
        return first > last
    # within one day only the balances tell
    return not _follow(lines, balances) and _follow(lines[::-1], balances[::-1])


def _follow(lines: Sequence[StatementLine], balances: Sequence[int | None]) -> bool:
    """Return whether each balance is the one before plus the line's amount."""
    return all(
        before is not None and after is not None and before + line.amount_minor == after
        for before, after, line in zip(balances, balances[1:], lines[1:], strict=False)
    )


def _outer_balances(
    lines: Sequence[StatementLine], balances: Sequence[int | None]
) -> tuple[StatementBalance | None, StatementBalance | None]:
    """Return the balances before the first line and after the last one, where there are any."""
    days = [line.occurred_on for line in lines]
    if any(later < earlier for earlier, later in pairwise(days)):
        # not in the order of days, so the last line's balance is not the last day's
        return None, None
    opening = closing = None
    if balances[0] is not None:
        before_minor = balances[0] - lines[0].amount_minor
        opening = StatementBalance(amount_minor=before_minor, on=days[0])
    if balances[-1] is not None:
        closing = StatementBalance(amount_minor=balances[-1], on=days[-1])
    return opening, closing
