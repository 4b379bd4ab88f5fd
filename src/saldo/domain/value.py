"""Values: exact decimals as clients write them, before their currency is known.

No float anywhere: a JSON number arrives as its text and is bounded before any arithmetic.
"""

from __future__ import annotations

import re

import msgspec

from saldo.domain.errors import AmountOutOfRange, TooManyDigits
from saldo.domain.money import CURRENCY_DIGITS, MINOR_UNITS_MAX

# Bounds on a value's text, checked before it is turned into a number: int() of ten million digits,
# or of 1e9999999, runs for seconds. 19 digits is what a bigint holds; the rest may be zeros.
VALUE_CHARACTERS_MAX = 64
VALUE_EXPONENT_MAX = 40
_VALUE = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,6}))?", re.ASCII)


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """An exact decimal from zero up: ``coefficient`` x 10^-``scale``, in lowest terms.

    An account's currency is only certain under the account's lock. ``1``, ``1.00`` and ``10e-1``
    are the same Value.
    """

    coefficient: int
    scale: int

    def to_minor(self, currency: str) -> int:
        """Return integer minor units; raise TooManyDigits or AmountOutOfRange, never round."""
        digits = CURRENCY_DIGITS[currency]
        if self.scale > digits:
            raise TooManyDigits(currency=currency, digits=digits)
        amount_minor: int = self.coefficient * 10 ** (digits - self.scale)
        if amount_minor > MINOR_UNITS_MAX:
            raise AmountOutOfRange
        return amount_minor

    def text(self) -> str:
        """Return the canonical text, equal for equal values."""
        return f"{self.coefficient}e{-self.scale}"


class BadValue(ValueError):
    """The text is not a decimal that the ledger accepts; the message says why."""


def parse_value(text: str, *, zero_allowed: bool = False) -> Value:
    """Read a positive decimal from its text (a JSON number or the content of a JSON string).

    Raises BadValue with a message made for the client.
    """
    if len(text) > VALUE_CHARACTERS_MAX:
        raise BadValue(f"must have at most {VALUE_CHARACTERS_MAX} characters")
    match = _VALUE.fullmatch(text)
    if match is None:
        raise BadValue("must be a decimal number such as 10.50")
    sign, whole, fraction, exponent_text = match.groups(default="")
    exponent = int(exponent_text or "0")
    if abs(exponent) > VALUE_EXPONENT_MAX:
        raise BadValue(
            f"must have an exponent between -{VALUE_EXPONENT_MAX} and {VALUE_EXPONENT_MAX}"
        )
    coefficient = int(whole + fraction)
    if sign and coefficient:
        raise BadValue("must be greater than zero; say EXPENSE for money that goes out")
    if coefficient == 0 and not zero_allowed:
        raise BadValue("must be greater than zero")
    scale = len(fraction) - exponent
    if scale < 0:
        coefficient *= 10**-scale
        scale = 0
    while scale > 0 and coefficient % 10 == 0:
        coefficient //= 10
        scale -= 1
    return Value(coefficient=coefficient, scale=scale)
