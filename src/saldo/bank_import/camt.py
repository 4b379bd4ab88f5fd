"""CAMT.053 statements: ISO 20022's bank-to-customer statement, of any version.

Read with lxml as a stream: no version's schema is needed, and each element knows its line. Nothing
outside of the file is ever loaded, and a document type, which no bank sends, is refused.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from lxml import etree

from saldo.bank_import.amounts import BadAmount, parse_amount
from saldo.bank_import.lines import (
    DOCUMENT_TYPE,
    BankStatement,
    LeftOut,
    StatementBalance,
    StatementLine,
    StatementUnreadable,
    in_order_of_days,
    split_zeros,
    tidy_description,
    tidy_reference,
)
from saldo.domain.money import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lxml.etree import _Element as Element

# A short number is an entry's place in its own statement, and says nothing in the next one.
_ORDINAL = re.compile(r"[0-9]{1,6}", re.ASCII)
# Where the kind of message stands, if it stands anywhere.
HEAD_BYTES = 65_536
_MESSAGE = re.compile(rb"<(?:[A-Za-z0-9_.-]+:)?(BkToCstmr[A-Za-z]+)")
_OTHER_MESSAGES = {
    "BkToCstmrAcctRpt": "a camt.052 report of the day, which may still change",
    "BkToCstmrDbtCdtNtfctn": "a camt.054 notification, whose amounts stand in a statement too",
}


@dataclass(slots=True)
class _Page:
    """One Stmt element."""

    number: int
    account: str = ""
    currency: str = ""
    opening: StatementBalance | None = None
    closing: StatementBalance | None = None
    lines: list[StatementLine] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def parse_camt(content: bytes, *, bank_account: str | None = None) -> BankStatement:
    """The statement in ``content``, or that of ``bank_account`` where it holds several.

    Only booked entries count; the others are left out. Raises StatementUnreadable; so does a
    statement whose entries do not lead from its opening balance to its closing one.
    """
    try:
        pages = _read(content)
    except etree.XMLSyntaxError as error:
        reason = f"the XML is broken: {error.msg}"
        raise StatementUnreadable(reason, number=error.lineno) from error
    if not pages:
        reason = "the file holds no statement (Stmt)"
        raise StatementUnreadable(reason)
    account, pages = _choose(pages, bank_account)
    currency = pages[0].currency
    for page in pages:
        if page.currency != currency:
            reason = f"the statement changes its currency to {page.currency}"
            raise StatementUnreadable(reason, number=page.number)
        _check_sum(page)
    lines = [line for page in pages for line in page.lines]
    moving, zeros = split_zeros(lines)
    return BankStatement(
        format="camt.053",
        bank_account=account or None,
        currency=currency,
        opening=pages[0].opening,
        closing=pages[-1].closing,
        lines=in_order_of_days(moving),
        left_out=tuple(zeros + [each for page in pages for each in page.left_out]),
        remarks=(),
    )


def _read(content: bytes) -> list[_Page]:
    head = content[:HEAD_BYTES]
    message = _MESSAGE.search(head)
    name = message.group(1).decode() if message else ""
    if message and name in _OTHER_MESSAGES:
        reason = f"the file is {_OTHER_MESSAGES[name]}: import the camt.053 statement"
        raise StatementUnreadable(reason, number=head[: message.start()].count(b"\n") + 1)
    pages: list[_Page] = []
    stream = etree.iterparse(
        io.BytesIO(content),
        tag=("{*}Acct", "{*}Bal", "{*}Ntry"),
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    statement: Element | None = None
    for _, element in stream:
        parent = element.getparent()
        if parent is None or _name(parent) != "Stmt":
            continue
        if parent is not statement:
            statement = parent
            pages.append(_Page(number=_number(parent)))
        _take(element, pages[-1])
    # The parser knows it, in any encoding and behind any comment. Nothing was read from it.
    if stream.root is not None and stream.root.getroottree().docinfo.doctype:
        raise StatementUnreadable(DOCUMENT_TYPE, number=_number(stream.root))
    return pages


def _take(element: Element, page: _Page) -> None:
    name = _name(element)
    if name == "Ntry":
        _take_entry(element, page)
        # what was read is let go, so that memory does not grow with the file
        element.clear(keep_tail=False)
    elif name == "Bal":
        _take_balance(element, page)
    else:
        page.account = _at(element, "Id", "IBAN") or _at(element, "Id", "Othr", "Id") or ""
        page.currency = _at(element, "Ccy") or page.currency


def _take_balance(element: Element, page: _Page) -> None:
    code = _at(element, "Tp", "CdOrPrtry", "Cd")
    if code not in {"OPBD", "PRCD", "CLBD"}:
        return
    children = _children(element)
    amount_minor = _amount(element, children, page)
    on = _day(children.get("Dt"))
    if on is None:
        reason = f"the balance {code} has no date"
        raise StatementUnreadable(reason, number=_number(element))
    balance = StatementBalance(amount_minor=amount_minor, on=on)
    if code == "CLBD":
        page.closing = balance
    elif code == "OPBD" or page.opening is None:
        page.opening = balance


def _take_entry(element: Element, page: _Page) -> None:
    number = _number(element)
    children = _children(element)
    status = _text(children.get("Sts")) or _at(element, "Sts", "Cd")
    if status != "BOOK":
        page.left_out.append(LeftOut(number=number, reason=f"not booked: its status is {status}"))
        return
    amount_minor = _amount(element, children, page)
    booked = _day(children.get("BookgDt")) or _day(children.get("ValDt"))
    if booked is None:
        reason = "the entry has neither a booking date nor a value date"
        raise StatementUnreadable(reason, number=number)
    details = list(element.iter(f"{_space(element)}TxDtls")) if "NtryDtls" in children else []
    reference = _reference(children, details)
    info = _text(children.get("AddtlNtryInf"))
    page.lines.append(
        StatementLine(
            number=number,
            occurred_on=booked,
            amount_minor=amount_minor,
            description=_description(details, amount_minor, info) or reference or "",
            reference=reference,
        )
    )


def _amount(element: Element, children: Mapping[str, Element], page: _Page) -> int:
    """Signed minor units. A reversal's indicator already says which way its own money goes."""
    amount = children.get("Amt")
    text = _text(amount)
    if amount is None or text is None:
        reason = f"the {_name(element)} has no amount"
        raise StatementUnreadable(reason, number=_number(element))
    currency = amount.get("Ccy") or ""
    page.currency = page.currency or currency
    if currency != page.currency or currency not in CURRENCY_DIGITS:
        reason = f"the amount is in {currency!r}, but the statement is in {page.currency!r}"
        raise StatementUnreadable(reason, number=_number(element))
    try:
        amount_minor = parse_amount(text, currency, "point")
    except BadAmount as error:
        raise StatementUnreadable(str(error), number=_number(element)) from error
    side = _text(children.get("CdtDbtInd"))
    if side not in {"CRDT", "DBIT"}:
        reason = f"CdtDbtInd is {side!r}, not CRDT or DBIT"
        raise StatementUnreadable(reason, number=_number(element))
    return amount_minor if side == "CRDT" else -amount_minor


