"""A bank statement, whatever the file's format: plain values, money in minor units."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TypeVar

from saldo.bank_import.errors import StatementError
from saldo.domain.commands import DESCRIPTION_CHARACTERS_MAX, METADATA_CHARACTERS_MAX

PageType = TypeVar("PageType")

# What banks write where they have no reference to give.
_VOID_REFERENCES = frozenset({"NONREF", "NOTPROVIDED", "NOREF", "NA", "NULL", "NONE"})

DOCUMENT_TYPE = "the file declares a document type, which a bank's file does not need"


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
    """A balance that the file states: at the end of the day ``on``, an opening one at its start."""

    amount_minor: int
    on: date


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A line of the file that is not a transaction to record, and why."""

    number: int
    reason: str


@dataclass(slots=True, kw_only=True)
class BankStatement:
    """One account's lines, earliest day first, with what else the file says about it.

    A file may hold it in several pages, each with its own balances. ``number`` is the line of the
    file to name when a page's lines do not lead from its opening balance to its closing one.
    """

    format: str = ""
    bank_account: str | None = None
    currency: str = ""
    opening: StatementBalance | None = None
    closing: StatementBalance | None = None
    lines: list[StatementLine] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    number: int | None = None


def choose_account(
    pages: Iterable[tuple[str, PageType]], wanted: str | None
) -> tuple[str, list[PageType]]:
    """Return the account ``wanted``, or the only one, and its pages; raise StatementError."""
    accounts: dict[str, list[PageType]] = {}
    for account, page in pages:
        accounts.setdefault(account, []).append(page)
    known = ", ".join(accounts)
    if wanted is not None and wanted not in accounts:
        raise StatementError(f"the file has no statement of the account {wanted}: it has {known}")
    if wanted is None and len(accounts) > 1:
        raise StatementError(
            f"the file holds several accounts: choose one with --bank-account ({known})"
        )
    chosen = next(iter(accounts)) if wanted is None else wanted
    return chosen, accounts[chosen]


def join_pages(format_name: str, account: str, pages: Sequence[BankStatement]) -> BankStatement:
    """Return the statement that ``pages`` make; raise StatementError.

    Lines that do not lead from a page's opening balance to its closing one are refused: one of them
    is missing. Lines that move no money are left out, as no ledger records them.
    """
    first = pages[0]
    joined = BankStatement(
        format=format_name,
        bank_account=account or None,
        currency=first.currency,
        opening=first.opening,
        closing=pages[-1].closing,
    )
    for page in pages:
        if page.currency != first.currency:
            raise StatementError(
                f"the statement changes its currency to {page.currency}", number=page.number
            )
        gap_minor = gap_between(page.opening, page.closing, page.lines)
        if gap_minor:
            raise StatementError(
                "the lines do not add up from the opening to the closing balance "
                f"(off by {gap_minor} minor units): a line is missing or was changed",
                number=page.number,
            )
        joined.left_out += page.left_out
        joined.remarks += page.remarks
        for line in page.lines:
            if line.amount_minor:
                joined.lines.append(line)
            else:
                joined.left_out.append(LeftOut(number=line.number, reason="the amount is zero"))
    # The lines of one day keep the order of the file.
    joined.lines.sort(key=lambda line: line.occurred_on)
    joined.left_out.sort(key=lambda each: each.number)
    return joined


def gap_between(
    opening: StatementBalance | None,
    closing: StatementBalance | None,
    lines: Iterable[StatementLine],
) -> int:
    """Return what the closing balance has more than opening and lines; 0 where one is unknown."""
    if opening is None or closing is None:
        return 0
    moved_minor = sum(line.amount_minor for line in lines)
    return closing.amount_minor - opening.amount_minor - moved_minor


def tidy_description(text: str) -> str:
    """Return one line of printable text within the ledger's bound, equal for equal content.

    A description is part of what tells lines without a reference apart, so the same text must come
    out however the bank's file wraps, pads or composes it.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if not text.isprintable():
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) > DESCRIPTION_CHARACTERS_MAX:
        text = text[: DESCRIPTION_CHARACTERS_MAX - 1].rstrip() + "…"
    return text


def tidy_reference(text: str | None) -> str | None:
    """Return the bank's reference; None where it says that there is none (blank, zeros, NONREF)."""
    text = "".join(c for c in " ".join((text or "").split()) if c.isprintable())
    word = re.sub(r"[\W_]", "", text).upper()
    if not word.strip("0") or word in _VOID_REFERENCES:
        return None
    return text[:METADATA_CHARACTERS_MAX]
