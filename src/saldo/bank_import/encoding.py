"""The text of a file's bytes, by rules that depend on the bytes only.

A statistical detector may judge two overlapping files differently. Then a description would be
decoded in two ways, and its line recorded twice.
"""

from __future__ import annotations

import codecs

from saldo.bank_import.errors import StatementError

# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode_text(content: bytes, encoding: str | None = None) -> str:
    """Return the text of ``content``, with newlines as its only line ends; raise StatementError.

    In this order: a byte-order mark, ``encoding`` when one is named, UTF-8 when the bytes are
    UTF-8, else Windows-1252, what banks mean when they say ISO 8859-1.
    """
    known = next((name for mark, name in _MARKS.items() if content.startswith(mark)), encoding)
    # five bytes mean nothing in Windows-1252; ISO 8859-1 gives every byte a character
    text = _decode(content, *([known] if known else ["utf-8", "cp1252", "latin-1"]))
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise StatementError("the file is not text: it holds a zero byte", number=number)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(content: bytes, encoding: str, *others: str) -> str:
    try:
        return content.decode(encoding)
    except LookupError as error:
        raise StatementError(
            f"there is no encoding called {encoding!r}: say --encoding utf-8 or latin-1"
        ) from error
    except UnicodeDecodeError as error:
        if others:
            return _decode(content, *others)
        name, number = encoding.removesuffix("-sig"), content.count(b"\n", 0, error.start) + 1
        raise StatementError(
            f"the text is not {name}: say --encoding with the right one", number=number
        ) from error
