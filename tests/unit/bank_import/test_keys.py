"""Idempotency keys of bank lines: each line is recorded once, in whatever files it arrives."""

from __future__ import annotations

from collections import Counter
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saldo.bank_import.sender import idempotency_keys
from tests.support.statement_files import (
    ALIKE_LINES,
    UNHURRIED,
    WRITERS,
    BankLine,
    Books,
    as_csv,
    as_ofx,
    held_by,
    numbered,
    read,
    windows_of_days,
    windows_of_lines,
)

COFFEE = BankLine(date(2026, 1, 10), -450, "CAFE DA ESQUINA")
FORMATS = pytest.mark.parametrize("format_name", sorted(WRITERS))


@FORMATS
@UNHURRIED
@given(data=st.data(), lines=ALIKE_LINES)
def test_overlapping_whole_days_are_recorded_once(
    format_name: str, data: st.DataObject, lines: list[BankLine]
) -> None:
    """Equal lines of one day and all, without any reference of the bank's."""
    windows = data.draw(windows_of_days(lines).flatmap(st.permutations))
    books = Books()

    books.import_files(WRITERS[format_name](window) for window in windows)

    assert held_by(lines) == books.held()


@FORMATS
@UNHURRIED
@given(data=st.data(), lines=ALIKE_LINES.map(numbered))
def test_overlapping_references_are_recorded_once(
    format_name: str, data: st.DataObject, lines: list[BankLine]
) -> None:
    windows = data.draw(windows_of_lines(lines).flatmap(st.permutations))
    books = Books()

    books.import_files(WRITERS[format_name](window) for window in windows)

    assert held_by(lines) == books.held()


@UNHURRIED
@given(data=st.data(), lines=ALIKE_LINES)
def test_identical_lines_are_recorded_max_count_times(
    data: st.DataObject, lines: list[BankLine]
) -> None:
    """Windows that cut a day between lines without a reference: never more than there are."""
    windows = data.draw(windows_of_lines(lines))
    books = Books()

    books.import_files(as_ofx(window) for window in windows)

    fullest: Counter[tuple[str, str, str | None, str | None]] = Counter()
    for window in windows:
        fullest |= held_by(window)
    assert fullest == books.held()


@FORMATS
@UNHURRIED
@given(lines=ALIKE_LINES, data=st.data())
def test_the_order_of_a_file_does_not_matter(
    format_name: str, lines: list[BankLine], data: st.DataObject
) -> None:
    """Some exports put the latest line first, others the earliest."""
    shuffled = data.draw(st.permutations(lines))
    books = Books()

    books.import_files([WRITERS[format_name](lines), WRITERS[format_name](shuffled)])

    assert held_by(lines) == books.held()


@UNHURRIED
@given(lines=ALIKE_LINES)
def test_two_formats_without_references_give_equal_keys(lines: list[BankLine]) -> None:
    """The format is no part of a key: a bank that changes it does not double the books."""
    books = Books()

    books.import_files([as_ofx(lines), as_csv(lines)])

    assert held_by(lines) == books.held()


def test_both_lines_are_kept_when_the_bank_repeats_a_reference() -> None:
    """As a batch, a document number or a fee is by many banks."""
    lines = [
        BankLine(date(2026, 1, 10), -450, "CAFE", "0001"),
        BankLine(date(2026, 1, 10), -450, "CAFE", "0001"),
        BankLine(date(2026, 1, 10), -900, "CAFE", "0001"),
        BankLine(date(2026, 1, 11), -450, "CAFE", "0001"),
    ]
    books = Books()

    books.import_files([as_ofx(lines), as_ofx(lines[:2])])

    assert held_by(lines) == books.held()


def test_keys_do_not_depend_on_the_balance() -> None:
    """Printed on the last line of a day only, it moves when the day goes on."""
    head = "data;historico;valor;saldo\n"
    at_noon = f"{head}2026-01-10;CAFE;-4,50;95,50\n".encode()
    at_night = f"{head}2026-01-10;CAFE;-4,50;\n2026-01-10;PAO;-5,50;90,00\n".encode()
    books = Books()

    books.import_files([at_noon, at_night])

    assert sum(books.held().values()) == 2


def test_keys_stay_the_same_between_versions() -> None:
    """Another key for the same line would record it again: change KEY_VERSION knowingly."""
    plain, referenced = read(as_csv([COFFEE])), read(as_csv(numbered([COFFEE])))

    assert [*idempotency_keys(plain.lines), *idempotency_keys(referenced.lines)] == [
        "import:e008ab56d6451c13d32ed19b7fdfaa4dcd4800d0",
        "import:6497e25832162213df1beb5fc2152f464aef73f4",
    ]
