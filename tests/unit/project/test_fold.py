"""Folding a stream into the read model, checked against the hash chain."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saldo.domain.commands import Kind
from saldo.domain.events import SCHEMA_NEWEST, chain_hash, genesis_hash
from saldo.project.fold import (
    Balance,
    Diverged,
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
    reversal,
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
    return replace(event, public_text=text, hash=chain_hash(previous, text))


GENESIS = genesis_hash(ACCOUNT)
FIRST = STREAM[0]
UNPROJECTABLE = {
    "a newer schema": rewritten(FIRST, GENESIS, f'"schema":{SCHEMA_NEWEST}', '"schema":999'),
    "an unknown type": rewritten(FIRST, GENESIS, "transaction-recorded", "account-closed"),
    "another account's": rewritten(FIRST, GENESIS, '"account":"wesley"', '"account":"other"'),
    "another position's": rewritten(FIRST, GENESIS, '"position":1', '"position":2'),
    "an amount of text": rewritten(FIRST, GENESIS, '"amountMinor":1000', '"amountMinor":"1000"'),
    "a broken chain": replace(FIRST, hash=bytes(32)),
    "a changed text": replace(FIRST, public_text=(FIRST.public_text or "").replace("1000", "1001")),
    "no JSON": rewritten(FIRST, GENESIS, '{"schema"', "schema"),
    "a gap": replace(FIRST, position=2),
    "a private part that is no JSON": replace(FIRST, private_text="{"),
    "a private part that is no object": replace(FIRST, private_text="[]"),
    "a description of number": replace(FIRST, private_text='{"description":5}'),
}


@pytest.mark.parametrize("event", UNPROJECTABLE.values(), ids=UNPROJECTABLE)
def test_an_unprojectable_event_blocks_the_account_there(event: StreamEvent) -> None:
    """It stops this account alone: an error would stop all accounts of the round."""
    after, folded = fold([event, *STREAM[1:]])
    assert after.blocked
    assert (after.position, after.balance_minor, after.hash) == (0, 0, GENESIS)
    assert [(dead.event_id, dead.position) for dead in folded.dead] == [
        (event.event_id, event.position)
    ]
    assert after.blocked_reason == folded.dead[0].reason != ""
    assert (folded.lines, folded.totals) == ([], {})


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
    bad = replace(STREAM[2], hash=bytes(32))
    after, folded = fold([*STREAM[:2], bad, STREAM[3]])
    assert (after.position, after.balance_minor, after.hash) == (2, 650, STREAM[1].hash)
    assert [line.position for line in folded.lines] == [1, 2]


def test_a_newer_version_retries_a_blocked_account() -> None:
    blocked = replace(new_balance(ACCOUNT), blocked_reason="new", blocked_schema=SCHEMA_NEWEST - 1)
    assert not blocked.blocked
    after, _ = fold(STREAM, blocked)
    assert (after.blocked, after.blocked_reason, after.position) == (False, None, 4)


@pytest.mark.parametrize("events", [[], STREAM[2:], [replace(STREAM[1], hash=bytes(32))]])
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
    anchor = replace(STREAM[1], public_text=None, private_text=None)
    after, folded = fold([anchor, *STREAM[2:]], balance)
    assert (after.position, [line.position for line in folded.lines]) == (4, [3, 4])


def test_an_erased_line_has_no_private_text() -> None:
    said = stream_events(stored_stream(income(description="rent", metadata={"a": "b"})))
    erased = [replace(said[0], private_text=None)]
    words = [(x.description, x.metadata) for x in fold(said)[1].lines + fold(erased)[1].lines]
    assert words == [("rent", '{"a": "b"}'), (None, None)]
    assert fold(said)[0] == fold(erased)[0]


@pytest.mark.parametrize("together", [True, False])
def test_a_reversed_line_of_any_round_is_marked(
    together: bool,
) -> None:
    original = stored_stream(income("5"))[0]
    stored = stored_stream(income("5"), reversal(original, Kind.INCOME, 500))
    events = stream_events(stored)
    # The reversal names the id of the first stream's event: give the second stream's the same.
    events[1] = rewritten(
        events[1], events[0].hash, str(original.event_id), str(events[0].event_id)
    )
    if together:
        _, folded = fold(events)
        assert folded.lines[0].reversed_by == events[1].event_id
        assert folded.reversals == []
    else:
        balance, _ = fold(events[:1])
        _, folded = fold(events, balance)
        assert folded.reversals == [(ACCOUNT, events[0].event_id, events[1].event_id)]


def test_daily_totals_use_the_utc_day_of_occurrence() -> None:
    evening = NOW.replace(hour=23, minute=59)
    events = stream_events(
        stored_stream(
            income("5", occurred_at=evening),
            expense("1", occurred_at=evening + timedelta(minutes=2)),
            expense("2", occurred_at=evening + timedelta(minutes=3)),
            limit("9"),
        )
    )
    _, folded = fold(events)
    totals = {
        day: (total.income_minor, total.expense_minor, total.transactions)
        for (_, day), total in folded.totals.items()
    }
    assert totals == {date(2026, 11, 24): (500, 0, 1), date(2026, 11, 25): (0, 300, 2)}


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
    assert (in_pieces.lines, in_pieces.totals) == (at_once.lines, at_once.totals)
    assert whole.balance_minor == sum(amounts)
