"""Amounts in bank files: read exactly in every notation, or refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saldo.bank_import.amounts import MARKS, Decimal, decimal_of, parse_amount
from saldo.bank_import.errors import StatementError
from saldo.domain.money import CURRENCY_DIGITS, MINOR_UNITS_MAX
from tests.support.statement_files import UNHURRIED

DECIMALS: list[Decimal] = ["comma", "point"]


def written(amount_minor: int, currency: str, decimal: Decimal, group: str) -> str:
    digits = CURRENCY_DIGITS[currency]
    whole, fraction = divmod(abs(amount_minor), 10**digits)
    text = f"{whole:,}".replace(",", group)
    return text + (f"{MARKS[decimal]}{fraction:0{digits}d}" if digits else "")


@UNHURRIED
@given(
    amount_minor=st.integers(-MINOR_UNITS_MAX, MINOR_UNITS_MAX),
    currency=st.sampled_from(["BRL", "EUR", "JPY", "KWD", "CLF"]),
    decimal=st.sampled_from(DECIMALS),
    group=st.sampled_from(["", " ", "\u00a0", "'", "\u2019", "other"]),
    style=st.sampled_from(["-{}", "- {}", "{}-", "({})", "R$ -{}", "-R$ {}", "{} D", "−{}"]),  # noqa: RUF001 - what banks write
)
def test_written_amounts_are_read_back(
    amount_minor: int, currency: str, decimal: Decimal, group: str, style: str
) -> None:
    group = "." if group == "other" and decimal == "comma" else group
    group = "," if group == "other" else group
    text = written(amount_minor, currency, decimal, group)
    text = style.format(text) if amount_minor < 0 else text

    assert parse_amount(text, currency, decimal) == amount_minor


@pytest.mark.parametrize(
    ("text", "decimal", "amount_minor"),
    [
        ("R$ 1.234,56", "comma", 123456),
        ("1,234.56 USD", "point", 123456),
        ("$5", "point", 500),
        ("12,", "comma", 1200),
        (",5", "comma", 50),
        ("1,00,000.00", "point", 10_000_000),
        ("10.500", "point", 1050),
        ("100,00 C", "comma", 10_000),
        ("100,00 DR", "comma", -10_000),
        ("+7", "point", 700),
        ("-0,00", "comma", 0),
    ],
)
def test_amounts_as_banks_write_them_are_read(
    text: str, decimal: Decimal, amount_minor: int
) -> None:
    assert parse_amount(text, "USD", decimal) == amount_minor


@pytest.mark.parametrize(
    ("text", "decimal"),
    [
        ("", "point"),
        ("abc", "point"),
        ("1.2.3", "point"),
        ("1,234.56", "comma"),
        ("10.50", "comma"),
        ("10.505", "point"),
        ("1e5", "point"),
        ("--5", "point"),
        ("-5-", "point"),
        ("(5", "point"),
        ("(5) D", "point"),
        ("5 EUR", "point"),
        ("NaN", "point"),
        ("١٢", "point"),
        ("9" * 60, "point"),
        ("9" * 1_000_000, "point"),
        ("92233720368547758.08", "point"),
        ("1 23", "point"),
    ],
)
def test_unclear_amounts_are_refused(text: str, decimal: Decimal) -> None:
    with pytest.raises(StatementError):
        parse_amount(text, "BRL", decimal)


@UNHURRIED
@given(st.text(max_size=20), st.sampled_from(DECIMALS))
def test_any_other_text_is_refused(text: str, decimal: Decimal) -> None:
    with contextlib.suppress(StatementError):
        assert isinstance(parse_amount(text, "BRL", decimal), int)


@pytest.mark.parametrize(
    ("texts", "decimal"),
    [
        (["1.234,56"], "comma"),
        (["1,234.56"], "point"),
        (["10,5"], "comma"),
        (["1.234.567"], "comma"),
        (["1,234", "0,5"], "comma"),
        (["1,234", "1.5"], "point"),
        (["0,123"], "comma"),
        (["1 234,567"], "comma"),
        (["10", "20"], "point"),
        (["1,234"], None),
        (["1.234", "5"], None),
        ([], "point"),
    ],
)
def test_decimal_separator_is_detected_or_unknown(
    texts: list[str], decimal: Decimal | None
) -> None:
    assert decimal_of(texts) == decimal


def test_two_decimal_separators_are_refused() -> None:
    with pytest.raises(StatementError, match="--decimal"):
        decimal_of(["10,50", "10.50"])
