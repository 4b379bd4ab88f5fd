"""Dates in bank files: one order per file, which the file shows or the user states."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saldo.bank_import.dates import ORDERS, Order, looks_like_date, read_dates
from saldo.bank_import.errors import StatementError
from tests.support.statement_files import UNHURRIED

FORMATS: dict[str, Order] = {
    "%d/%m/%Y": "dmy",
    "%d.%m.%y": "dmy",
    "%m/%d/%Y": "mdy",
    "%m-%d-%y": "mdy",
    "%Y-%m-%d": "ymd",
    "%Y/%m/%d": "ymd",
    "%Y%m%d": "ymd",
    "%Y-%m-%dT%H:%M:%S": "ymd",
    "%d/%m/%Y %H:%M": "dmy",
}


def numbered(texts: list[str]) -> list[tuple[int, str]]:
    return list(enumerate(texts, start=2))


@UNHURRIED
@given(
    days=st.lists(st.dates(min_value=date(2000, 1, 1), max_value=date(2099, 12, 31)), min_size=1),
    style=st.sampled_from(sorted(FORMATS)),
)
def test_written_dates_are_read_back_or_are_ambiguous(days: list[date], style: str) -> None:
    """Never another day: that is what a guess would give."""
    texts = [day.strftime(style) for day in days]

    assert [read_dates(numbered(texts), FORMATS[style])[text] for text in texts] == days
    try:
        read = read_dates(numbered(texts), None)
    except StatementError as error:
        assert "--date-format" in error.reason
        assert all(each.day <= 12 or "y" in style for each in days)
    else:
        assert [read[text] for text in texts] == days


def test_ambiguous_date_order_is_refused_with_both_readings() -> None:
    with pytest.raises(StatementError) as refused:
        read_dates(numbered(["05/05/2026", "03/04/2026"]), None)

    assert refused.value.number == 3
    assert "2026-04-03 (--date-format dmy) or 2026-03-04 (--date-format mdy)" in str(refused.value)


def test_one_unambiguous_date_decides_the_order() -> None:
    read = read_dates(numbered(["03/04/2026", "31/01/2026"]), None)

    assert read["03/04/2026"] == date(2026, 4, 3)


def test_dates_equal_in_every_order_need_no_order() -> None:
    assert read_dates(numbered(["05/05/2026"]), None) == {"05/05/2026": date(2026, 5, 5)}


def test_a_date_in_another_order_is_named_with_its_line() -> None:
    with pytest.raises(StatementError, match=r"line 3: '01/31/2026'.* '31/01/2026' before"):
        read_dates(numbered(["31/01/2026", "01/31/2026"]), None)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("31 Jan 2026", date(2026, 1, 31)),
        ("05-Feb-26", date(2026, 2, 5)),
        ("5/dez/2026", date(2026, 12, 5)),
        ("05 março 2026", date(2026, 3, 5)),
        ("2026-Jan-05", date(2026, 1, 5)),
    ],
)
def test_month_names_need_no_order(text: str, day: date) -> None:
    assert read_dates(numbered([text]), None) == {text: day}


@pytest.mark.parametrize(
    "text", ["", "today", "31/02/2026", "2026-13-01", "0001-01-01", "05 Foo 2026", "1/2", "12345"]
)
def test_a_text_without_a_date_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(StatementError, match="line 2"):
        read_dates(numbered([text]), None)


@UNHURRIED
@given(st.text(max_size=12), st.sampled_from(ORDERS))
def test_any_other_text_is_refused(text: str, order: Order) -> None:
    looks_like_date(text)
    try:
        read_dates([(1, text)], order)
    except StatementError as error:
        assert error.number == 1
