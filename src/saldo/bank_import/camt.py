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
    StatementBalance,
    StatementLine,
    join_pages,
    tidy_description,
    tidy_reference,
)
from saldo.domain.money import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lxml.etree import _Element as Element

# A short number is an entry's place in its own statement: another file may use it again.
_ORDINAL = re.compile(r"[0-9]{1,6}", re.ASCII)


def parse_camt(content: bytes, bank_account: str | None = None) -> BankStatement:
    """Return the statement in ``content``, or that of ``bank_account``; raise StatementError.

    Entries that are not booked are left out.
    """
    try:
        pages = _read(content)
    except etree.XMLSyntaxError as error:
        raise StatementError(f"the XML is broken: {error.msg}", number=error.lineno) from error
    accounts = [(page.bank_account or "", page) for page in pages]
    return join_pages("camt.053", accounts, lambda page: page, bank_account)


def _read(content: bytes) -> list[BankStatement]:
    pages: list[BankStatement] = []
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
        name, parent = etree.QName(element).localname, element.getparent()
        if parent is None or etree.QName(parent).localname != "Stmt":
            continue
        if parent is not statement:
            statement = parent
            pages.append(BankStatement(number=parent.sourceline))
        page = pages[-1]
        if name == "Ntry":
            _take_entry(element, page)
            # frees the entry, so that memory does not grow with the file
            element.clear(keep_tail=False)
        elif name == "Bal":
            _take_balance(element, page)
        else:
            page.bank_account = _text(element, "Id/IBAN", "Id/Othr/Id")
            page.currency = _text(element, "Ccy") or page.currency
    # The parser sees it in any encoding and behind any comment. Nothing was loaded by it.
    if stream.root is not None and stream.root.getroottree().docinfo.doctype:
        raise StatementError(DOCUMENT_TYPE, number=stream.root.sourceline)
    return pages


def _take_balance(element: Element, page: BankStatement) -> None:
    code = _text(element, "Tp/CdOrPrtry/Cd")
    if code not in {"OPBD", "PRCD", "CLBD"}:
        return
    amount_minor = _amount(element, page)
    on = _day(element, "Dt")
    if on is None:
        raise StatementError(f"the balance {code} has no date", number=element.sourceline)
    balance = StatementBalance(amount_minor=amount_minor, on=on)
    if code == "CLBD":
        page.closing = balance
    elif code == "OPBD" or page.opening is None:
        page.opening = balance


def _take_entry(element: Element, page: BankStatement) -> None:
    number = int(element.sourceline or 0)
    status = _text(element, "Sts", "Sts/Cd")
    if status != "BOOK":
        page.left_out.append(LeftOut(number, f"not booked: its status is {status}"))
        return
    amount_minor = _amount(element, page)
    booked = _day(element, "BookgDt") or _day(element, "ValDt")
    if booked is None:
        raise StatementError("the entry has neither a booking date nor a value date", number=number)
    details = element.findall("{*}NtryDtls/{*}TxDtls")
    reference = _reference(element, details)
    page.lines.append(
        StatementLine(
            number=number,
            occurred_on=booked,
            amount_minor=amount_minor,
            description=_description(element, details, amount_minor) or reference or "",
            reference=reference,
        )
    )


def _amount(element: Element, page: BankStatement) -> int:
    """Return signed minor units. A reversal's own indicator is right: it is not negated."""
    number = element.sourceline
    amount, text = element.find("{*}Amt"), _text(element, "Amt")
    if amount is None or text is None:
        name = etree.QName(element).localname
        raise StatementError(f"the {name} has no amount", number=number)
    currency = amount.get("Ccy") or ""
    page.currency = page.currency or currency
    if currency != page.currency or currency not in CURRENCY_DIGITS:
        raise StatementError(
            f"the amount is in {currency!r}, but the statement is in {page.currency!r}",
            number=number,
        )
    amount_minor = parse_amount(text, currency, "point", number=number)
    side = _text(element, "CdtDbtInd")
    if side not in {"CRDT", "DBIT"}:
        raise StatementError(f"CdtDbtInd is {side!r}, not CRDT or DBIT", number=number)
    return amount_minor if side == "CRDT" else -amount_minor


def _reference(element: Element, details: Sequence[Element]) -> str | None:
    """Return the bank's reference, else the entry's own, else the payment's."""
    own = tidy_reference(_text(element, "NtryRef")) or ""
    texts = [_text(element, "AcctSvcrRef"), None if _ORDINAL.fullmatch(own) else own]
    if len(details) == 1:
        names = ("AcctSvcrRef", "TxId", "EndToEndId", "InstrId")
        texts += [_text(details[0], f"Refs/{name}") for name in names]
    return next(filter(None, map(tidy_reference, texts)), None)


def _description(element: Element, details: Sequence[Element], amount_minor: int) -> str:
    """Return the other party and the purpose; for a batch, the bank's text or its size."""
    if len(details) == 1:
        # money that comes in is described by who paid it, money that goes out by who got it
        other = f"RltdPties/{'Dbtr' if amount_minor > 0 else 'Cdtr'}"
        party = tidy_description(_text(details[0], f"{other}/Nm", f"{other}/Pty/Nm") or "")
        said = [text for text in (party, _remittance(details[0])) if text]
        if said:
            return tidy_description(" - ".join(said))
    info = _text(element, "AddtlNtryInf")
    if info:
        return tidy_description(info)
    return f"{len(details)} payments" if len(details) > 1 else ""


def _remittance(details: Element) -> str:
    said = [each.text for each in details.iter("{*}Ustrd") if each.text]
    if not said:
        references = (each.iter("{*}Ref") for each in details.iter("{*}Strd"))
        said = [each.text for found in references for each in found if each.text]
    return " ".join(said)


def _day(element: Element, name: str) -> date | None:
    """Return the calendar day that the bank writes; its time and zone are left out."""
    holder = element.find(f"{{*}}{name}/{{*}}*")
    text = "" if holder is None else (holder.text or "").strip()
    try:
        return date.fromisoformat(text[:10]) if text else None
    except ValueError as error:
        number = None if holder is None else holder.sourceline
        raise StatementError(f"{text!r} is not a date", number=number) from error


def _text(element: Element, *paths: str) -> str | None:
    """Return the first text at the paths of local names: each version has its own namespace."""
    for path in paths:
        text = (element.findtext("{*}" + path.replace("/", "/{*}")) or "").strip()
        if text:
            return text
    return None
