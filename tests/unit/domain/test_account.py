"""An account: given events, when a command is decided, then these events or this refusal."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from saldo.domain.account import Account, decide, evolve, new_account
from saldo.domain.commands import Command, Kind, ReverseTransaction
from saldo.domain.errors import (
    AmountOutOfRange,
    BalanceOutOfRange,
    CurrencyMismatch,
    InsufficientFunds,
    NotReversible,
    Refused,
    TooManyDigits,
)
from saldo.domain.events import Event, OverdraftLimitSet, TransactionRecorded
from saldo.domain.money import MINOR_UNITS_MAX
from tests.support.controls import ACCOUNT, BRL, NOW, expense, income, limit, uuid

LARGEST = "92233720368547758.07"


def when(account: Account, command: Command, now: datetime = NOW, number: int = 1) -> Event:
    return decide(
        account,
        command,
        now=now,
        event_id=uuid(number),
        default_currency=BRL,
        private_hash="aa",
    )


def given_events(*commands: Command, account: Account | None = None) -> Account:
    account = account or new_account(ACCOUNT)
    for number, command in enumerate(commands, start=1):
        event = when(account, command, number=number)
        account = evolve(account, event, bytes([number]) * 32)
    return account


def undo(original: TransactionRecorded, reverses: bool = False) -> ReverseTransaction:  # noqa: FBT002 - of one kind or the other
    return ReverseTransaction(
        account_id=ACCOUNT,
        original_id=original.event_id,
        original_kind=original.kind,
        original_amount_minor=original.amount_minor,
        original_reverses=uuid(77) if reverses else None,
    )


@pytest.mark.parametrize(
    ("commands", "command", "refusal"),
    [
        ([], income("0.001"), TooManyDigits),
        ([], income("1e30"), AmountOutOfRange),
        ([income(LARGEST)], income("0.01"), BalanceOutOfRange),
        ([expense(LARGEST)], expense("0.01"), BalanceOutOfRange),
        ([income()], income(currency="USD"), CurrencyMismatch),
        ([limit("0")], expense("0.01"), InsufficientFunds),
        ([limit("5"), income("10")], expense("15.01"), InsufficientFunds),
        ([expense("10"), limit("5")], expense("0.01"), InsufficientFunds),
        ([], limit("0.001"), TooManyDigits),
    ],
)
def test_a_command_against_the_rules_is_refused(
    commands: list[Command], command: Command, refusal: type[Refused]
) -> None:
    with pytest.raises(refusal):
        when(given_events(*commands), command)


def test_a_refused_expense_names_the_available_balance() -> None:
    with pytest.raises(InsufficientFunds) as refused:
        when(given_events(limit("5"), income("10")), expense("15.01"))
    told = refused.value
    assert (told.balance_minor, told.limit_minor, told.position) == (1000, 500, 2)


def test_a_reversal_cannot_be_reversed() -> None:
    original = when(new_account(ACCOUNT), income())
    assert isinstance(original, TransactionRecorded)
    with pytest.raises(NotReversible):
        when(given_events(income()), undo(original, reverses=True))


def test_a_reversal_of_an_income_must_respect_the_limit() -> None:
    original = when(new_account(ACCOUNT), income("10"))
    assert isinstance(original, TransactionRecorded)
    with pytest.raises(InsufficientFunds):
        when(given_events(income("10"), expense("5"), limit("0")), undo(original))


def test_the_first_transaction_decides_the_currency() -> None:
    account = given_events(income("1", currency="KWD"))
    event = when(account, income("0.001"))
    assert isinstance(event, TransactionRecorded)
    assert (event.currency, event.amount_minor) == ("KWD", 1)


def test_an_account_without_a_stated_currency_has_the_default() -> None:
    assert given_events(income()).currency == BRL


def test_an_income_becomes_the_next_event() -> None:
    account = given_events(income("1"), income("2"))
    assert when(account, income("3"), number=9) == TransactionRecorded(
        account_id=ACCOUNT,
        position=3,
        event_id=uuid(9),
        kind=Kind.INCOME,
        amount_minor=300,
        currency=BRL,
        occurred_at=NOW,
        recorded_at=NOW,
        reverses=None,
        private_hash="aa",
    )


def test_occurred_time_is_the_one_the_client_states() -> None:
    before = NOW - timedelta(days=400)
    event = when(new_account(ACCOUNT), income(occurred_at=before))
    assert isinstance(event, TransactionRecorded)
    assert (event.occurred_at, event.recorded_at) == (before, NOW)


def test_undated_event_occurs_now_while_recorded_time_is_held() -> None:
    """The account's last event is from the future; the client says nothing of when it was."""
    account = evolve(
        new_account(ACCOUNT), when(new_account(ACCOUNT), income(), NOW + timedelta(days=400)), b""
    )
    original = when(account, income())
    assert isinstance(original, TransactionRecorded)
    for event in (original, when(account, undo(original))):
        assert isinstance(event, TransactionRecorded)
        assert (event.occurred_at, event.recorded_at) == (NOW, NOW + timedelta(days=400))


