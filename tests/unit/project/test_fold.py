"""Folding a stream into the read model, checked against the hash chain."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saldo.domain.events import SCHEMA_NEWEST, chain_hash, genesis_hash
from saldo.project.errors import Diverged
from saldo.project.fold import (
    Balance,
    Folded,
    StreamEvent,
    fold_account,
    new_balance,
)
from tests.support.controls import (
    ACCOUNT,
    NOW,
    expense,
    income,
    limit,
    stored_stream,
    stream_events,
)

STORED = stored_stream(income("10"), expense("3.50"), limit("100"), income("1"))
STREAM = stream_events(STORED)


def fold(events: list[StreamEvent], balance: Balance | None = None) -> tuple[Balance, Folded]:
    folded = Folded()
    after = fold_account(balance or new_balance(ACCOUNT), events, folded)
    return after, folded


def rewritten(event: StreamEvent, previous: bytes, old: str, new: str) -> StreamEvent:
    """Return the event with another text, and with the hash that fits the chain."""
    assert event.public_text is not None
    assert old in event.public_text
    text = event.public_text.replace(old, new)
    return event._replace(public_text=text, hash=chain_hash(previous, text))


GENESIS = genesis_hash(ACCOUNT)
FIRST = STREAM[0]
UNPROJECTABLE = {
    "a newer schema": rewritten(FIRST, GENESIS, f'"schema":{SCHEMA_NEWEST}', '"schema":999'),
    "an unknown type": rewritten(FIRST, GENESIS, "transaction-recorded", "account-closed"),
    "another account's": rewritten(FIRST, GENESIS, '"account":"wesley"', '"account":"other"'),
    "another position's": rewritten(FIRST, GENESIS, '"position":1', '"position":2'),
    "an amount of text": rewritten(FIRST, GENESIS, '"amountMinor":1000', '"amountMinor":"1000"'),
    "a broken chain": FIRST._replace(hash=bytes(32)),
    "a changed text": FIRST._replace(public_text=(FIRST.public_text or "").replace("1000", "1001")),
    "no JSON": rewritten(FIRST, GENESIS, '{"schema"', "schema"),
    "a gap": FIRST._replace(position=2),
    "a private part that is no JSON": FIRST._replace(private_text="{"),
    "a private part that is no object": FIRST._replace(private_text="[]"),
    "a description of number": FIRST._replace(private_text='{"description":5}'),
}


@pytest.mark.parametrize("event", UNPROJECTABLE.values(), ids=UNPROJECTABLE)
def test_an_unprojectable_event_blocks_the_account_there(event: StreamEvent) -> None:
    """It stops this account alone: an error would stop all accounts of the round."""
    after, folded = fold([event, *STREAM[1:]])
    assert after.blocked
    assert (after.position, after.balance_minor, after.hash) == (0, 0, GENESIS)
    assert after.blocked_reason
    assert folded.dead == [(event, after.blocked_reason)]
    assert folded.lines == []


def test_a_balance_past_the_integer_blocks_the_account() -> None:
    """No recorder writes one; a store that was tampered with may hold one."""
    first = rewritten(FIRST, GENESIS, '"amountMinor":1000', f'"amountMinor":{2**63 - 1}')
    second = rewritten(
        stream_events(stored_stream(income("10"), income("5")))[1],
        first.hash,
        '"amountMinor":500',
        f'"amountMinor":{2**63 - 1}',
    )
    after, folded = fold([first, second])
    assert (after.blocked, after.position, len(folded.dead)) == (True, 1, 1)


def test_events_before_an_unprojectable_one_are_kept() -> None:
    bad = STREAM[2]._replace(hash=bytes(32))
    after, folded = fold([*STREAM[:2], bad, STREAM[3]])
    assert (after.position, after.balance_minor, after.hash) == (2, 650, STREAM[1].hash)
    assert [line.position for line in folded.lines] == [1, 2]


def test_a_newer_version_retries_a_blocked_account() -> None:
    blocked = new_balance(ACCOUNT)._replace(blocked_reason="new", blocked_schema=SCHEMA_NEWEST - 1)
    assert not blocked.blocked
    after, _ = fold(STREAM, blocked)
    assert (after.blocked, after.blocked_reason, after.position) == (False, None, 4)


@pytest.mark.parametrize("events", [[], STREAM[2:], [STREAM[1]._replace(hash=bytes(32))]])
def test_a_balance_off_the_stores_chain_has_diverged(events: list[StreamEvent]) -> None:
    balance, _ = fold(STREAM[:2])
    with pytest.raises(Diverged):
        fold(events, balance)


def test_every_transaction_becomes_a_line_with_its_balance() -> None:
    after, folded = fold(STREAM)
    lines = [(x.position, x.kind, x.amount_minor, x.balance_minor) for x in folded.lines]
    assert lines == [
        (1, "INCOME", 1000, 1000),
        (2, "EXPENSE", 350, 650),
        (3, "LIMIT", None, 650),
        (4, "INCOME", 100, 750),
    ]
    assert (after.position, after.balance_minor, after.hash) == (4, 750, STREAM[3].hash)
    assert after.recorded_at == NOW + timedelta(seconds=3)


def test_nothing_new_changes_nothing() -> None:
    balance, _ = fold(STREAM)
    after, folded = fold([STREAM[3]], balance)
    assert after is balance
    assert folded == Folded()


def test_at_the_balances_position_only_the_hash_is_compared() -> None:
    balance, _ = fold(STREAM[:2])
    anchor = STREAM[1]._replace(public_text=None, private_text=None)
    after, folded = fold([anchor, *STREAM[2:]], balance)
    assert (after.position, [line.position for line in folded.lines]) == (4, [3, 4])


def test_an_erased_line_has_no_private_text() -> None:
    said = stream_events(stored_stream(income(description="rent", metadata={"a": "b"})))
    erased = [said[0]._replace(private_text=None)]
    words = [(x.description, x.metadata) for x in fold(said)[1].lines + fold(erased)[1].lines]
    assert words == [("rent", '{"a": "b"}'), (None, None)]
    assert fold(said)[0] == fold(erased)[0]


def test_a_refused_event_suspends_its_account_there() -> None:
    """The read model does not hold it, although it can be read."""
    balance, _ = fold(STREAM[:2])
    folded = Folded()
    after = fold_account(balance, STREAM[1:], folded, "too large")
    assert (after.position, after.blocked, after.blocked_reason) == (2, True, "too large")
    assert (folded.lines, folded.dead) == ([], [(STREAM[2], "too large")])


AMOUNTS = st.integers(-(10**12), 10**12).filter(bool)


@given(st.lists(AMOUNTS, min_size=1, max_size=12), st.sets(st.integers(1, 11), max_size=4))
def test_any_division_into_rounds_gives_the_same_result(amounts: list[int], cuts: set[int]) -> None:
    """In pieces, each with the event before it, or all at once: one read model."""
    stored = stored_stream(*(income(f"{a}e-2") if a > 0 else expense(f"{-a}e-2") for a in amounts))
    events = stream_events(stored)
    whole, at_once = fold(events)
    balance, in_pieces = new_balance(ACCOUNT), Folded()
    for upto in sorted({cut for cut in cuts if cut < len(events)} | {len(events)}):
        further = events[max(0, balance.position - 1) : upto]
        balance = fold_account(balance, further, in_pieces)
    assert balance == whole
    assert in_pieces.lines == at_once.lines
    assert whole.balance_minor == sum(amounts)
