"""The options of ``saldo import``. How to read the file is detected where it is not given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from saldo.bank_import.amounts import Decimal
from saldo.bank_import.dates import Order
from saldo.domain.commands import ACCOUNT_ID
from saldo.domain.money import CURRENCY_DIGITS

Format = Literal["ofx", "mt940", "camt", "csv"]

_option_of_csv = partial(typer.Option, rich_help_panel="CSV files")


def _checked_currency(currency: str | None) -> str | None:
    code = currency and currency.upper()
    if code and code not in CURRENCY_DIGITS:
        raise typer.BadParameter("must be an ISO 4217 code such as BRL")
    return code


def _checked_delimiter(delimiter: str | None) -> str | None:
    mark = "\t" if delimiter in {"\\t", "tab"} else delimiter
    if mark is not None and len(mark) != 1:
        raise typer.BadParameter("must be one character, or tab")
    return mark


def _checked_account(account: str) -> str:
    if not ACCOUNT_ID.fullmatch(account):
        raise typer.BadParameter(
            "must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ - and start with a letter "
            "or digit"
        )
    return account


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What to import, into which account, and whether to record it."""

    file: Annotated[Path, typer.Argument(help="OFX, MT940, CAMT.053 or CSV.", exists=True)]
    account: Annotated[
        str,
        typer.Option(
            "--account",
            "-a",
            help="The Saldo account to record into: one for each account at a bank.",
            callback=_checked_account,
        ),
    ]
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, record nothing.")] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before recording.")] = False
    with_opening_balance: Annotated[
        bool,
        typer.Option(
            "--with-opening-balance",
            help="Record the file's opening balance as the first transaction.",
        ),
    ] = False


Column = Annotated[str | None, _option_of_csv()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """How to read the file. A column is its name in the header, or its number from 1."""

    format: Annotated[
        Format | None, typer.Option(help="What the file is; detected by default.")
    ] = None
    bank_account: Annotated[
        str | None, typer.Option(help="Which account, where the file holds several.")
    ] = None
    currency: Annotated[
        str | None,
        typer.Option(
            help="The ISO 4217 currency, where neither the file nor the account has one.",
            callback=_checked_currency,
        ),
    ] = None
    encoding: Annotated[str | None, _option_of_csv(help="UTF-8, else Windows-1252.")] = None
    delimiter: Annotated[str | None, _option_of_csv(callback=_checked_delimiter)] = None
    decimal: Annotated[Decimal | None, _option_of_csv()] = None
    date_format: Annotated[
        Order | None, _option_of_csv(help="The order of day, month and year.")
    ] = None
    date_column: Annotated[
        str | None, _option_of_csv(help="By name, or by number from 1; so are all.")
    ] = None
    amount_column: Column = None
    debit_column: Column = None
    credit_column: Column = None
    description_column: Annotated[
        list[str] | None, _option_of_csv(help="May be given several times.")
    ] = None
    reference_column: Annotated[
        str | None, _option_of_csv(help="The bank's own id of a transaction.")
    ] = None
    balance_column: Column = None

    def columns(self, role: str) -> list[str]:
        """Return the columns that are given for ``role``."""
        given: list[str] | str | None = getattr(self, f"{role}_column", None)
        return [given] if isinstance(given, str) else given or []

    @property
    def by_number(self) -> bool:
        """Return whether the file may have no header: date and amounts are given by number."""
        money = self.amount_column or self.debit_column or self.credit_column or ""
        return (self.date_column or "").isdecimal() and money.isdecimal()
