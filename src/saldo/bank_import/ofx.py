"""OFX statements: version 1 (SGML) and 2 (XML), of bank accounts and credit cards.

The structure around the transactions is read by ofxtools. The transactions themselves are cut out
before and read here: its tree needs 3 s for 100,000 of them and forgets on which line they stood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ofxtools.Parser import TreeBuilder

from saldo.bank_import.amounts import BadAmount, Decimal, parse_amount
from saldo.bank_import.dates import day_of
from saldo.bank_import.encoding import decode_text
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
    from collections.abc import Iterator, Sequence
    from datetime import date
    from xml.etree.ElementTree import Element

_BODY = re.compile(r"<OFX>", re.IGNORECASE)
_DOCTYPE = re.compile(r"<!(?:DOCTYPE|ENTITY)\b")
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9._]*)>")
_FIELD = re.compile(r"<([A-Z][A-Z0-9.]*)>([^<]*)")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_ENTITY = re.compile(r"&(amp|lt|gt|quot|apos|nbsp|#[0-9]{1,7});")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " "}
_POSITION = re.compile(r"position=\[([0-9]+):")
_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})", re.ASCII)

_START, _END = "<STMTTRN>", "</STMTTRN>"
_CORRECTION = "<CORRECTFITID>"
# The element of a statement, and within it the one that says whose it is.
_STATEMENTS = {"STMTRS": "BANKACCTFROM", "CCSTMTRS": "CCACCTFROM"}


@dataclass(frozen=True, slots=True)
class _Block:
    """The text between a transaction's tags, the line that it starts on, and its statement."""

    text: str
    number: int
    statement: int


def parse_ofx(content: bytes, *, bank_account: str | None = None) -> BankStatement:
    """The statement in ``content``, or the one of ``bank_account`` where it holds several.

    Raises StatementUnreadable. OFX states no opening balance: it is worked out from the closing one
    when that is of a day that the lines reach.
    """
    text = decode_text(content)
    found = _BODY.search(text)
    if found is None:
        reason = "there is no <OFX> in the file"
        raise StatementUnreadable(reason)
    if not text.rstrip(" \n\t\x1a").upper().endswith("</OFX>"):
        reason = "the file ends before </OFX>: it is not complete, so download it again"
        raise StatementUnreadable(reason, number=text.count("\n") + 1)
    doctype = _DOCTYPE.search(text)
    if doctype is not None:
        raise StatementUnreadable(DOCUMENT_TYPE, number=text.count("\n", 0, doctype.start()) + 1)
    if "<INVSTMTRS>" in text:
        reason = "the file is of an investment account: only bank accounts and cards are imported"
        raise StatementUnreadable(reason)
    if "<stmttrn>" in text:
        text = _TAG.sub(lambda tag: tag.group().upper(), text)
    skeleton, blocks = _cut_out(text, found.start())
    root = _read_skeleton(skeleton)
    statements = [element for element in root.iter() if element.tag in _STATEMENTS]
    if not statements:
        reason = "the file holds no statement of a bank account or credit card"
        raise StatementUnreadable(reason)
    chosen, account = _choose(statements, bank_account)
    currencies = {_text(statements[index], "CURDEF") or "" for index in chosen}
    currency = currencies.pop()
    if currencies or currency not in CURRENCY_DIGITS:
        reason = f"CURDEF is {currency!r}, which is not an ISO 4217 currency"
        raise StatementUnreadable(reason)
    days: dict[str, date] = {}
    own = [block for block in blocks if block.statement in chosen]
    corrections = [block for block in own if "<CORRECTFITID>" in block.text]
    lines = [_line(block, currency, days) for block in own if block not in corrections]
    moving, left_out = split_zeros(lines)
    left_out += [
        LeftOut(
            number=block.number,
            reason="the bank corrects an earlier line: do so by hand",
        )
        for block in corrections
    ]
    last = statements[chosen[-1]]
    closing = _closing(last, currency)
    return BankStatement(
        format="ofx",
        bank_account=account,
        currency=currency,
        opening=_opening(closing, moving, last) if len(chosen) == 1 else None,
        closing=closing,
        lines=in_order_of_days(moving),
        left_out=tuple(left_out),
        remarks=tuple(_remarks(moving, own, closing, last)),
    )


