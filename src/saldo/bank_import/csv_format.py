"""CSV exports of banks: any delimiter, decimal separator, order of dates, and header.

What the file shows beyond doubt is detected; what it leaves open is asked for, never guessed.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from saldo.bank_import.amounts import BadAmount, Decimal, decimal_of, parse_amount
from saldo.bank_import.csv_columns import (
    CsvLayout,
    CsvMapping,
    find_layout,
    names_in,
    plain_name,
)
from saldo.bank_import.dates import looks_like_date, read_dates
from saldo.bank_import.encoding import decode_text
from saldo.bank_import.lines import (
    BankStatement,
    CurrencyUnknown,
    LeftOut,
    StatementBalance,
    StatementLine,
    StatementUnreadable,
    in_order_of_days,
    split_zeros,
    tidy_description,
    tidy_reference,
)
from saldo.domain.money import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SIDES = {
    **dict.fromkeys(names_in("d;dr;debit;debito;expense;despesa;saida;out;withdrawal"), -1),
    **dict.fromkeys(names_in("c;cr;credit;credito;income;receita;entrada;in;deposit"), 1),
}
_NOT_BOOKED = frozenset(
    names_in(
        "pending;reverted;declined;failed;cancelled;canceled;pendente;cancelado;cancelada;"
        "agendado;agendada;futuro;estornado"
    )
)
# Lines that state a balance between the transactions, as Brazilian banks print them. They are
# searched for by their beginnings first, since most descriptions are none of them.
_STATING = re.compile(
    r"s ?a ?l ?d ?o|opening|closing|balance|previous|total|totais|sub", re.IGNORECASE
)
_OPENING_NAMES = frozenset(
    names_in(
        "saldo anterior;saldo inicial;opening balance;balance brought forward;previous balance"
    )
)
_BALANCE_NAMES = _OPENING_NAMES | frozenset(
    names_in(
        "saldo;s a l d o;saldo final;saldo atual;saldo do dia;saldo parcial;saldo total;"
        "saldo disponivel;saldo total disponivel dia;saldo em conta corrente;saldo em c corrente;"
        "saldo da conta;closing balance;balance carried forward;total;totais;totals;subtotal"
    )
)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row's cells, and the line that it starts on."""

    number: int
    cells: list[str]


@dataclass(slots=True)
class _Sorted:
    """The rows below the header: transactions, the opening balance, and what is left out."""

    rows: list[_Row] = field(default_factory=list)
    opening: _Row | None = None
    left_out: list[LeftOut] = field(default_factory=list)


def parse_csv(
    content: bytes,
    *,
    currency: str | None = None,
    encoding: str | None = None,
    mapping: CsvMapping | None = None,
) -> BankStatement:
    """The statement in ``content``; raises StatementUnreadable.

    ``currency`` is needed where the file has no column of it.
    """
    mapping = mapping or CsvMapping()
    text = decode_text(content, encoding)
    layout = find_layout(text, mapping)
    table = _sort_rows(_rows(text, layout), layout)
    if not table.rows:
        reason = "there is no transaction in the file"
        raise StatementUnreadable(reason)
    currency = _currency(table.rows, layout, currency)
    decimal = mapping.decimal or _decimal(table.rows, layout)
    lines = _lines(table.rows, layout, currency, decimal, mapping)
    balances = _running_balances(table.rows, layout, currency, decimal)
    if _latest_first(lines, balances):
        lines.reverse()
        balances.reverse()
    opening, closing = _outer_balances(lines, balances)
    if opening is None and table.opening is not None:
        opening = _stated_opening(table.opening, layout, currency, decimal, lines[0])
    moving, zeros = split_zeros(lines)
    return BankStatement(
        format="csv",
        bank_account=None,
        currency=currency,
        opening=opening,
        closing=closing,
        lines=in_order_of_days(moving),
        left_out=tuple(sorted(zeros + table.left_out, key=lambda each: each.number)),
        remarks=tuple(_remarks(moving, opening, closing)),
    )


def _rows(text: str, layout: CsvLayout) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text), delimiter=layout.delimiter, strict=True)
    number = 1
    try:
        for place, cells in enumerate(reader):
            if place >= layout.rows_above:
                yield _Row(number, [cell.strip() for cell in cells])
            number = reader.line_num + 1
    except csv.Error as error:
        reason = f"the row is broken ({error}): a quote may be open"
        raise StatementUnreadable(reason, number=number) from error


