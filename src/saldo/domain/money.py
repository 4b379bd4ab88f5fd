"""Money: integer minor units of an ISO 4217 currency, and exact decimals on the way in and out.

No float anywhere: a JSON number arrives as its text, is bounded before any arithmetic, and leaves
as its text.
"""

from __future__ import annotations

import re

import msgspec

from saldo.domain.errors import AmountOutOfRange, TooManyDigits

# A PostgreSQL bigint; amounts and balances both live in one.
MINOR_UNITS_MAX = 2**63 - 1
# Bounds on a value's text, checked before it is turned into a number: int() of ten million digits,
# or of 1e9999999, runs for seconds. 19 digits is what a bigint holds; the rest may be zeros.
VALUE_CHARACTERS_MAX = 64
VALUE_EXPONENT_MAX = 40

# ISO 4217 by digits: the active currencies and those that were legal tender since 1999, as a test
# finds them in well-kept packages, whose import would take longer than a function's start. A code's
# digits must never change: amounts are stored in its smallest unit.
_DIGITS_0 = """
ADP BIF BYR CLP DJF ESP GNF ISK ITL JPY KMF KRW MGF PYG RWF TRL UGX UYI VND VUV XAF XOF XPF
"""
_DIGITS_3 = "BHD IQD JOD KWD LYD OMR TND"
_DIGITS_4 = "CLF UYW"
_DIGITS_2 = """
AED AFA AFN ALL AMD ANG AOA AON AOR ARS ATS AUD AWG AZM AZN BAM BBD BDT BEF BGL BGN BMD BND BOB BOV
BRL BSD BTN BWP BYB BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC CSD CUC CUP CVE CYP CZK DEM DKK DOP
DZD ECS EEK EGP ERN ETB EUR FIM FJD FKP FRF GBP GEL GHC GHS GIP GMD GRD GTQ GYD HKD HNL HRK HTG HUF
IDR IEP ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL LTL LUF LVL MAD MCF MDL MGA MKD
MMK MNT MOP MRO MRU MTL MUR MVR MWK MXN MXV MYR MZM MZN NAD NGN NIO NLG NOK NPR NZD PAB PEN PGK PHP
PKR PLN PTE QAR ROL RON RSD RUB SAR SBD SCR SDD SDG SEK SGD SHP SIT SKK SLE SLL SOS SRD SRG SSP STD
STN SVC SYP SZL THB TJR TJS TMM TMT TOP TPE TRY TTD TWD TZS UAH USD USN UYU UZS VEB VED VEF VES WST
XAD XCD XCG YER YUM ZAR ZMK ZMW ZWD ZWG ZWL ZWR
"""
CURRENCY_DIGITS: dict[str, int] = {
    code: digits
    for digits, codes in (
        (0, _DIGITS_0),
        (2, _DIGITS_2),
        (3, _DIGITS_3),
        (4, _DIGITS_4),
    )
    for code in codes.split()
}

_VALUE = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,6}))?", re.ASCII)


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """An exact decimal from zero up: ``coefficient`` x 10^-``scale``, in lowest terms.

    What a client sent, before its currency is known: an account's currency is only certain under
    the account's lock. ``1``, ``1.00`` and ``10e-1`` are the same Value.
    """

    coefficient: int
    scale: int

    def to_minor(self, currency: str) -> int:
        """Integer minor units; raises TooManyDigits or AmountOutOfRange, never rounds."""
        digits = CURRENCY_DIGITS[currency]
        if self.scale > digits:
            raise TooManyDigits(currency=currency, digits=digits)
        amount_minor: int = self.coefficient * 10 ** (digits - self.scale)
        if amount_minor > MINOR_UNITS_MAX:
            raise AmountOutOfRange
        return amount_minor

    def text(self) -> str:
        """The canonical text, equal for equal values."""
        return f"{self.coefficient}e{-self.scale}"


class BadValue(ValueError):
    """The text is not a decimal that the ledger accepts; the message says why."""


def parse_value(text: str, *, zero_allowed: bool = False) -> Value:
    """Read a positive decimal from its text (a JSON number or the content of a JSON string).

    Raises BadValue with a message made for the client.
    """
    # The common cases, digits with or without a point among them, without the general pattern.
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    if (
        len(text) <= 15  # noqa: PLR2004
        and digits.isdigit()
        and digits.isascii()
        and whole
        and (fraction or not point)
    ):
        fraction = fraction.rstrip("0")
        coefficient, scale = int(whole + fraction), len(fraction)
    else:
        coefficient, scale = _parse_general(text)
    if coefficient == 0 and not zero_allowed:
        message = "must be greater than zero"
        raise BadValue(message)
    while scale > 0 and coefficient % 10 == 0:
        coefficient //= 10
        scale -= 1
    return Value(coefficient=coefficient, scale=scale)


def _parse_general(text: str) -> tuple[int, int]:
    if len(text) > VALUE_CHARACTERS_MAX:
        message = f"must have at most {VALUE_CHARACTERS_MAX} characters"
        raise BadValue(message)
    match = _VALUE.fullmatch(text)
    if match is None:
        message = "must be a decimal number such as 10.50"
        raise BadValue(message)
    sign, whole, fraction, exponent_text = match.groups()
    fraction = fraction or ""
    exponent = int(exponent_text or "0")
    if abs(exponent) > VALUE_EXPONENT_MAX:
        message = f"must have an exponent between -{VALUE_EXPONENT_MAX} and {VALUE_EXPONENT_MAX}"
        raise BadValue(message)
    coefficient = int(whole + fraction)
    if sign and coefficient:
        message = "must be greater than zero; say EXPENSE for money that goes out"
        raise BadValue(message)
    scale = len(fraction) - exponent
    if scale < 0:
        coefficient *= 10**-scale
        scale = 0
    return coefficient, scale


def format_minor(amount_minor: int, currency: str) -> str:
    """The exact JSON number: ``1000`` for whole amounts, else all of the currency's digits."""
    digits = CURRENCY_DIGITS[currency]
    if digits == 0:
        return str(amount_minor)
    text = str(amount_minor).zfill(digits + 2 if amount_minor < 0 else digits + 1)
    whole, fraction = text[:-digits], text[-digits:]
    return f"{whole}.{fraction}" if fraction.strip("0") else whole


def value_members(amount_minor: int, currency: str | None) -> str:
    """Return the members of a JSON object that show an amount; without a currency there is none.

    ``value`` is a JSON number, which JavaScript reads as a float; ``valueText`` is the same text.
    """
    text = "0" if currency is None else format_minor(amount_minor, currency)
    return f'"value":{text},"valueText":"{text}"'