def _cut_out(text: str, start: int) -> tuple[str, list[_Block]]:
    """The text from ``start`` without its transactions, line ends kept, and the transactions."""
    blocks: list[_Block] = []
    parts = text.split(_START)
    number = parts[0].count("\n") + 1
    head = parts[0]
    statement = _statements_opened(head) - 1
    # what stood before the body keeps its line ends, so that positions still tell the line
    skeleton = ["\n" * head.count("\n", 0, start), head[start:]]
    for part in parts[1:]:
        body, end, rest = part.partition(_END)
        if not end:
            reason = f"{_START} is never closed by {_END}"
            raise StatementUnreadable(reason, number=number)
        blocks.append(_Block(body, number, statement))
        ends = body.count("\n")
        skeleton.append("\n" * ends)
        if rest:
            skeleton.append(rest)
            if "STMTRS>" in rest:
                statement += _statements_opened(rest)
            ends += rest.count("\n")
        number += ends
    return "".join(skeleton), blocks


def _statements_opened(text: str) -> int:
    return text.count("<STMTRS>") + text.count("<CCSTMTRS>")


def _read_skeleton(skeleton: str) -> Element:
    _check_nesting(skeleton)
    builder = TreeBuilder()
    try:
        builder.feed(skeleton)
        root: Element = builder.close()
    except (SyntaxError, IndexError, AssertionError) as error:
        # ofxtools' own error is a SyntaxError, as is that of the standard library's tree, whose
        # others get through. Its message quotes the whole document before it says where.
        position = _POSITION.search(str(error), max(0, len(str(error)) - 80))
        number = skeleton.count("\n", 0, int(position.group(1))) + 1 if position else None
        reason = "the OFX tags do not fit together here"
        raise StatementUnreadable(reason, number=number) from error
    return root


def _check_nesting(skeleton: str) -> None:
    """Every end tag must close an open one: the library's tree takes any for any."""
    open_tags: list[tuple[str, int]] = []
    for tag in _TAG.finditer(skeleton):
        closes, name = tag.groups()
        if not closes:
            open_tags.append((name, tag.start()))
            continue
        # elements that hold text need no end tag in version 1, so those in between are closed too
        while open_tags and open_tags[-1][0] != name:
            open_tags.pop()
        if not open_tags:
            reason = f"</{name}> closes nothing"
            raise StatementUnreadable(reason, number=skeleton.count("\n", 0, tag.start()) + 1)
        open_tags.pop()


def _choose(statements: Sequence[Element], wanted: str | None) -> tuple[list[int], str | None]:
    """The places of the statements of one account, and the account."""
    accounts: dict[str | None, list[int]] = {}
    for index, element in enumerate(statements):
        accounts.setdefault(_account(element), []).append(index)
    if wanted is not None:
        if wanted not in accounts:
            known = ", ".join(str(each) for each in accounts)
            reason = f"the file has no statement of the account {wanted}: it has {known}"
            raise StatementUnreadable(reason)
        return accounts[wanted], wanted
    if len(accounts) > 1:
        known = ", ".join(str(each) for each in accounts)
        reason = f"the file holds several accounts: choose one with --bank-account ({known})"
        raise StatementUnreadable(reason)
    account, chosen = next(iter(accounts.items()))
    return chosen, account


def _account(statement: Element) -> str | None:
    source = next(statement.iter(_STATEMENTS[statement.tag]), None)
    if source is None:
        return None
    parts = [_text(source, name) for name in ("BANKID", "BRANCHID", "ACCTID")]
    return "/".join(part for part in parts if part) or None


def _line(block: _Block, currency: str, days: dict[str, date]) -> StatementLine:
    text = block.text
    if "<![CDATA[" in text:
        text = _CDATA.sub(lambda match: match.group(1).replace("<", "&lt;"), text)
    fields = {name: value.strip() for name, value in _FIELD.findall(text)}
    if _START in text or "TRNAMT" not in fields or "DTPOSTED" not in fields:
        missing = "TRNAMT" if "TRNAMT" not in fields else "DTPOSTED"
        reason = f"the transaction has no {missing}"
        raise StatementUnreadable(reason, number=block.number)
    if "<CURRENCY>" in text and fields.get("CURSYM", currency) != currency:
        reason = f"the amount is in {fields['CURSYM']}, but the statement is in {currency}"
        raise StatementUnreadable(reason, number=block.number)
    posted = fields["DTPOSTED"][:8]
    day = days.get(posted)
    if day is None:
        day = days[posted] = _date(fields["DTPOSTED"], "DTPOSTED", block.number)
    return StatementLine(
        number=block.number,
        occurred_on=day,
        amount_minor=_amount(fields["TRNAMT"], currency, block.number),
        description=_description(fields),
        reference=tidy_reference(_unescape(fields.get("FITID", ""))),
    )