def _sort_rows(rows: Iterator[_Row], layout: CsvLayout) -> _Sorted:
    table = _Sorted()
    money = layout.money
    needed = max(layout.date, *money) + 1
    for row in rows:
        cells = row.cells
        if not any(cells):
            continue
        if len(cells) < needed:
            if len(cells) > layout.date and looks_like_date(cells[layout.date]):
                reason = (
                    f"the row has {len(cells)} columns where {needed} are needed: it is cut off"
                )
                raise StatementUnreadable(reason, number=row.number)
            table.left_out.append(LeftOut(number=row.number, reason="a note, not a transaction"))
            continue
        if len(cells) > layout.width and any(cells[layout.width :]):
            reason = f"the row has {len(cells)} columns where the header has {layout.width}"
            raise StatementUnreadable(reason, number=row.number)
        if len(cells) < layout.width:
            cells += [""] * (layout.width - len(cells))
        why = _why_left_out(row, layout, table)
        if why is None and not any(cells[column] for column in money):
            why = "it has no amount"
        if why is not None:
            table.left_out.append(LeftOut(number=row.number, reason=why))
        elif cells[layout.date]:
            table.rows.append(row)
        else:
            reason = "the row has an amount but no date"
            raise StatementUnreadable(reason, number=row.number)
    return table


def _why_left_out(row: _Row, layout: CsvLayout, table: _Sorted) -> str | None:
    stating = _states_balance(row, layout)
    if stating is not None:
        if stating in _OPENING_NAMES and not table.rows:
            table.opening = row
        return "a balance or total, not a transaction"
    if layout.status is not None and plain_name(row.cells[layout.status]) in _NOT_BOOKED:
        return f"not booked: its status is {row.cells[layout.status]}"
    return None


def _states_balance(row: _Row, layout: CsvLayout) -> str | None:
    """The plain name of a row that states a balance or a total."""
    for column in (*layout.description, layout.date, 0):
        text = row.cells[column]
        if _STATING.match(text):
            name = plain_name(text)
            if name in _BALANCE_NAMES:
                return name
    return None


def _cell(row: _Row, column: int | None) -> str:
    return "" if column is None else row.cells[column]


def _currency(rows: Sequence[_Row], layout: CsvLayout, asked: str | None) -> str:
    currency = asked
    if layout.currency is not None:
        for row in rows:
            stated = _cell(row, layout.currency).upper()
            if stated and currency is not None and stated != currency:
                reason = f"the line is in {stated}, but the statement is in {currency}"
                raise StatementUnreadable(reason, number=row.number)
            currency = currency or stated or None
    if currency is None:
        reason = "the file does not name its currency: say --currency"
        raise CurrencyUnknown(reason)
    if currency not in CURRENCY_DIGITS:
        reason = f"{currency!r} is not an ISO 4217 currency"
        raise StatementUnreadable(reason)
    return currency


def _decimal(rows: Sequence[_Row], layout: CsvLayout) -> Decimal:
    columns = [*layout.money, *([] if layout.balance is None else [layout.balance])]
    try:
        found = decimal_of(_cell(row, column) for row in rows for column in columns)
    except BadAmount as error:
        raise StatementUnreadable(str(error)) from error
    if found is None:
        open_ended = next(
            (row for row in rows if any(m in row.cells[c] for c in layout.money for m in ",.")),
            rows[0],
        )
        reason = (
            "the amounts do not show whether they have a decimal comma or a decimal point: "
            "say --decimal comma or --decimal point"
        )
        raise StatementUnreadable(reason, number=open_ended.number)
    return found


def _lines(
    rows: Sequence[_Row],
    layout: CsvLayout,
    currency: str,
    decimal: Decimal,
    mapping: CsvMapping,
) -> list[StatementLine]:
    days = read_dates(((row.number, row.cells[layout.date]) for row in rows), mapping.date_order)
    money = _Money(layout, currency, decimal, rows)
    return [
        StatementLine(
            number=row.number,
            occurred_on=days[row.cells[layout.date]],
            amount_minor=money.of(row),
            description=_description(row, layout),
            reference=tidy_reference(_cell(row, layout.reference)),
        )
        for row in rows
    ]


def _description(row: _Row, layout: CsvLayout) -> str:
    columns = layout.description
    if len(columns) == 1:
        return tidy_description(row.cells[columns[0]])
    return tidy_description(" - ".join(filter(None, (row.cells[each] for each in columns))))


