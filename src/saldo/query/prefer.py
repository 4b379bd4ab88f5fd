"""The header Prefer (RFC 7240): how long a reader is ready to wait."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WAIT_MAX_S = 30
# A quoted string, to its end or the header's: so that nothing in it is taken for a preference.
_QUOTED = re.compile(r'"((?:[^"\\]|\\.?)*)(?:"|$)')
_TOKEN = re.compile(r"[^\s,;=\"]+")
# So many digits show that a number is beyond WAIT_MAX_S: int() of thousands would fail.
DIGITS_MAX = 4


def wait_asked_for(headers: Sequence[str]) -> int | None:
    """Return the seconds of the first `wait`, at most WAIT_MAX_S; None without one.

    What is not understood is ignored, as the RFC wants: the response names what was applied.
    """
    for preference in _QUOTED.sub(_as_token, ",".join(headers)).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            digits = value.strip()
            if not digits.isascii() or not digits.isdecimal():
                return None
            return min(int(digits.lstrip("0")[:DIGITS_MAX] or "0"), WAIT_MAX_S)
    return None


def _as_token(quoted: re.Match[str]) -> str:
    """Return the token that a quoted string is equal to, or nothing."""
    return quoted[1] if _TOKEN.fullmatch(quoted[1]) else ""
