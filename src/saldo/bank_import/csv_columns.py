"""The columns of a bank's CSV file: those that the user names, else by the header's names."""

from __future__ import annotations

import csv
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.bank_import.dates import looks_like_date
from saldo.bank_import.errors import StatementError
from saldo.domain.money import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saldo.bank_import.reading_options import ReadingOptions

DELIMITERS = (";", ",", "\t", "|")
# Banks write their name, the account and the period above the header, on some lines.
PREAMBLE_LINES_MAX = 60


def names_in(text: str) -> tuple[str, ...]:
    """Return the plain names of a list that is written with semicolons."""
    return tuple(name.strip() for name in text.split(";"))


# The header's names in English and Portuguese, as plain_name leaves them. The first that a header
# has is taken, so the more exact ones come first.
NAMES: dict[str, tuple[str, ...]] = {
    "date": names_in(
        "booking date;posting date;posted date;post date;date posted;transaction date;trans date;"
        "completed date;date;date time;data do lancamento;data lancamento;data de lancamento;"
        "data da transacao;data transacao;data do movimento;data movimento;data mov;"
        "data da operacao;data operacao;data contabilistica;data contabil;data;data hora;dia;"
        "value date;data valor;data da compra"
    ),
    "amount": names_in(
        "amount;transaction amount;value;valor;valor do lancamento;valor da transacao;montante;"
        "importancia;quantia;movimento;net amount"
    ),
    "debit": names_in(
        "debit;debits;debit amount;withdrawal;withdrawals;withdrawal amount;money out;paid out;"
        "debito;debitos;valor debito;a debito;saida;saidas"
    ),
    "credit": names_in(
        "credit;credits;credit amount;deposit;deposits;deposit amount;money in;paid in;"
        "credito;creditos;valor credito;a credito;entrada;entradas"
    ),
    "description": names_in(
        "description;transaction description;details;narrative;memo;particulars;payee;name;title;"
        "descricao;descricao do movimento;descricao da transacao;historico;"
        "historico do lancamento;lancamento;detalhes;titulo;estabelecimento;descritivo"
    ),
    "reference": names_in(
        "transaction id;fitid;id;transaction reference;bank reference;reference number;reference;"
        "id da transacao;id transacao;identificador;identificacao;codigo da transacao;"
        "numero do documento;n documento;no documento;nr documento;num documento;documento;"
        "docto;dcto;doc;num doc;referencia"
    ),
    "balance": names_in(
        "balance;running balance;account balance;balance after;closing balance;saldo;saldo apos;"
        "saldo apos movimento;saldo contabilistico;saldo contabil"
    ),
    "currency": names_in("currency;ccy;moeda"),
    "side": names_in(
        "debit credit;credit debit;dr cr;cr dr;d c;c d;dc;cd;credit debit indicator;type;"
        "transaction type;tipo;tipo de transacao;tipo de lancamento;tipo lancamento;natureza;"
        "debito credito;credito debito"
    ),
    "status": names_in("status;state;situacao;estado"),
}