class _Money:
    """Reads a row's signed amount, by the layout's columns."""

    def __init__(
        self, layout: CsvLayout, currency: str, decimal: Decimal, rows: Sequence[_Row]
    ) -> None:
        self._layout = layout
        self._currency = currency
        self._decimal: Decimal = decimal
        self._debit_sign = 0
        self._side = layout.side
        # a column called "type" tells the sides only when it tells nothing else
        if layout.amount is None or any(
            plain_name(text) not in _SIDES for text in {_cell(row, self._side) for row in rows}
        ):
            self._side = None

    def of(self, row: _Row) -> int:
        """Signed minor units; raises StatementUnreadable."""
        if self._layout.amount is None:
            return self._of_two_columns(row)
        amount_minor = self._parse(row, self._layout.amount)
        if self._side is None:
            return amount_minor
        sign = _SIDES[plain_name(_cell(row, self._side))]
        if amount_minor < 0 < sign:
            reason = f"the amount is negative, but its side is {_cell(row, self._side)!r}"
            raise StatementUnreadable(reason, number=row.number)
        return sign * abs(amount_minor)

    def _of_two_columns(self, row: _Row) -> int:
        debit_minor = self._parse(row, self._layout.debit)
        credit_minor = self._parse(row, self._layout.credit)
        if debit_minor and credit_minor:
            reason = "the row has both a debit and a credit"
            raise StatementUnreadable(reason, number=row.number)
        if credit_minor < 0:
            reason = "the credit is negative"
            raise StatementUnreadable(reason, number=row.number)
        if not debit_minor:
            return credit_minor
        # some banks write debits with a minus and some without, but none does both
        sign = 1 if debit_minor > 0 else -1
        if self._debit_sign not in {0, sign}:
            reason = "some debits are negative and some are not"
            raise StatementUnreadable(reason, number=row.number)
        self._debit_sign = sign
        return -abs(debit_minor)

    def _parse(self, row: _Row, column: int | None) -> int:
        text = _cell(row, column)
        if not text:
            return 0
        try:
            return parse_amount(text, self._currency, self._decimal)
        except BadAmount as error:
            raise StatementUnreadable(str(error), number=row.number) from error


def _running_balances(
    rows: Sequence[_Row], layout: CsvLayout, currency: str, decimal: Decimal
) -> list[int | None]:
    """Each row's balance. Some banks print it on the last line of a day only."""
    balances: list[int | None] = []
    for row in rows:
        text = _cell(row, layout.balance)
        try:
            balances.append(parse_amount(text, currency, decimal) if text else None)
        except BadAmount as error:
            reason = f"the balance cannot be read: {error}"
            raise StatementUnreadable(reason, number=row.number) from error
    return balances


def _latest_first(lines: Sequence[StatementLine], balances: Sequence[int | None]) -> bool:
    first, last = lines[0].occurred_on, lines[-1].occurred_on
    if first != last:
        return first > last
    # within one day only the balances tell
    return not _follow(lines, balances) and _follow(lines[::-1], balances[::-1])


def _follow(lines: Sequence[StatementLine], balances: Sequence[int | None]) -> bool:
    """Whether each balance is the one before plus the line's amount."""
    return all(
        before is not None and after is not None and before + line.amount_minor == after
        for before, after, line in zip(balances, balances[1:], lines[1:], strict=False)
    )


def _outer_balances(
    lines: Sequence[StatementLine], balances: Sequence[int | None]
) -> tuple[StatementBalance | None, StatementBalance | None]:
    """The balances before the first line and after the last one, where they are printed."""
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


def _stated_opening(
    row: _Row, layout: CsvLayout, currency: str, decimal: Decimal, first: StatementLine
) -> StatementBalance | None:
    """The balance of a line such as SALDO ANTERIOR, in its own column or in that of the amounts."""
    text = _cell(row, layout.balance) or _cell(row, layout.amount)
    try:
        amount_minor = parse_amount(text, currency, decimal)
    except BadAmount:
        return None
    return StatementBalance(amount_minor=amount_minor, on=first.occurred_on)


def _remarks(
    lines: Sequence[StatementLine],
    opening: StatementBalance | None,
    closing: StatementBalance | None,
) -> Iterator[str]:
    if opening is None or closing is None:
        return
    gap_minor = closing.amount_minor - opening.amount_minor
    gap_minor -= sum(line.amount_minor for line in lines)
    if gap_minor:
        yield (
            "the lines do not add up from the first balance to the last one "
            f"(off by {gap_minor} minor units): some may be missing"
        )
