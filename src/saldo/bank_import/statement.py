"""A bank statement, whatever the file's format: plain values, money in minor units."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple, TypeVar

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
    name for the transaction, ``balance_minor`` the balance after it, where the file states them.
    """

    number: int
    occurred_on: date
    amount_minor: int
    description: str
    reference: str | None
    balance_minor: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementBalance:
    """A balance that the file states: at the end of the day ``on``, an opening one at its start."""

    amount_minor: int
    on: date


class LeftOut(NamedTuple):
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

    @property
    def gap_minor(self) -> int:
        """Return what the closing balance has more than opening and lines; 0 without both."""
        if self.opening is None or self.closing is None:
            return 0
        moved_minor = sum(line.amount_minor for line in self.lines)
        return self.closing.amount_minor - self.opening.amount_minor - moved_minor


def join_pages(
    format_name: str,
    pages: Iterable[tuple[str, PageType]],
    read: Callable[[PageType], BankStatement],
    wanted: str | None = None,
) -> BankStatement:
    """Return the statement of the account ``wanted``, or of the only one; raise StatementError.

    ``pages`` come with their account. Lines that do not lead from a page's opening balance to its
    closing one are refused: one of them is missing. Lines that move no money are left out.
    """
    accounts: dict[str, list[PageType]] = {}
    for account, raw in pages:
        accounts.setdefault(account, []).append(raw)
    chosen = _choose(list(accounts), wanted, format_name)
    joined = BankStatement(format=format_name, bank_account=chosen or None)
    for page in [read(raw) for raw in accounts[chosen]]:
        if joined.currency not in {"", page.currency}:
            raise StatementError(
                f"the statement changes its currency to {page.currency}", number=page.number
            )
        if page.gap_minor:
            raise StatementError(
                "the lines do not add up from the opening to the closing balance "
                f"(off by {page.gap_minor} minor units): a line is missing or was changed",
                number=page.number,
            )
        if not joined.currency:
            joined.currency, joined.opening = page.currency, page.opening
        joined.closing = page.closing
        joined.left_out += page.left_out
        joined.remarks += page.remarks
        for line in page.lines:
            if line.amount_minor:
                joined.lines.append(line)
            else:
                joined.left_out.append(LeftOut(line.number, "the amount is zero"))
    # The lines of one day keep the order of the file.
    joined.lines.sort(key=lambda line: line.occurred_on)
    joined.left_out.sort(key=lambda each: each.number)
    return joined


def _choose(accounts: Sequence[str], wanted: str | None, format_name: str) -> str:
    if not accounts:
        raise StatementError(
            f"the file holds no statement of a bank account or credit card in {format_name}"
        )
    known = ", ".join(accounts)
    if wanted is None and len(accounts) > 1:
        raise StatementError(
            f"the file holds several accounts: choose one with --bank-account ({known})"
        )
    if wanted not in {None, *accounts}:
        raise StatementError(f"the file has no statement of the account {wanted}: it has {known}")
    return accounts[0] if wanted is None else wanted


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
