"""Amounts as banks write them, to integer minor units. No float, and nothing is rounded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from saldo.bank_import.errors import StatementError
from saldo.domain.money import CURRENCY_DIGITS, MINOR_UNITS_MAX

Decimal = Literal["comma", "point"]
MARKS: dict[Decimal, str] = {"comma": ",", "point": "."}

# Checked before any arithmetic: int() of a million digits runs for seconds.
AMOUNT_CHARACTERS_MAX = 64
GROUP_DIGITS = 3  # in thousands: 1,234

_AMOUNT = re.compile(
    r"(?P<open>\()?\s*"
    r"(?P<sign_first>[+-])?\s*"
    r"(?P<symbol>R\$|US\$|[A-Z]{3}|[$€£¥])?\s*"
    r"(?P<sign_second>[+-])?\s*"
    r"(?P<number>[0-9][0-9.,' ]*|[.,][0-9]+)\s*"
    r"(?P<symbol_last>R\$|[A-Z]{3}|[$€£¥])?\s*"
    r"(?P<sign_last>[+-])?\s*"
    r"(?P<side>[DC]|DR|CR)?\s*"
    r"(?P<close>\))?",
    re.ASCII,
)
# Groups by the same separator: of three, or of two before the last three as in India. 1.23 with a
# decimal comma is a mistake, not 123.
_WHOLE = re.compile(r"[0-9]+|[0-9]{1,3}([.,' ])(?:[0-9]{2,3}\1)*[0-9]{3}", re.ASCII)
_NUMBER = re.compile(r"[0-9' ]*[.,][0-9.,' ]*", re.ASCII)
_SIGNS_AND_SPACES = str.maketrans(
    {"−": "-", "–": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "’": "'"}  # noqa: RUF001 - what banks write
)


def parse_amount(text: str, currency: str, decimal: Decimal, *, number: int | None = None) -> int:
    """Return the signed minor units of ``-1.234,56``, ``R$ 10,00`` or ``(12,50)``.

    Raise StatementError, with the line ``number``.
    """
    try:
        return _minor_units(text, currency, decimal)
    except ValueError as error:
        raise StatementError(str(error), number=number) from error


def _minor_units(text: str, currency: str, decimal: Decimal) -> int:
    if len(text) > AMOUNT_CHARACTERS_MAX:
        raise ValueError(f"the amount has more than {AMOUNT_CHARACTERS_MAX} characters")
    match = _AMOUNT.fullmatch(text.translate(_SIGNS_AND_SPACES).strip())
    if match is None:
        raise ValueError(f"{text!r} is not an amount")
    part = match.groupdict()
    symbol = part["symbol"] or part["symbol_last"] or currency
    if symbol.isalpha() and symbol != currency:
        raise ValueError(f"{text!r} is in {symbol}, but the statement is in {currency}")
    signs = [part[name] for name in ("sign_first", "sign_second", "sign_last") if part[name]]
    if part["open"] and part["close"]:
        signs.append("-")
    if part["side"]:
        signs.append("-" if part["side"].startswith("D") else "+")
    if len(signs) > 1 or bool(part["open"]) != bool(part["close"]):
        raise ValueError(f"{text!r} has no clear sign")
    mark = MARKS[decimal]
    whole, _, fraction = part["number"].strip().partition(mark)
    if (fraction and not fraction.isdigit()) or (whole and not _WHOLE.fullmatch(whole)):
        raise ValueError(f"{text!r} is not an amount with a decimal {decimal}")
    digits = CURRENCY_DIGITS[currency]
    if fraction[digits:].strip("0"):
        raise ValueError(
            f"{text!r} has more digits after its decimal {decimal} than {currency} has"
        )
    amount_minor = int(re.sub("[.,' ]", "", whole) + fraction[:digits].ljust(digits, "0"))
    if amount_minor > MINOR_UNITS_MAX:
        raise ValueError(f"{text!r} is larger than the ledger can hold")
    return -amount_minor if "-" in signs else amount_minor


def decimal_of(texts: Iterable[str]) -> Decimal | None:
    """Return the decimal separator that the amounts themselves show.

    None when they leave it open: ``1,234`` alone may be either. Raise StatementError when one
    amount shows a comma and another a point.
    """
    seen: dict[Decimal | None, str] = {}
    for text in texts:
        if "," in text or "." in text:
            seen.setdefault(_shown_decimal(text), text)
    if "comma" in seen and "point" in seen:
        raise StatementError(
            f"{seen['comma']!r} has a decimal comma and {seen['point']!r} a decimal point: "
            "say --decimal comma or --decimal point"
        )
    if "comma" in seen:
        return "comma"
    # whole numbers without a separator read the same either way
    return "point" if "point" in seen or not seen else None


def _shown_decimal(text: str) -> Decimal | None:
    """Return the decimal separator that one amount shows; None when it may be either."""
    number = re.sub("[' ]", "", _NUMBER.findall(text.translate(_SIGNS_AND_SPACES))[0])
    comma, point = number.count(","), number.count(".")
    if comma and point:
        return "comma" if number.rindex(",") > number.rindex(".") else "point"
    if comma + point > 1:
        # a separator that repeats groups thousands, so the other one is the decimal one
        return "point" if comma else "comma"
    before, after = number.split("," if comma else ".")
    if len(after) == GROUP_DIGITS and 1 <= len(before) <= GROUP_DIGITS and before != "0":
        return None
    return "comma" if comma else "point"
