"""The rows of a bank's CSV file: transactions, the opening balance, and what is left out."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from saldo.bank_import.csv_columns import CsvLayout, names_in, plain_name
from saldo.bank_import.dates import looks_like_date
from saldo.bank_import.errors import StatementError
from saldo.bank_import.statement import LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterator

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
class Row:
    """A row's cells, and the line that it starts on."""

    number: int
    cells: list[str]

    def cell(self, column: int | None) -> str:
        """Return the cell; blank where the file has no such column."""
        return "" if column is None else self.cells[column]


@dataclass(slots=True)
class Table:
    """The rows below the header: transactions, the opening balance, and what is left out."""

    rows: list[Row] = field(default_factory=list)
    opening: Row | None = None
    left_out: list[LeftOut] = field(default_factory=list)


def _rows(text: str, layout: CsvLayout) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text), delimiter=layout.delimiter, strict=True)
    number = 1
    try:
        for place, cells in enumerate(reader):
            if place >= layout.rows_above:
                yield Row(number, [cell.strip() for cell in cells])
            number = reader.line_num + 1
    except csv.Error as error:
        raise StatementError(
            f"the row is broken ({error}): a quote may be open", number=number
        ) from error


def read_table(text: str, layout: CsvLayout) -> Table:
    """Sort the rows below the header; raise StatementError for one that is broken."""
    table = Table()
    money = layout.money
    needed = max(layout.date, *money) + 1
    for row in _rows(text, layout):
        cells = row.cells
        if not any(cells):
            continue
        if len(cells) < needed:
            if len(cells) > layout.date and looks_like_date(cells[layout.date]):
                raise StatementError(
                    f"the row has {len(cells)} columns where {needed} are needed: it is cut off",
                    number=row.number,
                )
            table.left_out.append(LeftOut(number=row.number, reason="a note, not a transaction"))
            continue
        if len(cells) > layout.width and any(cells[layout.width :]):
            raise StatementError(
                f"the row has {len(cells)} columns where the header has {layout.width}",
                number=row.number,
            )
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
            raise StatementError("the row has an amount but no date", number=row.number)
    return table


def _why_left_out(row: Row, layout: CsvLayout, table: Table) -> str | None:
    stating = _states_balance(row, layout)
    if stating is not None:
        if stating in _OPENING_NAMES and not table.rows:
            table.opening = row
        return "a balance or total, not a transaction"
    if layout.status is not None and plain_name(row.cells[layout.status]) in _NOT_BOOKED:
        return f"not booked: its status is {row.cells[layout.status]}"
    return None


def _states_balance(row: Row, layout: CsvLayout) -> str | None:
    """Return the plain name of a row that states a balance or a total."""
    for column in (*layout.description, layout.date, 0):
        text = row.cells[column]
        if _STATING.match(text):
            name = plain_name(text)
            if name in _BALANCE_NAMES:
                return name
    return None
