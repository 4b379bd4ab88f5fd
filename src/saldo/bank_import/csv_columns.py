"""The columns of a bank's CSV file: those that the user names, else by the header's names."""

from __future__ import annotations

import contextlib
import csv
import functools
import re
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from saldo.bank_import.dates import looks_like_date
from saldo.bank_import.errors import StatementError
from saldo.bank_import.options import ReadingOptions
from saldo.domain.money import CURRENCY_DIGITS

DELIMITERS = (";", ",", "\t", "|")
# Banks write their name, the account and the period above the header, on some lines.
PREAMBLE_LINES_MAX = 60
NAMES_CACHED = 10_000

_SYMBOLS = re.compile(r"\([^)]*\)|\[[^\]]*\]|R\$|US\$|[$€£]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvLayout:
    """Where the table stands in the file, and the column of each thing in it (from 0)."""

    delimiter: str
    rows_above: int
    width: int
    columns: dict[str, int]
    description: tuple[int, ...]

    @property
    def money(self) -> tuple[str, ...]:
        """Return the roles of the columns that hold amounts of transactions."""
        return tuple(each for each in ("amount", "debit", "credit") if each in self.columns)


@functools.cache
def bank_words() -> dict[str, dict[str, list[str]]]:
    """Return the words of csv_words.toml: the names of columns, of sides and of rows."""
    return tomllib.loads((resources.files("saldo.bank_import") / "csv_words.toml").read_text())


def find_layout(text: str, options: ReadingOptions) -> CsvLayout:
    """Return the layout of the file; raise StatementError when it does not show one."""
    delimiters = DELIMITERS if options.delimiter is None else (options.delimiter,)
    top = text.split("\n", PREAMBLE_LINES_MAX)[:PREAMBLE_LINES_MAX]
    rows: list[tuple[str, int, list[str]]] = []
    for delimiter in delimiters:
        # with another delimiter than the file's, anything may happen
        with contextlib.suppress(csv.Error):
            rows.extend(
                (delimiter, above, [cell.strip() for cell in row])
                for above, row in enumerate(csv.reader(top, delimiter=delimiter))
            )
    layouts = [layout for row in rows if (layout := _layout_of(*row, options)) is not None]
    if layouts:
        # of equal ones the first: a later row that looks like a header as much is a transaction
        return max(layouts, key=lambda each: each.width if options.by_number else len(each.columns))
    for role in bank_words()["columns"]:
        for told in options.columns(role):
            if all(_place(told, cells) is None for _, _, cells in rows):
                widest = max((cells for _, _, cells in rows), key=len, default=[])
                shown = ", ".join(cell for cell in widest if cell)
                raise StatementError(
                    f"there is no column {told!r} for the {role}; a row of the file is: {shown}"
                )
    raise StatementError(
        "no header was recognised: say --date-column, --amount-column (or --debit-column and "
        "--credit-column) and --description-column, by name or by number from 1"
    )


@functools.lru_cache(maxsize=NAMES_CACHED)
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


def _layout_of(
    delimiter: str, above: int, cells: Sequence[str], options: ReadingOptions
) -> CsvLayout | None:
    """Return the layout by the header ``cells``, or by the first transaction; None for others."""
    words = bank_words()["columns"]
    names = [""] * len(cells) if options.by_number else cells
    told = {role: [_place(each, names) for each in options.columns(role)] for role in words}
    plain = [plain_name(name) for name in names]
    columns: dict[str, int] = {}
    for role, known in words.items():
        named = (plain.index(name) for name in known if name in plain)
        for place in told[role] or named:
            if place is None:
                return None
            if told[role] or place not in columns.values():
                columns.setdefault(role, place)
    if "date" not in columns or not _settle_money(columns, options):
        return None
    if options.by_number and not looks_like_date(cells[columns["date"]]):
        return None
    described = told["description"] or [columns.get("description")]
    return CsvLayout(
        delimiter=delimiter,
        rows_above=above if options.by_number else above + 1,
        width=len(cells),
        columns=columns,
        description=tuple(each for each in described if each is not None),
    )


def _settle_money(columns: dict[str, int], options: ReadingOptions) -> bool:
    """Keep one way to read amounts, the user's first. Return False where the row shows none.

    A debit column alone is none: the column of income has a name that is not known here.
    """
    dropped = {"debit", "credit"}
    if options.amount_column is None:
        if options.debit_column or options.credit_column or columns.keys() >= dropped:
            dropped = {"amount"}
        elif "amount" not in columns:
            return False
    # "Credit" beside an amount is a word about it, not a column of money
    for role in dropped:
        columns.pop(role, None)
    return True


def _place(told: str, cells: Sequence[str]) -> int | None:
    if told in cells:
        return cells.index(told)
    if told.isdecimal() and 1 <= int(told) <= len(cells):
        return int(told) - 1
    plain = [plain_name(cell) for cell in cells]
    wanted = plain_name(told)
    return plain.index(wanted) if wanted and wanted in plain else None
