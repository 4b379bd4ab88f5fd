"""MT940 statements: SWIFT's customer statement message, with or without its envelope.

The fields are read by the grammar of the mt-940 library. The splitting into fields is done here:
the library reads the whole text in 4 s for 100,000 lines, and forgets on which line a field stood.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from mt940 import Options, models, processors, tags

from saldo.bank_import.amounts import parse_amount
from saldo.bank_import.dates import day_of
from saldo.bank_import.encoding import decode_text
from saldo.bank_import.errors import StatementError
from saldo.bank_import.statement import (
    BankStatement,
    StatementBalance,
    StatementLine,
    join_pages,
    tidy_description,
    tidy_reference,
)
from saldo.domain.money import CURRENCY_DIGITS

_TAG = re.compile(r":([0-9]{2}[A-Z]?|NS):", re.ASCII)
_ENVELOPE = re.compile(r"\{[1-35]:[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_STATEMENT = tags.Statement().re
_BALANCE = tags.FinalOpeningBalance().re
_DETAILS = tags.TransactionDetails()
_STRUCTURED = re.compile(r"[0-9]{3}\?[0-9]{2}", re.ASCII)
# SEPA's sub-fields as banks write them in field 86 without its own structure: /NAME/X/REMI/Y
_SLASHED = re.compile(r"/(?:NAME|REMI|USTD)/+([^/]*)")

# The most that SWIFT gives the customer's reference; some banks write on past it.
CUSTOMER_REFERENCE_CHARACTERS = 16
# Value date and entry date are some days apart: more than this, and a new year lies between them.
YEAR_TURN_DAYS = 180


@dataclass(slots=True)
class _Field:
    """One tagged field: its tag, its text without the tag, and its line in the file."""

    tag: str
    text: str
    number: int


def parse_mt940(content: bytes, bank_account: str | None = None) -> BankStatement:
    """Return the statement in ``content``, or that of ``bank_account``; raise StatementError."""
    pages: list[list[_Field]] = []
    for each in _fields(decode_text(content)):
        if each.tag == "20":
            pages.append([])
        elif not pages:
            raise StatementError(
                f":{each.tag}: stands before :20:, with which an MT940 statement begins",
                number=each.number,
            )
        pages[-1].append(each)
    return join_pages("mt940", ((_account(page), page) for page in pages), _read, bank_account)


def _fields(text: str) -> list[_Field]:
    fields: list[_Field] = []
    is_open = False
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.rstrip()
        if line.startswith("{"):
            line = _ENVELOPE.sub("", line).removeprefix("{4:")
        match = _TAG.match(line)
        if match is not None:
            fields.append(_Field(match.group(1), line[match.end() :], number))
            is_open = True
        elif line == "-" or line.startswith("-}"):
            is_open = False
        elif is_open and line:
            fields[-1].text += f"\n{line}"
        elif line.strip():
            raise StatementError(
                f"{line[:40]!r} belongs to no field of an MT940 statement", number=number
            )
    return fields


def _account(fields: Sequence[_Field]) -> str:
    stated = [each.text for each in fields if each.tag in {"25", "25P"}]
    return stated[-1].split("\n")[0].strip() if stated else ""


def _read(fields: Sequence[_Field]) -> BankStatement:
    page = BankStatement()
    booked: list[tuple[_Field, list[str]]] = []
    previous = closing_currency = ""
    for each in fields:
        if each.tag in {"60F", "60M"}:
            page.opening, page.currency = _balance(each)
        elif each.tag in {"62F", "62M"}:
            page.closing, closing_currency = _balance(each)
            page.number = each.number
        elif each.tag == "61":
            booked.append((each, []))
        elif each.tag == "86" and previous in {"61", "86", "NS"} and booked:
            # after :62: it is about the whole statement
            booked[-1][1].append(each.text)
        previous = each.tag
    if page.opening is None or page.closing is None:
        tag = "60F" if page.opening is None else "62F"
        raise StatementError(
            f"the statement that begins here has no field {tag}: the file is not complete",
            number=fields[0].number,
        )
    if closing_currency != page.currency:
        raise StatementError(
            f"the statement opens in {page.currency} and closes in {closing_currency}",
            number=page.number,
        )
    page.lines = [
        _line(at, "\n".join(filter(None, details)), page.currency) for at, details in booked
    ]
    return page


def _balance(at: _Field) -> tuple[StatementBalance, str]:
    match = _BALANCE.fullmatch(at.text.strip())
    part = match.groupdict() if match else {"currency": ""}
    currency = part["currency"].upper()
    on = _day(part) if match else None
    if on is None or currency not in CURRENCY_DIGITS:
        raise StatementError(
            f":{at.tag}: {at.text[:40]!r} is not a balance such as C261124EUR1234,56",
            number=at.number,
        )
    sign = -1 if part["status"].upper() == "D" else 1
    amount_minor = sign * parse_amount(part["amount"], currency, "comma", number=at.number)
    return StatementBalance(amount_minor=amount_minor, on=on), currency


def _line(at: _Field, details: str, currency: str) -> StatementLine:
    match = _STATEMENT.fullmatch(at.text)
    if match is None:
        raise StatementError(
            f":61: {at.text[:40]!r} is not a statement line such as 2611241124C1,5NTRFREF//ID",
            number=at.number,
        )
    part = match.groupdict("")
    # D takes money out, and so does the reversal of a credit
    sign = -1 if part["status"].upper() in {"D", "RC"} else 1
    customer = part["customer_reference"]
    if len(customer) == CUSTOMER_REFERENCE_CHARACTERS and not part["bank_reference"]:
        # a reference that is longer than SWIFT allows runs on to the end of its line
        customer = at.text[match.start("customer_reference") :].partition("\n")[0]
    references = [tidy_reference(customer), tidy_reference(part["bank_reference"])]
    reference = "//".join(each for each in references if each) or None
    return StatementLine(
        number=at.number,
        occurred_on=_booked_on(part, at),
        amount_minor=sign * parse_amount(part["amount"], currency, "comma", number=at.number),
        description=_description(details)
        or tidy_description(at.text.partition("\n")[2])
        or reference
        or "",
        reference=reference,
    )


def _booked_on(part: dict[str, str], at: _Field) -> date:
    """Return the entry date, in the year next to the value date; without one, the value date."""
    valued = _day(part)
    if valued is None:
        raise StatementError(f":61: {at.text[:6]!r} is not a date", number=at.number)
    month, day = part["entry_month"], part["entry_day"]
    if not month.strip() or not day.strip():
        return valued
    booked = day_of(str(valued.year), month, day)
    if booked is not None and abs((booked - valued).days) > YEAR_TURN_DAYS:
        booked = day_of(str(valued.year + (1 if booked < valued else -1)), month, day)
    if booked is None:
        raise StatementError(f":61: {month + day!r} is not an entry date", number=at.number)
    return booked


def _day(part: dict[str, str]) -> date | None:
    """Return the day. Banks that count months of 30 days write 30 February for its last day."""
    year, month, day = part["year"], part["month"], part["day"]
    if month == "02" and day in {"29", "30"}:
        day = str(min(int(day), calendar.monthrange(2000 + int(year), 2)[1]))
    return day_of(year, month, day)


def _description(details: str) -> str:
    """Return the text of field 86, without the keys of its structure."""
    if _STRUCTURED.match(details):
        field = {"transaction_details": details}
        found = processors.transaction_details_post_processor(_TRANSACTIONS, _DETAILS, field, field)
        names = ("applicant_name", "recipient_name", "purpose", "additional_purpose")
        said = [found[name] for name in names if found.get(name)]
        return tidy_description(" - ".join(said) or str(found.get("posting_text") or ""))
    joined = details.replace("\n", "")
    if joined.startswith("/"):
        said = [each.strip() for each in _SLASHED.findall(joined) if each.strip()]
        if said:
            return tidy_description(" - ".join(said))
    return tidy_description(details)


_TRANSACTIONS = models.Transactions(options=Options.all())
