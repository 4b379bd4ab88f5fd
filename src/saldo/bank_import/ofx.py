"""OFX statements: version 1 (SGML) and 2 (XML), of bank accounts and credit cards.

The structure around the transactions is read by ofxtools. The transactions themselves are cut out
first and read in ofx_lines: its tree needs 3 s for 100,000 of them and does not keep their lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ofxtools.Parser import TreeBuilder

from saldo.bank_import.encoding import decode_text
from saldo.bank_import.errors import StatementError
from saldo.bank_import.ofx_lines import END, START, Block, read_amount, read_date, read_line
from saldo.bank_import.statement import (
    DOCUMENT_TYPE,
    BankStatement,
    LeftOut,
    Page,
    StatementBalance,
    StatementLine,
    choose_account,
    join_pages,
)
from saldo.domain.money import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date
    from xml.etree.ElementTree import Element

_BODY = re.compile(r"<OFX>", re.IGNORECASE)
_DOCTYPE = re.compile(r"<!(?:DOCTYPE|ENTITY)\b")
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9._]*)>")
_POSITION = re.compile(r"position=\[([0-9]+):")

# The element of a statement, and within it the one that says whose it is.
_STATEMENTS = {"STMTRS": "BANKACCTFROM", "CCSTMTRS": "CCACCTFROM"}


@dataclass(slots=True)
class _Source:
    """A statement's element, its account, and the blocks of its transactions."""

    element: Element
    account: str
    blocks: list[Block]


def parse_ofx(content: bytes, *, bank_account: str | None = None) -> BankStatement:
    """Return the statement in ``content``, or that of ``bank_account``; raise StatementError.

    OFX states no opening balance: it is worked out from the closing one when that is of a day that
    the lines reach.
    """
    text = decode_text(content)
    body = _body_start(text)
    if "<stmttrn>" in text:
        text = _TAG.sub(lambda tag: tag.group().upper(), text)
    skeleton, blocks = _cut_out(text, body)
    elements = [each for each in _read_skeleton(skeleton).iter() if each.tag in _STATEMENTS]
    if not elements:
        raise StatementError("the file holds no statement of a bank account or credit card")
    sources = [
        _Source(element, _account(element), blocks.get(index, []))
        for index, element in enumerate(elements)
    ]
    chosen = choose_account(sources, lambda source: source.account, bank_account)
    pages = [_page(source) for source in chosen]
    last = chosen[-1].element
    lines = [line for page in pages for line in page.lines if line.amount_minor]
    if len(pages) == 1:
        pages[0].opening = _opening(pages[0].closing, lines, last)
    own = [block for source in chosen for block in source.blocks]
    return join_pages("ofx", pages, _remarks(lines, own, pages[-1].closing, last))


def _body_start(text: str) -> int:
    """Return where the body begins of a file that is whole; raise StatementError."""
    found = _BODY.search(text)
    if found is None:
        raise StatementError("there is no <OFX> in the file")
    if not text.rstrip(" \n\t\x1a").upper().endswith("</OFX>"):
        raise StatementError(
            "the file ends before </OFX>: it is not complete, so download it again",
            number=text.count("\n") + 1,
        )
    doctype = _DOCTYPE.search(text)
    if doctype is not None:
        raise StatementError(DOCUMENT_TYPE, number=text.count("\n", 0, doctype.start()) + 1)
    if "<INVSTMTRS>" in text:
        raise StatementError(
            "the file is of an investment account: only bank accounts and cards are imported"
        )
    return found.start()


def _page(source: _Source) -> Page:
    currency = _text(source.element, "CURDEF") or ""
    if currency not in CURRENCY_DIGITS:
        raise StatementError(f"CURDEF is {currency!r}, which is not an ISO 4217 currency")
    page = Page(
        account=source.account,
        currency=currency,
        closing=_closing(source.element, currency),
    )
    for block in source.blocks:
        if "<CORRECTFITID>" in block.text:
            reason = "the bank corrects an earlier line: do so by hand"
            page.left_out.append(LeftOut(number=block.number, reason=reason))
        else:
            page.lines.append(read_line(block, currency))
    return page


def _cut_out(text: str, start: int) -> tuple[str, dict[int, list[Block]]]:
    """Return the text from ``start`` without its transactions, and those by their statement.

    The text keeps its line ends, so that positions in it still tell the line.
    """
    head, *parts = text.split(START)
    blocks: dict[int, list[Block]] = {}
    number = head.count("\n") + 1
    statement = _statements_opened(head) - 1
    skeleton = ["\n" * head.count("\n", 0, start), head[start:]]
    for part in parts:
        body, end, rest = part.partition(END)
        if not end:
            raise StatementError(f"{START} is never closed by {END}", number=number)
        blocks.setdefault(statement, []).append(Block(body, number))
        skeleton += ["\n" * body.count("\n"), rest]
        statement += _statements_opened(rest)
        number += part.count("\n")
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
        raise StatementError("the OFX tags do not fit together here", number=number) from error
    return root


def _check_nesting(skeleton: str) -> None:
    """Raise StatementError for an end tag that closes nothing: ofxtools lets it pass."""
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
            raise StatementError(
                f"</{name}> closes nothing", number=skeleton.count("\n", 0, tag.start()) + 1
            )
        open_tags.pop()


def _account(statement: Element) -> str:
    source = next(statement.iter(_STATEMENTS[statement.tag]), None)
    if source is None:
        return ""
    parts = [_text(source, name) for name in ("BANKID", "BRANCHID", "ACCTID")]
    return "/".join(part for part in parts if part)


def _closing(statement: Element, currency: str) -> StatementBalance | None:
    ledger = next(statement.iter("LEDGERBAL"), None)
    amount = None if ledger is None else _text(ledger, "BALAMT")
    on = None if ledger is None else _text(ledger, "DTASOF")
    if amount is None or on is None:
        return None
    return StatementBalance(
        amount_minor=read_amount(amount, currency, None), on=read_date(on, "DTASOF", None)
    )


def _listed_until(lines: Sequence[StatementLine], statement: Element) -> date | None:
    """Return the last day that the file covers, by its DTEND or its last line."""
    stated = _text(statement, "DTEND")
    days = [line.occurred_on for line in lines]
    if stated is not None:
        days.append(read_date(stated, "DTEND", None))
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
    blocks: Sequence[Block],
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
