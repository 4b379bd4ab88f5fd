"""The check of tags: a tag stands for one state of its account's stream."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from tests.reliability.history.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from tests.reliability.history.history import Event, History

HASH_DIGITS = 16


class _Told(NamedTuple):
    """A state that a client was told, and its tag."""

    account_id: str
    tag: str
    position: int
    balance_minor: int


def check_tags(history: History, events: Sequence[Event]) -> Iterator[Violation]:
    """Check that tags belong to stored events, and events follow their expected state."""
    hashes = {(event.account_id, event.position): event.hash for event in events}
    yield from ambiguous_tags(history)
    for told in _told(history):
        found = hashes.get((told.account_id, told.position))
        _, start = _parts(told.tag)
        if found is not None and not (start and found.startswith(start)):
            detail = f"{told.tag} was answered, the event has {found}"
            yield Violation(name="tag-of-another", account_id=told.account_id, detail=detail)
    for attempt in history.attempts():
        if attempt.receipt is None or not attempt.expected:
            continue
        position, start = _parts(attempt.expected)
        account_id = attempt.account_id
        genesis = hashlib.sha256(account_id.encode()).hexdigest()
        before = genesis if position == 0 else hashes.get((account_id, position), "")
        if attempt.receipt.position != position + 1 or not before.startswith(start):
            detail = (
                f"key {attempt.key} expected {attempt.expected} and was recorded at "
                f"{attempt.receipt.position}, after {before}"
            )
            yield Violation(name="expected-another", account_id=account_id, detail=detail)
    yield from _check_behind(history, {event.event_id for event in events})


def ambiguous_tags(history: History) -> Iterator[Violation]:
    """Check that equal tags come with equal responses, even after a restore."""
    said: dict[tuple[str, str], _Told] = {}
    for told in _told(history):
        known = said.setdefault((told.account_id, told.tag), told)
        if known != told or told.position != _parts(told.tag)[0]:
            detail = f"{told.tag} is of {known[2:]}, and of {told[2:]}"
            yield Violation(name="tag-ambiguous", account_id=told.account_id, detail=detail)


def _check_behind(history: History, stored: AbstractSet[str]) -> Iterator[Violation]:
    """Check that position and Saldo-Behind cover all events acknowledged before."""
    answered: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for attempt in history.attempts():
        receipt, completed_s = attempt.receipt, attempt.completed_s
        if receipt is not None and completed_s is not None and receipt.event_id in stored:
            answered[attempt.account_id].append((completed_s, receipt.position))
    for own in answered.values():
        own.sort()
    for read in history.reads():
        own = answered[read.account_id]
        earlier = own[: bisect_left(own, (read.invoked_s, 0))]
        newest = max((position for _, position in earlier), default=0)
        if read.behind is not None and read.position + read.behind < newest:
            detail = (
                f"client {read.client} was shown {read.position}, {read.behind} behind: "
                f"{newest} had been answered"
            )
            yield Violation(name="behind-understated", account_id=read.account_id, detail=detail)


def _told(history: History) -> Iterator[_Told]:
    for attempt in history.attempts():
        receipt = attempt.receipt
        if attempt.tag and receipt is not None:
            yield _Told(attempt.account_id, attempt.tag, receipt.position, receipt.balance_minor)
    for read in history.reads():
        if read.tag:
            yield _Told(read.account_id, read.tag, read.position, read.balance_minor)


def _parts(tag: str) -> tuple[int, str]:
    """Split a tag into position and start of the hash, if any."""
    position, _, rest = tag.partition("-")
    return int(position), rest[:HASH_DIGITS]
