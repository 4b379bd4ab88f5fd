"""Decisions of a batch under its locks: arrival order, keys, all-or-nothing requests."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from saldo.domain.account import new_account
from saldo.domain.commands import Kind
from saldo.domain.errors import (
    AlreadyReversed,
    IdempotencyKeyReused,
    InsufficientFunds,
    PositionConflict,
    Refused,
)
from saldo.domain.events import TransactionRecorded, chain_hash, genesis_hash, read_event
from saldo.record.decision import Decided, decide_batch
from saldo.record.errors import LinesRefused
from tests.support.controls import (
    ACCOUNT,
    BRL,
    NOW,
    events_of,
    expense,
    income,
    intent,
    ledger,
    limit,
    reversal,
)

if TYPE_CHECKING:
    from saldo.record.decision import Outcome
    from saldo.record.intent import Intent, Recorded


def decided(*intents: Intent) -> Decided:
    accounts = {account_id for each in intents for account_id in each.account_ids()}
    return decide_batch(intents, ledger(*map(new_account, sorted(accounts))), NOW, BRL)


def told(outcome: Outcome) -> Any:
    """Summarise an outcome: positions with their replay flags, or the class of the refusal."""
    if isinstance(outcome, Exception):
        return type(outcome)
    return [(recorded.stored.position, recorded.replayed) for recorded in outcome]


def as_bulk(request: Intent) -> Intent:
    """Return the request with a bulk key; its lines are numbered as the handler numbers them."""
    fingerprint = b"whole request"
    lines = [
        replace(line, key_line=number, fingerprint=fingerprint)
        for number, line in enumerate(request.lines, start=1)
    ]
    return replace(request, lines=tuple(lines))


@pytest.mark.parametrize(
    ("intents", "outcomes"),
    [
        # refusals do not touch the others, in arrival order
        (
            [intent(limit("0")), intent(expense("1")), intent(income("1")), intent(expense("1"))],
            [[(1, False)], InsufficientFunds, [(2, False)], [(3, False)]],
        ),
        # the expected position is that of the moment
        (
            [
                intent(income(), expected=0),
                intent(income(), expected=0),
                intent(income(), expected=1),
            ],
            [[(1, False)], PositionConflict, [(2, False)]],
        ),
        # a key: the first answer again; for another request, refused
        (
            [
                intent(income("1"), key="k"),
                intent(income("1.00"), key="k"),
                intent(income("2"), key="k"),
            ],
            [[(1, False)], [(1, True)], IdempotencyKeyReused],
        ),
        # a replay is judged before If-Match and limits
        (
            [intent(expense("1"), key="k", expected=0), intent(limit("0"))]
            + [intent(expense("1"), key="k", expected=0)],
            [[(1, False)], [(2, False)], [(1, True)]],
        ),
        # a refusal binds no key
        (
            [intent(limit("0")), intent(expense("1"), key="k"), intent(income("1"), key="k")],
            [[(1, False)], InsufficientFunds, [(2, False)]],
        ),
        # a key is of its account
        (
            [intent(income("1"), key="k"), intent(income("1", "other"), key="k")],
            [[(1, False)], [(1, False)]],
        ),
        # a request of many lines is recorded whole or not at all
        (
            [
                intent(limit("0")),
                intent(income("1"), expense("2"), income("5")),
                intent(income("1")),
            ],
            [[(1, False)], LinesRefused, [(2, False)]],
        ),
        # and again with its key: all of its lines are the first ones
        (
            [as_bulk(intent(income("1"), income("1", "b"), income("2"), key="k"))] * 2,
            [[(1, False), (1, False), (2, False)], [(1, True), (1, True), (2, True)]],
        ),
        # two lines of a request with the same key are one transaction
        (
            [intent(income("1"), income("1"), income("2"), key="k")],
            [LinesRefused],
        ),
        ([intent(income("1"), income("1.0"), key="k")], [[(1, False), (1, True)]]),
    ],
)
def test_intents_are_decided_in_arrival_order(
    intents: list[Intent], outcomes: list[object]
) -> None:
    assert [told(outcome) for outcome in decided(*intents).outcomes] == outcomes


def test_a_refused_request_names_each_of_its_refused_lines() -> None:
    lines = intent(income("1"), expense("2"), income("5"), expense("9"), expense("1"))
    refused = decided(intent(limit("0")), lines).outcomes[1]
    assert isinstance(refused, LinesRefused)
    assert [(number, type(each)) for number, each in refused.refusals] == [
        (2, InsufficientFunds),
        (4, InsufficientFunds),
    ]


def test_a_refused_request_leaves_nothing_behind() -> None:
    result = decided(intent(limit("0")), intent(income("1"), expense("2")))
    assert [event.position for event in result.events] == [1]
    assert result.accounts[ACCOUNT].balance_minor == 0


def test_a_transaction_is_reversed_once_even_within_a_batch() -> None:
    first = intent(income("5"), ids=1)
    original = events_of(decided(first).outcomes[0])[0]
    undo = reversal(original, Kind.INCOME, 500)
    outcomes = decided(first, intent(undo, ids=2), intent(undo, ids=3)).outcomes
    assert [told(outcome) for outcome in outcomes] == [[(1, False)], [(2, False)], AlreadyReversed]
    assert isinstance(outcomes[2], AlreadyReversed)
    assert outcomes[2].reversed_by == events_of(outcomes[1])[0].event_id


def test_a_retried_reversal_with_its_key_gets_its_first_result() -> None:
    first = intent(income("5"), ids=1)
    undo = reversal(events_of(decided(first).outcomes[0])[0], Kind.INCOME, 500)
    outcomes = decided(first, intent(undo, key="k"), intent(undo, key="k")).outcomes
    assert [told(outcome) for outcome in outcomes] == [[(1, False)], [(2, False)], [(2, True)]]


def test_every_event_has_its_chain_hash_and_balance() -> None:
    requests = [intent(income("5")), intent(expense("7"), income("1")), intent(limit("100"))]
    previous, balances = genesis_hash(ACCOUNT), []
    for event in decided(*requests).events:
        assert event.hash == chain_hash(previous, event.public_text)
        previous = event.hash
        balances.append(event.balance_minor)
    assert balances == [500, -200, -100, -100]


def test_replays_and_refusals_are_not_written_again() -> None:
    result = decided(*[intent(income("1"), key="k")] * 3, intent(income("2"), key="k"))
    assert len(result.events) == 1
    replays = [outcome for outcome in result.outcomes if not isinstance(outcome, Refused)]
    assert {recorded.stored.event_id for outcome in replays for recorded in _all(outcome)} == {
        result.events[0].event_id
    }


def _all(outcome: Outcome) -> list[Recorded]:
    assert not isinstance(outcome, Exception)
    return outcome


def test_every_event_has_its_own_times() -> None:
    """A time is written once for all events of a batch that share it, and only for those."""
    day, hour = timedelta(days=1), timedelta(hours=1)
    elsewhere = (NOW - day).astimezone(timezone(5 * hour))
    moments = [NOW - day, None, NOW - 2 * day, elsewhere, NOW - day + timedelta(microseconds=1)]
    bulk = intent(*(income(occurred_at=moment) for moment in moments))
    for request in ([bulk], [intent(income(occurred_at=moment)) for moment in moments]):
        events = [read_event(stored.public_text) for stored in decided(*request).events]
        assert [event.recorded_at for event in events] == [NOW] * len(moments)
        assert [
            event.occurred_at for event in events if isinstance(event, TransactionRecorded)
        ] == [moment or NOW for moment in moments]