_SYMBOLS = re.compile(r"\([^)]*\)|\[[^\]]*\]|R\$|US\$|[$€£]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvLayout:
    """Where the table stands in the file, and each thing in the table (indices from 0)."""

    delimiter: str
    rows_above: int
    width: int
    description: tuple[int, ...]
    date: int
    amount: int | None = None
    debit: int | None = None
    credit: int | None = None
    reference: int | None = None
    balance: int | None = None
    currency: int | None = None
    side: int | None = None
    status: int | None = None

    @property
    def money(self) -> tuple[int, ...]:
        """Return the columns that hold amounts of transactions."""
        found = (self.amount, self.debit, self.credit)
        return tuple(each for each in found if each is not None)


def find_layout(text: str, options: ReadingOptions) -> CsvLayout:
    """Return the layout of the file; raise StatementError when it does not show one."""
    delimiters = DELIMITERS if options.delimiter is None else (options.delimiter,)
    top = text.split("\n", PREAMBLE_LINES_MAX)[:PREAMBLE_LINES_MAX]
    found: list[tuple[int, CsvLayout]] = []
    for delimiter in delimiters:
        for above, cells in enumerate(_top_rows(top, delimiter)):
            layout = _layout_of(cells, above, delimiter, options)
            if layout is not None:
                found.append(layout)
    if not found:
        _name_missing_column(top, delimiters, options)
        raise StatementError(
            "no header was recognised: say --date-column, --amount-column (or --debit-column and "
            "--credit-column) and --description-column, by name or by number from 1"
        )
    # of equal ones the first: a later row that looks like a header as much is a transaction
    return max(found, key=lambda each: each[0])[1]


def plain_name(text: str) -> str:
    """Return ``text`` in lower case, without accents, brackets, currency and punctuation.

    ``Valor (R$)`` is ``valor``, ``Descrição`` is ``descricao``, ``Amount EUR`` is ``amount``.
    """
    bare, symbols = _SYMBOLS.subn(" ", text)
    decomposed = unicodedata.normalize("NFKD", bare.casefold())
    letters = "".join(c for c in decomposed if not unicodedata.combining(c))
    words = re.sub(r"[^0-9a-z]+", " ", letters).split()
    named = len(words) > 1 and words[-1].upper() in CURRENCY_DIGITS
    if named:
        words.pop()
    if (named or symbols) and len(words) > 1 and words[-1] in {"em", "in"}:
        words.pop()
    return " ".join(words)


def _top_rows(top: Sequence[str], delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        rows.extend([cell.strip() for cell in row] for row in csv.reader(top, delimiter=delimiter))
    except csv.Error:
        # with another delimiter than the file's, anything may happen
        return rows
    return rows


def _layout_of(
    cells: Sequence[str], above: int, delimiter: str, options: ReadingOptions
) -> tuple[int, CsvLayout] | None:
    """Return how good a header this row is, and the layout by it; None when it is none."""
    if options.by_number:
        column = int(options.date_column or "0") - 1
        if not 0 <= column < len(cells) or not looks_like_date(cells[column]):
            return None
        # the row is the first transaction itself, and has no names to go by
        roles = _roles([""] * len(cells), options)
        above -= 1
    else:
        roles = _roles(cells, options)
    if "date" not in roles or not _settle_money(roles, options):
        return None
    if any(_place(told, cells) is None for role in NAMES for told in options.columns(role)):
        return None
    quality = len(cells) if options.by_number else len(roles)
    found = roles.pop("description", None)
    described = [_place(told, cells) for told in options.columns("description")] or [found]
    layout = CsvLayout(
        delimiter=delimiter,
        rows_above=above + 1,
        width=len(cells),
        description=tuple(each for each in described if each is not None),
        **roles,
    )
    return quality, layout


def _settle_money(roles: dict[str, int], options: ReadingOptions) -> bool:
    """Keep one way to read amounts, the user's first. Return False where the row shows none.

    A debit column alone is none: the column of income has a name that is not known here.
    """
    both = {"debit", "credit"}
    if options.amount_column is not None:
        dropped = both
    elif options.debit_column or options.credit_column or roles.keys() >= both:
        dropped = {"amount"}
    elif "amount" in roles:
        # "Credit" beside an amount is a word about it, not a column of money
        dropped = both
    else:
        return False
    for role in dropped:
        roles.pop(role, None)
    return True


def _roles(cells: Sequence[str], options: ReadingOptions) -> dict[str, int]:
    plain = [plain_name(cell) for cell in cells]
    roles: dict[str, int] = {}
    for role, names in NAMES.items():
        told = options.columns(role)
        if told:
            column = _place(told[0], cells)
            if column is not None:
                roles[role] = column
            continue
        for name in names:
            if name in plain and plain.index(name) not in roles.values():
                roles[role] = plain.index(name)
                break
    return roles


def _place(told: str, cells: Sequence[str]) -> int | None:
    if told in cells:
        return cells.index(told)
    if told.isdigit() and 1 <= int(told) <= len(cells):
        return int(told) - 1
    plain = [plain_name(cell) for cell in cells]
    wanted = plain_name(told)
    return plain.index(wanted) if wanted and wanted in plain else None


def _name_missing_column(
    top: Sequence[str], delimiters: Sequence[str], options: ReadingOptions
) -> None:
    """Raise StatementError for a column that the user named but no row at the top has."""
    rows = [row for delimiter in delimiters for row in _top_rows(top, delimiter)]
    for role in NAMES:
        for told in options.columns(role):
            if all(_place(told, row) is None for row in rows):
                widest = max(rows, key=len, default=[])
                shown = ", ".join(cell for cell in widest if cell)
                raise StatementError(
                    f"there is no column {told!r} for the {role}; a row of the file is: {shown}"
                )
