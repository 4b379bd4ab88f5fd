"""What a bank's file is read into, whatever its format: plain values, money in minor units."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.domain.commands import DESCRIPTION_CHARACTERS_MAX, METADATA_CHARACTERS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

# What banks write where they have no reference to give.
_VOID_REFERENCES = frozenset({"NONREF", "NOTPROVIDED", "NOREF", "NA", "NULL", "NONE"})


DOCUMENT_TYPE = "the file declares a document type, which a bank's file has no need of"


class StatementUnreadable(Exception):  # noqa: N818 - it is what the file is
    """The file is not a statement that can be imported; the reason says what to do about it."""

    def __init__(self, reason: str, *, number: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.number = number

    def __str__(self) -> str:
        return self.reason if self.number is None else f"line {self.number}: {self.reason}"


class CurrencyUnknown(StatementUnreadable):
    """Neither the file nor anybody else says which currency it is in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One booked line. ``amount_minor`` is signed: what it adds to the balance.

    ``number`` is the line of the file that it starts on, from 1. ``reference`` is the bank's own
    name for the transaction, when it gives one.
    """

    number: int
    occurred_on: date
    amount_minor: int
    description: str
    reference: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementBalance:
    """A balance that the file states: ``on`` is the day at whose end it held.

    An opening balance holds from the start of its day.
    """

    amount_minor: int
    on: date


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A line of the file that is not a transaction to record, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BankStatement:
    """One account's lines, earliest day first, with what else the file says about it."""

    format: str
    bank_account: str | None
    currency: str
    opening: StatementBalance | None
    closing: StatementBalance | None
    lines: tuple[StatementLine, ...]
    left_out: tuple[LeftOut, ...]
    remarks: tuple[str, ...]


def in_order_of_days(lines: Iterable[StatementLine]) -> tuple[StatementLine, ...]:
    """The lines by day; those of one day keep the order that they came in."""
    return tuple(sorted(lines, key=lambda line: line.occurred_on))


def split_zeros(
    lines: Iterable[StatementLine],
) -> tuple[list[StatementLine], list[LeftOut]]:
    """The lines that move money, and those that do not, which no ledger records."""
    moving: list[StatementLine] = []
    left_out: list[LeftOut] = []
    for line in lines:
        if line.amount_minor:
            moving.append(line)
        else:
            left_out.append(LeftOut(number=line.number, reason="the amount is zero"))
    return moving, left_out


def tidy_description(text: str) -> str:
    """One line of printable text within the ledger's bound, equal for equal content.

    A description is part of what tells lines without a reference apart, so the same text must come
    out however the bank's file wraps, pads or composes it.
    """
    text = " ".join(text.split())
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if not text.isprintable():
        printable = "".join(c if c.isprintable() else " " for c in text)
        text = " ".join(printable.split())
    if len(text) > DESCRIPTION_CHARACTERS_MAX:
        text = text[: DESCRIPTION_CHARACTERS_MAX - 1].rstrip() + "…"
    return text


def tidy_reference(text: str | None) -> str | None:
    """The bank's reference; None where it says that there is none (blank, zeros, NONREF)."""
    if not text:
        return None
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(c for c in text if c.isprintable())
    word = (text if text.isalnum() else re.sub(r"[\W_]", "", text)).upper()
    if not word.strip("0") or word in _VOID_REFERENCES:
        return None
    return text[:METADATA_CHARACTERS_MAX]
