"""Reading JSON that a stranger wrote: numbers as their text, no member twice, no surprises.

The standard library's decoder, with hooks: it tells of a repeated member and hands over a number's
text, which no faster decoder here does, and money must not pass through a float.
"""

from __future__ import annotations

import json
import re
from typing import Any

# A value takes up to 300 bytes of memory, however short its text is. A bulk request of the most
# lines, with all that a line may say, has fewer.
VALUES_MAX = 300_000
# No object of a request has a third of it.
MEMBERS_MAX = 100
NAME_CHARACTERS_SHOWN_MAX = 80
# It never gives back what it took, so that a quote without its fellow costs one pass.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class Malformed(Exception):
    """The body is not JSON as this service reads it; the message says why and where."""


class Number(str):
    """The text of a JSON number."""

    __slots__ = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MEMBERS_MAX:
        message = f"an object has more than {MEMBERS_MAX} members"
        raise Malformed(message)
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        shown = json.dumps(repeated[:NAME_CHARACTERS_SHOWN_MAX])
        message = f"the member {shown} stands twice in one object: leave one out"
        raise Malformed(message)
    return members


def bound_values(body: bytes) -> None:
    """Raise Malformed where ``body`` holds more than VALUES_MAX values."""
    if _openings(body) > VALUES_MAX and _openings(_STRING.sub(b"", body)) > VALUES_MAX:
        message = f"the body holds more than {VALUES_MAX} values"
        raise Malformed(message)


def _openings(text: bytes) -> int:
    """Return the number of commas and opening brackets: as many as values, or one fewer."""
    if len(text) <= VALUES_MAX:
        return 0
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _constant(name: str) -> Any:
    message = f"{name} is not a JSON number: write a decimal such as 10.50"
    raise Malformed(message)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=Number,
    parse_int=Number,
    parse_constant=_constant,
)


def read_json(body: bytes) -> Any:
    """Return the value of ``body``; raises Malformed."""
    bound_values(body)
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8 at byte {error.start}"
        raise Malformed(message) from error
    except json.JSONDecodeError as error:
        message = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise Malformed(message) from error
    except RecursionError as error:
        message = "the body nests too deeply"
        raise Malformed(message) from error