def _reference(children: Mapping[str, Element], details: Sequence[Element]) -> str | None:
    """The bank's reference; else the entry's own; else the payment's."""
    servicer = tidy_reference(_text(children.get("AcctSvcrRef")))
    if servicer is not None:
        return servicer
    own = tidy_reference(_text(children.get("NtryRef")))
    if own is not None and not _ORDINAL.fullmatch(own):
        return own
    if len(details) != 1:
        return None
    names = ("AcctSvcrRef", "TxId", "EndToEndId", "InstrId")
    return next(
        (found for name in names if (found := tidy_reference(_at(details[0], "Refs", name)))),
        None,
    )


def _description(details: Sequence[Element], amount_minor: int, info: str | None) -> str:
    """Who and what for; of a batch, the bank's own words or how many payments it holds."""
    if len(details) == 1:
        said = [
            text for text in (_party(details[0], amount_minor), _remittance(details[0])) if text
        ]
        if said:
            return tidy_description(" - ".join(said))
    if info:
        return tidy_description(info)
    return f"{len(details)} payments" if len(details) > 1 else ""


def _party(details: Element, amount_minor: int) -> str | None:
    # money that comes in is described by who paid it, money that goes out by who got it
    other = "Dbtr" if amount_minor > 0 else "Cdtr"
    name = _at(details, "RltdPties", other, "Nm") or _at(details, "RltdPties", other, "Pty", "Nm")
    return tidy_description(name or "")


def _remittance(details: Element) -> str:
    space = _space(details)
    said = [each.text for each in details.iter(f"{space}Ustrd") if each.text]
    if not said:
        references = (each.iter(f"{space}Ref") for each in details.iter(f"{space}Strd"))
        said = [each.text for found in references for each in found if each.text]
    return " ".join(said)


def _day(holder: Element | None) -> date | None:
    """The calendar day as the bank writes it, whatever time and zone stand behind."""
    if holder is None:
        return None
    text = _text(next(holder.iterchildren(), None))
    try:
        return None if text is None else date.fromisoformat(text[:10])
    except ValueError as error:
        reason = f"{text!r} is not a date"
        raise StatementUnreadable(reason, number=_number(holder)) from error


def _choose(pages: Sequence[_Page], wanted: str | None) -> tuple[str, list[_Page]]:
    accounts: dict[str, list[_Page]] = {}
    for page in pages:
        accounts.setdefault(page.account, []).append(page)
    known = ", ".join(accounts)
    if wanted is not None and wanted not in accounts:
        reason = f"the file has no statement of the account {wanted}: it has {known}"
        raise StatementUnreadable(reason)
    if wanted is None and len(accounts) > 1:
        reason = f"the file holds several accounts: choose one with --bank-account ({known})"
        raise StatementUnreadable(reason)
    account = wanted if wanted is not None else next(iter(accounts))
    return account, accounts[account]


def _check_sum(page: _Page) -> None:
    if page.opening is None or page.closing is None:
        return
    gap_minor = page.closing.amount_minor - page.opening.amount_minor
    gap_minor -= sum(line.amount_minor for line in page.lines)
    if gap_minor:
        reason = (
            "the entries do not add up from the opening to the closing balance "
            f"(off by {gap_minor} minor units): an entry is missing or was changed"
        )
        raise StatementUnreadable(reason, number=page.number)


def _children(element: Element) -> dict[str, Element]:
    """The children by their local names; the last one where a name repeats."""
    cut = len(_space(element))
    return {str(child.tag)[cut:]: child for child in element}


def _at(element: Element, *names: str) -> str | None:
    """The text of the descendant that the local names lead to, one generation each."""
    space = _space(element)
    found: Element | None = element
    for name in names:
        found = None if found is None else next(found.iterchildren(space + name), None)
    return _text(found)


def _text(element: Element | None) -> str | None:
    return None if element is None or not element.text else element.text.strip() or None


def _space(element: Element) -> str:
    """The namespace before the element's local name, braces and all: each version has its own."""
    tag = str(element.tag)
    return tag[: tag.rfind("}") + 1]


def _name(element: Element) -> str:
    tag = str(element.tag)
    return tag[tag.rfind("}") + 1 :]


def _number(element: Element) -> int:
    return int(element.sourceline or 0)
