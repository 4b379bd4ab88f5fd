"""OFX statements: version 1 (SGML) and 2 (XML), of bank accounts and credit cards.

Version 1 has no end tags for the elements that hold text, so no XML parser reads it. ofxtools does,
but needs 3 s for 100,000 transactions and forgets on which line they stood.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from datetime import date

from saldo.bank_import.amounts import Decimal, parse_amount
from saldo.bank_import.dates import day_of
from saldo.bank_import.encoding import decode_text
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

_BODY = re.compile(r"<OFX>", re.IGNORECASE)
_DOCTYPE = re.compile(r"<!(?:DOCTYPE|ENTITY)\b")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
# A whole transaction, one tag of what is around them, or half a tag; and the text behind it.
_TOKEN = re.compile(
    r"(?:<STMTTRN>(.*?)</STMTTRN>|<(/?)([A-Z][A-Z0-9._]*)>|</)([^<]*)", re.IGNORECASE | re.DOTALL
)
_ELEMENT = re.compile(r"<([A-Z][A-Z0-9.]*)>([^<]*)", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#([0-9]{1,7}));")
_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})", re.ASCII)

_STATEMENTS = frozenset({"STMTRS", "CCSTMTRS"})
# What is put before the name of a text within these elements.
_PLACES = dict.fromkeys(("BANKACCTFROM", "CCACCTFROM"), "account ")
_PLACES |= {"BANKTRANLIST": "", "LEDGERBAL": "balance "}
_REFUSED = {
    "STMTTRN": "<STMTTRN> is never closed by </STMTTRN>",
    "INVSTMTRS": "an investment account is not imported, only bank accounts and cards are",
}
# The texts of a statement, and its transactions with the line that each starts on.
_Source = tuple[dict[str, str], list[tuple[int, str]]]


def parse_ofx(content: bytes, bank_account: str | None = None) -> BankStatement:
    """Return the statement in ``content``, or that of ``bank_account``; raise StatementError.

    OFX states no opening balance: it is worked out from the closing one when that is of a day that
    the lines reach.
    """
    text = decode_text(content)
    start, doctype = _BODY.search(text), _DOCTYPE.search(text)
    if start is None:
        raise StatementError("there is no <OFX> in the file")
    if not text.rstrip(" \n\t\x1a").upper().endswith("</OFX>"):
        raise StatementError(
            "the file ends before </OFX>: it is not complete, so download it again",
            number=text.count("\n") + 1,
        )
    if doctype is not None:
        raise StatementError(DOCUMENT_TYPE, number=text.count("\n", 0, doctype.start()) + 1)
    text = _CDATA.sub(lambda cdata: cdata[1].replace("<", "&lt;"), text)
    sources = _sources(text, start.start())
    accounts = [_account(texts) for texts, _ in sources]
    statement = join_pages("ofx", zip(accounts, sources, strict=True), _page, bank_account)
    if accounts.count(statement.bank_account or "") > 1:
        statement.opening = None
    return statement


def _account(texts: dict[str, str]) -> str:
    names = ("account BANKID", "account BRANCHID", "account ACCTID")
    return "/".join(texts[name] for name in names if name in texts)


def _sources(text: str, start: int) -> list[_Source]:
    sources: list[_Source] = []
    for number, path, name, transaction, behind in _tokens(text, start):
        in_statement = not _STATEMENTS.isdisjoint(path)
        if transaction is not None and not in_statement:
            raise StatementError("the transaction is outside of a statement", number=number)
        if name in _REFUSED or "<STMTTRN>" in (transaction or "").upper():
            raise StatementError(_REFUSED[name or "STMTTRN"], number=number)
        if transaction is not None:
            sources[-1][1].append((number, transaction))
        elif name in _STATEMENTS:
            sources.append(({}, []))
        elif in_statement and behind:
            place = next((each for each in reversed(path) if each in _PLACES), "")
            sources[-1][0].setdefault(_PLACES.get(place, "") + name, behind)
    return sources


def _tokens(text: str, start: int) -> Iterator[tuple[int, list[str], str, str | None, str]]:
    """Yield each start tag and transaction: line, open elements, tag, transaction, text behind."""
    path: list[str] = []
    number, counted, leaf = 1, 0, ""
    for token in _TOKEN.finditer(text, start):
        number += text.count("\n", counted, token.start())
        counted = token.start()
        transaction, end, tag, behind = token.groups()
        name, behind = (tag or "").upper(), behind.strip()
        if end and name != leaf and name not in path:
            raise StatementError(f"</{name}> closes nothing", number=number)
        if (behind and (end or not name)) or (not name and transaction is None):
            raise StatementError("the OFX tags do not fit together here", number=number)
        if not end:
            yield number, path, name, transaction, behind
            if name and not behind:
                path.append(name)
        elif name != leaf:
            # an empty element may lack its end tag, so those in between are closed too
            while path.pop() != name:
                pass
        # an element that holds text needs no end tag in version 1
        leaf = name if behind else ""


def _page(source: _Source) -> BankStatement:
    texts, transactions = source
    currency = texts.get("CURDEF", "")
    if currency not in CURRENCY_DIGITS:
        raise StatementError(f"CURDEF is {currency!r}, which is not an ISO 4217 currency")
    page = BankStatement(currency=currency)
    strange: list[int] = []
    for number, transaction in transactions:
        own = {name.upper(): text.strip() for name, text in _ELEMENT.findall(transaction)}
        if "CORRECTFITID" in own:
            page.left_out.append(
                LeftOut(number, "the bank corrects an earlier line: do so by hand")
            )
            continue
        line = _line(own, currency, number)
        page.lines.append(line)
        if line.amount_minor > 0 and own.get("TRNTYPE", "").startswith("DEBIT"):
            strange.append(number)
    _set_balances(page, texts)
    if strange:
        page.remarks.append(
            f"{len(strange)} lines are called DEBIT but have a positive amount, the first on line "
            f"{strange[0]}: they count as income, by their sign"
        )
    missing = sum(line.reference is None for line in page.lines if line.amount_minor)
    if missing:
        page.remarks.append(
            f"{missing} lines have no FITID: they are known by day, amount and description"
        )
    return page


def _set_balances(page: BankStatement, texts: dict[str, str]) -> None:
    """Set the closing balance, and the opening one if the closing one counts these lines only."""
    moved = [line for line in page.lines if line.amount_minor]
    days = [line.occurred_on for line in moved]
    ends = [_day(texts["DTEND"], "DTEND")] if "DTEND" in texts else []
    amount, on = texts.get("balance BALAMT"), texts.get("balance DTASOF")
    if amount is None or on is None:
        return
    closing = StatementBalance(amount_minor=_amount(amount, page.currency), on=_day(on, "DTASOF"))
    page.closing = closing
    until = max([*days, *ends], default=closing.on)
    if closing.on > until:
        page.remarks.append(
            f"the bank's balance is of {closing.on}, but the lines end on {until}: "
            "it may count transactions that are not in this file"
        )
    elif moved and max(days) <= closing.on:
        opening_minor = closing.amount_minor - sum(line.amount_minor for line in moved)
        page.opening = StatementBalance(amount_minor=opening_minor, on=min(days))


def _line(texts: dict[str, str], currency: str, number: int) -> StatementLine:
    for name in ("TRNAMT", "DTPOSTED"):
        if name not in texts:
            raise StatementError(f"the transaction has no {name}", number=number)
    if "CURRENCY" in texts and texts.get("CURSYM", currency) != currency:
        raise StatementError(
            f"the amount is in {texts['CURSYM']}, but the statement is in {currency}",
            number=number,
        )
    return StatementLine(
        number=number,
        occurred_on=_day(texts["DTPOSTED"], "DTPOSTED", number),
        amount_minor=_amount(texts["TRNAMT"], currency, number),
        description=_description(texts),
        reference=tidy_reference(_unescape(texts.get("FITID", ""))),
    )


def _description(texts: dict[str, str]) -> str:
    name = tidy_description(_unescape(texts.get("NAME", "")))
    memo = tidy_description(_unescape(texts.get("MEMO", "")))
    if not name or memo.startswith(name):
        return memo or texts.get("TRNTYPE", "")
    if not memo or name.startswith(memo):
        return name
    return tidy_description(f"{name} - {memo}")


def _unescape(text: str) -> str:
    return _ENTITY.sub(_character, text)


def _character(entity: re.Match[str]) -> str:
    if entity[1] is None:
        return html.unescape(entity[0])
    return chr(int(entity[1])) if int(entity[1]) <= sys.maxunicode else ""


def _amount(text: str, currency: str, number: int | None = None) -> int:
    # OFX knows no thousands separator, so a single comma or point is the decimal one
    decimal: Decimal = "comma" if text.rfind(",") > text.rfind(".") else "point"
    return parse_amount(text, currency, decimal, number=number)


def _day(text: str, name: str, number: int | None = None) -> date:
    """Return the day of the bank's own calendar: the time zone behind it is left out."""
    match = _DATE.match(text)
    day = day_of(*match.groups()) if match else None
    if day is None:
        raise StatementError(f"{name} is {text[:40]!r}, which is not a date", number=number)
    return day
