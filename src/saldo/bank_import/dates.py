"""Dates as banks write them, with one order of day, month and year for a whole file.

03/04 may be the third of April or the fourth of March. The order is taken from the dates that show
it, and asked for when none does: a guess would put every transaction on a wrong day.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from datetime import date
from typing import Literal

from saldo.bank_import.errors import StatementError

Order = Literal["dmy", "mdy", "ymd"]
ORDERS: tuple[Order, ...] = ("dmy", "mdy", "ymd")

# A two-digit year is of this century: no bank exports files from the one before.
CENTURY = 2000
DAYS_CACHED = 10_000
# What the recorder accepts as the time at which a transaction occurred.
YEAR_MIN, YEAR_MAX = 1900, 2200
YEAR_DIGITS = {2, 4}
DAY_DIGITS = 2

_PARTS = re.compile(
    r"([0-9]{1,4})([/.\- ])([0-9]{1,2}|[^\W\d_]{3,10}\.?)\2([0-9]{1,4})(?:[T ,].*)?|"
    r"([0-9]{4})([0-9]{2})([0-9]{2})(?:[T ].*|[0-9]{6})?",
    re.DOTALL,
)
# English and Portuguese, by the first three letters without accents.
_MONTH_NAMES = "jan feb|fev mar apr|abr may|mai jun jul aug|ago sep|set oct|out nov dec|dez"
_MONTHS = {
    name: number
    for number, names in enumerate(_MONTH_NAMES.split(), start=1)
    for name in names.split("|")
}


def looks_like_date(text: str) -> bool:
    """Return whether ``text`` is a date in some order."""
    return any(_in_order(text, order) is not None for order in ORDERS)


def read_dates(texts: Iterable[tuple[int, str]], order: Order | None) -> dict[str, date]:
    """Return each text's date. ``texts`` are pairs of a line's number and its text.

    Raise StatementError where a text is no date, or when several orders are possible.
    """
    first_lines: dict[str, int] = {}
    for number, text in texts:
        first_lines.setdefault(text, number)
    readings: dict[Order, dict[str, date]] = {each: {} for each in ([order] if order else ORDERS)}
    for text, number in first_lines.items():
        days = {each: _in_order(text, each) for each in readings}
        if not any(days.values()):
            fault = f"{text!r} is not a date"
            if looks_like_date(text):
                kept, earlier = next(iter(readings.items()))
                fault += f" in the order {kept}"
                fault += f" of {next(iter(earlier))!r} before it" if earlier else ""
            raise StatementError(fault, number=number)
        for each, day in days.items():
            if day is None:
                del readings[each]
            else:
                readings[each][text] = day
    for text, number in first_lines.items():
        choices = {days[text]: each for each, days in readings.items()}
        if len(choices) > 1:
            either = " or ".join(
                f"{day.isoformat()} (--date-format {each})" for day, each in choices.items()
            )
            raise StatementError(
                f"the dates do not show their order: {text!r} is {either}", number=number
            )
    return next(iter(readings.values()))


def _in_order(text: str, order: Order) -> date | None:
    match = _PARTS.fullmatch(text)
    if match is None:
        return None
    if match.group(5):
        return day_of(match.group(5), match.group(6), match.group(7))
    first, _, middle, last = match.groups()[:4]
    if not middle.isdigit():
        # a month in letters leaves nothing open, so every order reads it the same
        order = "ymd" if len(first) > DAY_DIGITS else "dmy"
        letters = unicodedata.normalize("NFD", middle.casefold())
        middle = str(_MONTHS.get("".join(filter(str.isalpha, letters))[:3], ""))
    if order == "ymd":
        return day_of(first, middle, last)
    return day_of(last, middle, first) if order == "dmy" else day_of(last, first, middle)


@functools.lru_cache(maxsize=DAYS_CACHED)
def day_of(year: str, month: str, day: str) -> date | None:
    """Return the day of these digits; None when there is no such day. A year has 2 or 4 digits."""
    if len(year) not in YEAR_DIGITS or len(month) > DAY_DIGITS or len(day) > DAY_DIGITS:
        return None
    short = len(year) == DAY_DIGITS
    try:
        found = date(int(year) + (CENTURY if short else 0), int(month), int(day))
    except ValueError:
        return None
    return found if YEAR_MIN <= found.year <= YEAR_MAX else None
