"""Money: read exactly, bounded before any arithmetic, never rounded."""

from __future__ import annotations

import ast
import inspect
from decimal import Decimal
from time import process_time

import iso4217
import moneyed
import pytest
from babel.core import get_global
from babel.numbers import get_currency_precision
from hypothesis import given
from hypothesis import strategies as st

from saldo.domain import money, value
from saldo.domain.errors import AmountOutOfRange, TooManyDigits
from saldo.domain.money import CURRENCY_DIGITS, MINOR_UNITS_MAX, format_minor
from saldo.domain.value import VALUE_EXPONENT_MAX, BadValue, Value, parse_value

CURRENCIES = st.sampled_from(["JPY", "BRL", "KWD", "CLF"])
AMOUNTS = st.integers(1, MINOR_UNITS_MAX)
# CPU time, so that other processes do not count: far more than a bounded parse takes, far less
# than an unbounded one.
AT_ONCE_S = 1.0
# Year, month and day: what was still paid with when the euro came may be in a file of statements.
RETIRED_SINCE = (1999, 1, 1)


def amount(value: str, currency: str = "BRL") -> int:
    return parse_value(value).to_minor(currency)


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "+1", "-", ".5", "5.", "1,5", "0x10", "1_000", "NaN", "Infinity", "-Infinity"]
    + ["1e", "e5", "1e1.5", "1e1234567", "--1", "1.2.3", "\u0661", "\uff11", "one", "1\n", "1\0"],
)
def test_a_text_that_is_no_decimal_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        parse_value(text)


@pytest.mark.parametrize("text", ["0", "0.00", "-0", "0e5", "0.0e-3"])
def test_zero_is_refused_unless_allowed(text: str) -> None:
    with pytest.raises(BadValue, match="greater than zero"):
        parse_value(text)
    assert parse_value(text, zero_allowed=True) == Value(coefficient=0, scale=0)


@pytest.mark.parametrize("text", ["-1", "-0.01", "-1e3"])
@pytest.mark.parametrize("zero_allowed", [False, True])
def test_a_negative_value_is_refused_with_a_hint_at_expense(
    text: str, *, zero_allowed: bool
) -> None:
    with pytest.raises(BadValue, match="EXPENSE"):
        parse_value(text, zero_allowed=zero_allowed)


@pytest.mark.parametrize(
    "text",
    ["1e9999999", "1e999999", "1e-999999", "1e41", "1e-41", "9" * 65, "0." + "0" * 64, "9" * 10**7],
    ids=lambda text: f"{text[:10]}-{len(text)}",
)
def test_digits_and_exponent_are_bounded_before_any_arithmetic(text: str) -> None:
    began = process_time()
    with pytest.raises(BadValue):
        parse_value(text)
    assert process_time() - began < AT_ONCE_S


@pytest.mark.parametrize("text", ["9" * 64, "1e40", "92233720368547758.08", "1e17"])
def test_an_amount_beyond_the_integer_is_refused(text: str) -> None:
    with pytest.raises(AmountOutOfRange):
        amount(text)


def test_the_largest_amount_is_accepted() -> None:
    assert amount("92233720368547758.07") == MINOR_UNITS_MAX


@pytest.mark.parametrize(
    ("text", "currency"), [("0.1", "JPY"), ("0.001", "BRL"), ("0.0001", "KWD"), ("1e-3", "BRL")]
)
def test_too_many_digits_are_refused_instead_of_rounded(text: str, currency: str) -> None:
    with pytest.raises(TooManyDigits) as refused:
        amount(text, currency)
    assert (refused.value.currency, refused.value.digits) == (currency, CURRENCY_DIGITS[currency])


@pytest.mark.parametrize("text", ["1.00", "1.0", "10e-1", "0.1e1", "1e0", "1E+0", "100e-2"])
def test_one_is_read_in_every_notation(text: str) -> None:
    assert parse_value(text) == parse_value("1")
    assert parse_value(text).text() == parse_value("1").text()


@pytest.mark.parametrize(
    "text", ["9007199254740993", "9007199254740993.01", "0.1", "0.07", "12345678901234567.89"]
)
def test_numbers_that_a_float_cannot_hold_are_exact_both_ways(text: str) -> None:
    assert format_minor(amount(text), "BRL").rstrip("0") == text.rstrip("0")


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (100000, "BRL", "1000"),
        (1050, "BRL", "10.50"),
        (5, "BRL", "0.05"),
        (-5, "BRL", "-0.05"),
        (-1050, "BRL", "-10.50"),
        (0, "BRL", "0"),
        (-7, "JPY", "-7"),
        (1, "KWD", "0.001"),
        (10001, "CLF", "1.0001"),
    ],
)
def test_an_amount_is_written_with_all_or_no_decimals(
    amount_minor: int, currency: str, text: str
) -> None:
    assert format_minor(amount_minor, currency) == text


@given(AMOUNTS, CURRENCIES)
def test_a_written_amount_is_read_back_equal(amount_minor: int, currency: str) -> None:
    assert amount(format_minor(amount_minor, currency), currency) == amount_minor
    assert format_minor(-amount_minor, currency) == "-" + format_minor(amount_minor, currency)


@given(st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,8})?([eE][+-]?[0-9]{1,2})?", fullmatch=True))
def test_a_value_equals_the_decimal_of_its_text(text: str) -> None:
    exact = Decimal(text)
    try:
        value = parse_value(text, zero_allowed=True)
    except BadValue:
        assert abs(int(text.lower().partition("e")[2] or "0")) > VALUE_EXPONENT_MAX
        return
    assert Decimal(value.coefficient).scaleb(-value.scale) == exact
    assert value.scale == 0 or value.coefficient % 10


@given(AMOUNTS, st.integers(0, 6))
def test_trailing_zeros_change_nothing(amount_minor: int, zeros: int) -> None:
    text = f"{amount_minor // 100}.{amount_minor % 100:02d}"
    assert parse_value(text + "0" * zeros) == parse_value(text)


def test_the_modules_of_money_use_no_float() -> None:
    tree = ast.parse(inspect.getsource(money) + inspect.getsource(value))
    floats = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is float]
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    divisions = [n for n in ast.walk(tree) if isinstance(n, ast.Div)]
    assert (floats, divisions, names & {"float", "round", "math"}) == ([], [], set())


def test_currencies_match_iso_4217() -> None:
    """The active ones as ISO lists them, and those that were legal tender since 1999."""
    active = {each.code: each.exponent for each in iso4217.Currency if each.exponent is not None}
    ended = {
        code
        for entries in get_global("territory_currencies").values()
        for code, _, until, is_tender in entries
        if is_tender and until is not None and until >= RETIRED_SINCE
    }
    # CLDR's digits are those that prices are shown with: of two sources the larger counts, since
    # too few would refuse amounts that there were.
    retired = {
        code: max(get_currency_precision(code), len(str(currency.sub_unit)) - 1)
        for code, currency in moneyed.CURRENCIES.items()
        if code in ended - active.keys()
    }
    assert retired | active == CURRENCY_DIGITS
    for code in ("XCG", "XAD", "HRK", "SLL", "BGN", "ANG"):
        assert CURRENCY_DIGITS[code] == 2
    assert (CURRENCY_DIGITS["JPY"], CURRENCY_DIGITS["ITL"], CURRENCY_DIGITS["KWD"]) == (0, 0, 3)
