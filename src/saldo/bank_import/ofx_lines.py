"""The transactions of an OFX file, each from the text between its tags."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.bank_import.amounts import Decimal, parse_amount
from saldo.bank_import.dates import day_of
from saldo.bank_import.errors import StatementError
from saldo.bank_import.statement import StatementLine, tidy_description, tidy_reference

if TYPE_CHECKING:
    from datetime import date

_FIELD = re.compile(r"<([A-Z][A-Z0-9.]*)>([^<]*)")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_ENTITY = re.compile(r"&(amp|lt|gt|quot|apos|nbsp|#[0-9]{1,7});")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " "}
_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})", re.ASCII)
START, END = "<STMTTRN>", "</STMTTRN>"


@dataclass(frozen=True, slots=True)
class Block:
    """The text between a transaction's tags, and the line that it starts on."""

    text: str
    number: int


def read_line(block: Block, currency: str) -> StatementLine:
    """Return the transaction in ``block``; raise StatementError."""
    text = block.text
    if "<![CDATA[" in text:
        text = _CDATA.sub(lambda match: match.group(1).replace("<", "&lt;"), text)
    fields = {name: value.strip() for name, value in _FIELD.findall(text)}
    if START in text or "TRNAMT" not in fields or "DTPOSTED" not in fields:
        missing = "TRNAMT" if "TRNAMT" not in fields else "DTPOSTED"
        raise StatementError(f"the transaction has no {missing}", number=block.number)
    if "<CURRENCY>" in text and fields.get("CURSYM", currency) != currency:
        raise StatementError(
            f"the amount is in {fields['CURSYM']}, but the statement is in {currency}",
            number=block.number,
        )
    return StatementLine(
        number=block.number,
        occurred_on=read_date(fields["DTPOSTED"], "DTPOSTED", block.number),
        amount_minor=read_amount(fields["TRNAMT"], currency, block.number),
        description=_description(fields),
        reference=tidy_reference(_unescape(fields.get("FITID", ""))),
    )


def _description(fields: dict[str, str]) -> str:
    name = tidy_description(_unescape(fields.get("NAME", "")))
    memo = tidy_description(_unescape(fields.get("MEMO", "")))
    if not name or memo.startswith(name):
        return memo or fields.get("TRNTYPE", "")
    if not memo or name.startswith(memo):
        return name
    return tidy_description(f"{name} - {memo}")


def _unescape(text: str) -> str:
    return _ENTITY.sub(_character, text) if "&" in text else text


def _character(match: re.Match[str]) -> str:
    name: str = match.group(1)
    if not name.startswith("#"):
        return _ENTITIES[name]
    code = int(name[1:])
    return chr(code) if code <= sys.maxunicode else ""


def read_amount(text: str, currency: str, number: int | None) -> int:
    """Return signed minor units; raise StatementError."""
    # OFX knows no thousands separator, so a single comma or point is the decimal one
    decimal: Decimal = "comma" if text.rfind(",") > text.rfind(".") else "point"
    return parse_amount(text, currency, decimal, number=number)


def read_date(text: str, name: str, number: int | None) -> date:
    """Return the day of the bank's own calendar: the time zone behind it is left out."""
    match = _DATE.match(text)
    day = day_of(*match.groups()) if match else None
    if day is None:
        raise StatementError(f"{name} is {text[:40]!r}, which is not a date", number=number)
    return day
