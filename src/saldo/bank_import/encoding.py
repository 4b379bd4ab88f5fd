"""From a file's bytes to its text, by rules that depend on nothing but the bytes.

No statistics: a detector may judge two overlapping files differently, and a description that is
decoded in two ways is two descriptions, so a line would be recorded twice.
"""

from __future__ import annotations

import codecs

from saldo.bank_import.errors import StatementError

# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode_text(content: bytes, encoding: str | None = None) -> str:
    """The text of ``content``, each line ended by a newline alone; raises StatementError.

    In this order: a byte-order mark, ``encoding`` when one is named, UTF-8 when the bytes are
    UTF-8, else Windows-1252, what banks mean when they say ISO 8859-1.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            text = _strictly(content[len(mark) :], name)
            break
    else:
        text = _strictly(content, encoding) if encoding else _guess(content)
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise StatementError("the file is not text: it holds a zero byte", number=number)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def _strictly(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except LookupError as error:
        raise StatementError(
            f"there is no encoding called {encoding!r}: say --encoding utf-8 or latin-1"
        ) from error
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise StatementError(
            f"the text is not {encoding}: say --encoding with the right one", number=number
        ) from error


def _guess(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        # five bytes mean nothing in Windows-1252; ISO 8859-1 gives every byte a character
        return content.decode("latin-1")
