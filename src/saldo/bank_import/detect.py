"""From a file to its statement: which format it is, and that format's reader."""

from __future__ import annotations

import re

from saldo.bank_import.camt import parse_camt
from saldo.bank_import.csv_format import parse_csv
from saldo.bank_import.errors import StatementError
from saldo.bank_import.mt940 import parse_mt940
from saldo.bank_import.ofx import parse_ofx
from saldo.bank_import.options import Format, ReadingOptions
from saldo.bank_import.statement import BankStatement

# A million lines of the wordiest format; more is not a statement.
FILE_BYTES_MAX = 512 * 1024 * 1024
# Where a format shows itself, if not in its first line.
HEAD_BYTES = 65_536

_OFX = re.compile(rb"OFXHEADER|<\?OFX|<OFX>", re.IGNORECASE)
_XML = re.compile(rb"\s*<(?:\?xml|[A-Za-z:]*Document)\b")
_MT940 = re.compile(rb"(?:\A|[\r\n])\s*(?:\{1:|:20:)")
# What people try instead of an export. Each is named: "no header was recognised" does not help.
_OTHERS = (
    (rb"\A%PDF", "a PDF: download the statement as OFX, CAMT.053, MT940 or CSV"),
    (rb"\APK\x03\x04", "a ZIP archive or a spreadsheet: unpack it, or save it as CSV"),
    (rb"\A\xd0\xcf\x11\xe0", "an old Excel workbook: save it as CSV"),
    (rb"\A\x1f\x8b", "compressed: unpack it first"),
    (
        rb"<(?:[A-Za-z0-9_.-]+:)?BkToCstmrAcctRpt\b",
        "a camt.052 report of the day, which may still change: import the camt.053 statement",
    ),
    (
        rb"<(?:[A-Za-z0-9_.-]+:)?BkToCstmrDbtCdtNtfctn\b",
        "a camt.054 notification, whose amounts are in the camt.053 statement: import that",
    ),
)
_PARSERS = {"ofx": parse_ofx, "mt940": parse_mt940, "camt": parse_camt}


def read_statement(
    content: bytes, options: ReadingOptions | None = None, *, currency_held: str | None = None
) -> BankStatement:
    """Return the statement in ``content``; raise StatementError.

    A CSV file that does not name its currency is read in the account's, ``currency_held``.
    """
    options = options or ReadingOptions()
    if not content.strip():
        raise StatementError("the file is empty")
    detected = detect_format(content)
    found = options.format or detected
    if found == "csv":
        statement = parse_csv(content, options, options.currency or currency_held)
    else:
        statement = _PARSERS[found](content, options.bank_account)
    if options.currency is not None and options.currency != statement.currency:
        raise StatementError(f"the statement is in {statement.currency}, not in {options.currency}")
    return statement


def detect_format(content: bytes) -> Format:
    """Return the format by the file's beginning; raise StatementError for a PDF and the like."""
    # UTF-16 has a zero in every other byte of what is looked for
    head = content[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"")
    for pattern, what in _OTHERS:
        if found := re.search(pattern, head):
            number = head.count(b"\n", 0, found.start()) + 1
            raise StatementError(f"the file is {what}", number=number)
    if _OFX.search(head):
        return "ofx"
    if _XML.match(head.lstrip(b"\xff\xfe")):
        return "camt"
    return "mt940" if _MT940.search(head) else "csv"
