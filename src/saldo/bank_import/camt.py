"""CAMT.053 statements: ISO 20022's bank-to-customer statement, of any version.

Read with lxml as a stream: no version's schema is needed, and each element knows its line. Nothing
outside of the file is ever loaded, and a document type, which no bank sends, is refused.
"""

from __future__ import annotations

import io
import re
from datetime import date
from typing import TYPE_CHECKING

from lxml import etree

from saldo.bank_import.amounts import parse_amount
from saldo.bank_import.errors import StatementError
from saldo.bank_import.statement import (
    DOCUMENT_TYPE,
    BankStatement,
    LeftOut,
    Page,
    StatementBalance,
    StatementLine,
    choose_account,
    join_pages,
    tidy_description,
    tidy_reference,
)
from saldo.domain.money import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lxml.etree import _Element as Element

# A short number is an entry's place in its own statement: another file may use it again.
_ORDINAL = re.compile(r"[0-9]{1,6}", re.ASCII)
# The kind of message is within the first bytes.
HEAD_BYTES = 65_536
_MESSAGE = re.compile(rb"<(?:[A-Za-z0-9_.-]+:)?(BkToCstmr[A-Za-z]+)")
_OTHER_MESSAGES = {
    "BkToCstmrAcctRpt": "a camt.052 report of the day, which may still change",
    "BkToCstmrDbtCdtNtfctn": "a camt.054 notification, whose amounts are in a statement too",
}


def parse_camt(content: bytes, *, bank_account: str | None = None) -> BankStatement:
    """Return the statement in ``content``, or that of ``bank_account``; raise StatementError.

    Entries that are not booked are left out.
    """
    try:
        pages = _read(content)
    except etree.XMLSyntaxError as error:
        raise StatementError(f"the XML is broken: {error.msg}", number=error.lineno) from error
    if not pages:
        raise StatementError("the file holds no statement (Stmt)")
    return join_pages("camt.053", choose_account(pages, lambda page: page.account, bank_account))


def _read(content: bytes) -> list[Page]:
    head = content[:HEAD_BYTES]
    message = _MESSAGE.search(head)
    name = message.group(1).decode() if message else ""
    if message and name in _OTHER_MESSAGES:
        raise StatementError(
            f"the file is {_OTHER_MESSAGES[name]}: import the camt.053 statement",
            number=head[: message.start()].count(b"\n") + 1,
        )
    pages: list[Page] = []
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
            pages.append(Page(number=_number(parent)))
        _take(element, pages[-1])
    # The parser sees it in any encoding and behind any comment. Nothing was loaded by it.
    if stream.root is not None and stream.root.getroottree().docinfo.doctype:
        raise StatementError(DOCUMENT_TYPE, number=_number(stream.root))
    return pages


def _take(element: Element, page: Page) -> None:
    name = _name(element)
    if name == "Ntry":
        _take_entry(element, page)
        # frees the entry, so that memory does not grow with the file
        element.clear(keep_tail=False)
    elif name == "Bal":
        _take_balance(element, page)
    else:
        page.account = _at(element, "Id", "IBAN") or _at(element, "Id", "Othr", "Id") or ""
        page.currency = _at(element, "Ccy") or page.currency


def _take_balance(element: Element, page: Page) -> None:
    code = _at(element, "Tp", "CdOrPrtry", "Cd")
    if code not in {"OPBD", "PRCD", "CLBD"}:
        return
    children = _children(element)
    amount_minor = _amount(element, children, page)
    on = _day(children.get("Dt"))
    if on is None:
        raise StatementError(f"the balance {code} has no date", number=_number(element))
    balance = StatementBalance(amount_minor=amount_minor, on=on)
    if code == "CLBD":
        page.closing = balance
    elif code == "OPBD" or page.opening is None:
        page.opening = balance


def _take_entry(element: Element, page: Page) -> None:
    number = _number(element)
    children = _children(element)
    status = _text(children.get("Sts")) or _at(element, "Sts", "Cd")
    if status != "BOOK":
        page.left_out.append(LeftOut(number=number, reason=f"not booked: its status is {status}"))
        return
    amount_minor = _amount(element, children, page)
    booked = _day(children.get("BookgDt")) or _day(children.get("ValDt"))
    if booked is None:
        raise StatementError("the entry has neither a booking date nor a value date", number=number)
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


def _amount(element: Element, children: Mapping[str, Element], page: Page) -> int:
    """Return signed minor units. A reversal's own indicator is right: it is not negated."""
    amount = children.get("Amt")
    text = _text(amount)
    if amount is None or text is None:
        raise StatementError(f"the {_name(element)} has no amount", number=_number(element))
    currency = amount.get("Ccy") or ""
    page.currency = page.currency or currency
    if currency != page.currency or currency not in CURRENCY_DIGITS:
        raise StatementError(
            f"the amount is in {currency!r}, but the statement is in {page.currency!r}",
            number=_number(element),
        )
    amount_minor = parse_amount(text, currency, "point", number=_number(element))
    side = _text(children.get("CdtDbtInd"))
    if side not in {"CRDT", "DBIT"}:
        raise StatementError(f"CdtDbtInd is {side!r}, not CRDT or DBIT", number=_number(element))
    return amount_minor if side == "CRDT" else -amount_minor


def _reference(children: Mapping[str, Element], details: Sequence[Element]) -> str | None:
    """Return the bank's reference, else the entry's own, else the payment's."""
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
    """Return the other party and the purpose; for a batch, the bank's text or its size."""
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
    """Return the calendar day that the bank writes; its time and zone are left out."""
    if holder is None:
        return None
    text = _text(next(holder.iterchildren(), None))
    try:
        return None if text is None else date.fromisoformat(text[:10])
    except ValueError as error:
        raise StatementError(f"{text!r} is not a date", number=_number(holder)) from error


def _children(element: Element) -> dict[str, Element]:
    """Return the children by their local names, the last one where a name repeats."""
    cut = len(_space(element))
    return {str(child.tag)[cut:]: child for child in element}


def _at(element: Element, *names: str) -> str | None:
    """Return the text of the descendant at the path of local names."""
    space = _space(element)
    found: Element | None = element
    for name in names:
        found = None if found is None else next(found.iterchildren(space + name), None)
    return _text(found)


def _text(element: Element | None) -> str | None:
    return None if element is None or not element.text else element.text.strip() or None


def _space(element: Element) -> str:
    """Return the namespace with its braces: each version of the format has its own."""
    tag = str(element.tag)
    return tag[: tag.rfind("}") + 1]


def _name(element: Element) -> str:
    tag = str(element.tag)
    return tag[tag.rfind("}") + 1 :]


def _number(element: Element) -> int:
    return int(element.sourceline or 0)