@pytest.mark.parametrize("kind", list(Kind))
def test_a_reversal_is_the_opposite_of_its_original(kind: Kind) -> None:
    command = replace(income("7"), kind=kind)
    original = when(new_account(ACCOUNT), command)
    assert isinstance(original, TransactionRecorded)
    account = given_events(command)
    event = when(account, undo(original), number=2)
    assert isinstance(event, TransactionRecorded)
    assert (event.kind, event.amount_minor) == (kind.opposite, 700)
    assert event.reverses == original.event_id
    assert evolve(account, event, b"").balance_minor == 0


@pytest.mark.parametrize(("value", "limit_minor"), [("0", 0), ("12.5", 1250), (None, None)])
def test_a_limit_becomes_an_event_and_moves_no_money(
    value: str | None, limit_minor: int | None
) -> None:
    account = given_events(income("3"), limit("1"))
    event = when(account, limit(value))
    assert isinstance(event, OverdraftLimitSet)
    after = evolve(account, event, b"h")
    assert (after.overdraft_limit_minor, after.balance_minor) == (limit_minor, 300)
    assert (after.position, after.hash) == (3, b"h")


def test_an_income_is_accepted_below_the_limit() -> None:
    account = given_events(expense("10"), limit("0"))
    assert given_events(income("1"), account=account).balance_minor == -900


def test_a_balance_may_reach_either_end_of_the_integer() -> None:
    assert given_events(income(LARGEST)).balance_minor == MINOR_UNITS_MAX
    assert given_events(expense(LARGEST)).balance_minor == -MINOR_UNITS_MAX


# --- any sequence of commands -----------------------------------------------------------------

VALUES = st.one_of(
    st.integers(1, 3000).map(lambda minor: f"{minor // 100}.{minor % 100:02d}"),
    st.sampled_from([LARGEST, "46116860184273879.03"]),
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    VALUES.map(income), VALUES.map(expense), st.none().map(limit), VALUES.map(limit)
)
# The store's clock may be set back, and another server's may be behind.
CLOCKS = st.integers(-86_400, 86_400).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(st.lists(st.tuples(COMMANDS, CLOCKS), max_size=30))
def test_any_commands_leave_a_consistent_stream(asked: list[tuple[Command, datetime]]) -> None:
    """The balance is the events' sum, positions have no gap, time and limits hold."""
    account = new_account(ACCOUNT)
    events: list[Event] = []
    for command, now in asked:
        try:
            event = when(account, command, now, len(events))
        except Refused:
            continue
        before, account = account, evolve(account, event, b"")
        events.append(event)
        if isinstance(event, TransactionRecorded):
            assert event.occurred_at == now
            held_to = account.overdraft_limit_minor
            if event.kind is Kind.EXPENSE and held_to is not None:
                assert account.balance_minor >= -held_to
            assert account.balance_minor - before.balance_minor == event.signed_minor
        assert before.recorded_at is None or event.recorded_at >= before.recorded_at
        assert event.recorded_at >= now or event.recorded_at == before.recorded_at
        assert -MINOR_UNITS_MAX <= account.balance_minor <= MINOR_UNITS_MAX
    recorded = [event for event in events if isinstance(event, TransactionRecorded)]
    assert account.balance_minor == sum(event.signed_minor for event in recorded)
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    assert account.position == len(events)