def _description(fields: dict[str, str]) -> str:
    name = tidy_description(_unescape(fields.get("NAME", "")))
    memo = tidy_description(_unescape(fields.get("MEMO", "")))
    if not name or memo.startswith(name):
        return memo or fields.get("TRNTYPE", "")
    if not memo or name.startswith(memo):
        return name
    return tidy_description(f"{name} - {memo}")


def _unescape(text: str) -> str:
    if "&" not in text:
        return text
    return _ENTITY.sub(_character, text)


def _character(match: re.Match[str]) -> str:
    name = match.group(1)
    if not name.startswith("#"):
        return _ENTITIES[name]
    code = int(name[1:])
    return chr(code) if code <= 0x10FFFF else ""  # noqa: PLR2004 - the last code point


def _amount(text: str, currency: str, number: int | None) -> int:
    # OFX knows no thousands separator, so a single comma or point is the decimal one
    decimal: Decimal = "comma" if text.rfind(",") > text.rfind(".") else "point"
    try:
        return parse_amount(text, currency, decimal)
    except BadAmount as error:
        raise StatementUnreadable(str(error), number=number) from error


def _date(text: str, name: str, number: int | None) -> date:
    """The day as the bank writes it: its own calendar, whatever time zone stands behind."""
    match = _DATE.match(text)
    day = day_of(*match.groups()) if match else None
    if day is not None:
        return day
    reason = f"{name} is {text[:40]!r}, which is not a date"
    raise StatementUnreadable(reason, number=number)


def _closing(statement: Element, currency: str) -> StatementBalance | None:
    ledger = next(statement.iter("LEDGERBAL"), None)
    amount = None if ledger is None else _text(ledger, "BALAMT")
    on = None if ledger is None else _text(ledger, "DTASOF")
    if amount is None or on is None:
        return None
    return StatementBalance(
        amount_minor=_amount(amount, currency, None), on=_date(on, "DTASOF", None)
    )


def _listed_until(lines: Sequence[StatementLine], statement: Element) -> date | None:
    """The last day that the file lists, by its own word or its last line."""
    stated = _text(statement, "DTEND")
    days = [line.occurred_on for line in lines]
    if stated is not None:
        days.append(_date(stated, "DTEND", None))
    return max(days, default=None)


def _opening(
    closing: StatementBalance | None, lines: Sequence[StatementLine], statement: Element
) -> StatementBalance | None:
    until = _listed_until(lines, statement)
    if closing is None or until is None or not lines:
        return None
    if not max(line.occurred_on for line in lines) <= closing.on <= until:
        return None
    return StatementBalance(
        amount_minor=closing.amount_minor - sum(line.amount_minor for line in lines),
        on=min(line.occurred_on for line in lines),
    )


def _remarks(
    lines: Sequence[StatementLine],
    blocks: Sequence[_Block],
    closing: StatementBalance | None,
    statement: Element,
) -> Iterator[str]:
    until = _listed_until(lines, statement)
    if closing is not None and until is not None and closing.on > until:
        yield (
            f"the bank's balance is of {closing.on}, but the lines end on {until}: "
            "it may count transactions that are not in this file"
        )
    debits = {block.number for block in blocks if "<TRNTYPE>DEBIT" in block.text}
    strange = [line.number for line in lines if line.amount_minor > 0 and line.number in debits]
    if strange:
        yield (
            f"{len(strange)} lines are called DEBIT but have a positive amount, the first on line "
            f"{strange[0]}: they count as income, by their sign"
        )
    missing = sum(1 for line in lines if line.reference is None)
    if missing:
        yield f"{missing} lines have no FITID: they are known by day, amount and description"


def _text(element: Element, name: str) -> str | None:
    # anywhere below: an empty element without its end tag swallows those that follow it
    found = next(element.iter(name), None)
    return None if found is None or not found.text else found.text.strip()
