"""Dead letters: events given up on, parked where an operator finds them.

The attributes and the public text are kept, never the private part.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING

from saldo.domain.commands import ACCOUNT_ID

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDED = "saldo.transaction.recorded"
ID_CHARACTERS_MAX = 255
ATTRIBUTE_CHARACTERS_MAX = 10_000
REASON_CHARACTERS_MAX = 1_000
DATA_CHARACTERS_MAX = 10_000

SPACE = r"\u0020"
# And the backslash, so that the escaped form is that of one text only.
_UNSTORABLE = re.compile(r"[\\\0\ud800-\udfff]")


def letter_of(attributes: Mapping[str, str], public_text: str | None) -> tuple[object, ...]:
    """Return the dead letter of an event that KafkaSource gave up on, as PARK_DELIVERED takes it.

    These are its account, event id, position, reason, attributes and data.
    """
    stored = _storable(attributes)
    subject = stored.get("subject", "")
    return (
        subject if ACCOUNT_ID.fullmatch(subject) else "",
        parked_id(stored),
        sequence_of(stored),
        reason_of(stored)[:REASON_CHARACTERS_MAX],
        json.dumps(stored),
        public_text and public_text[:DATA_CHARACTERS_MAX],
    )


def parked_id(stored: Mapping[str, str]) -> str:
    """Return the id that a letter of these attributes is stored under: no two events share one.

    Saldo's own events have their id, under which the projector parks them as well. The id of any
    other is its source's.
    """
    event_id = stored.get("id", "")
    if stored.get("type") != RECORDED:
        event_id = f"{stored.get('source', '').replace(' ', SPACE)} {event_id}"
    return _clipped(event_id, ID_CHARACTERS_MAX)


def sequence_of(stored: Mapping[str, str]) -> int | None:
    """Return the position that the attributes state; None where it is not one."""
    sequence = stored.get("sequence", "")
    return int(sequence) if sequence.isdecimal() and len(sequence) < 19 else None  # noqa: PLR2004 - a bigint


def reason_of(stored: Mapping[str, str]) -> str:
    """Return why KafkaSource gave up: the status and the text of the last response."""
    code = stored.get("knativeerrorcode") or "no answer"
    try:
        answer = base64.b64decode(stored.get("knativeerrordata", ""))
    except ValueError:
        answer = b""
    return f"{code} {answer.decode('utf-8', 'replace')}".replace("\0", "").strip()


def _storable(attributes: Mapping[str, str]) -> dict[str, str]:
    r"""Return the attributes, with what PostgreSQL cannot hold written as in JSON: `\u0000`."""
    return {
        _escaped(name): _clipped(_escaped(text), ATTRIBUTE_CHARACTERS_MAX)
        for name, text in attributes.items()
    }


def _escaped(text: str) -> str:
    return _UNSTORABLE.sub(
        lambda found: r"\\" if found[0] == "\\" else f"\\u{ord(found[0]):04x}", text
    )


def _clipped(text: str, characters_max: int) -> str:
    """Return a text that is too long with a digest for its end: two never become one."""
    if len(text) <= characters_max:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[: characters_max - len(digest) - 1]}-{digest}"
