"""The tag of a state: its position, and the start of its hash.

A position alone names no state: after a restore of the event store it may be another event. ETags,
the ids of server-sent events and `minPosition` use the tag.
"""

from __future__ import annotations

import re

import msgspec

# 64 bits: two histories of one account agree in them by chance once in 10^19.
HASH_BYTES = 8
# A balance that is suspended says so in its ETag: the state is the same.
TAG = re.compile(r"([0-9]{1,18})(?:-([0-9a-f]{16})(?:-blocked)?|--blocked)?", re.ASCII)


class Tag(msgspec.Struct, frozen=True):
    """A state that a client names; without the start of a hash, any state at the position."""

    position: int
    hash_start: str = ""

    def __str__(self) -> str:
        return f"{self.position}-{self.hash_start}" if self.hash_start else str(self.position)

    def names(self, position: int, state_hash: bytes) -> bool:
        """Return whether it names the state with that position and hash."""
        return self.position == position and state_hash.hex().startswith(self.hash_start)


def tag_of(position: int, state_hash: bytes) -> str:
    """Return the tag of a state, such as `5-1a2b3c4d5e6f7081`."""
    return f"{position}-{state_hash[:HASH_BYTES].hex()}"


def read_tag(text: str) -> Tag | None:
    """Return the state that ``text`` names, by its tag or its bare position; None otherwise."""
    match = TAG.fullmatch(text)
    return None if match is None else Tag(int(match[1]), match[2] or "")
