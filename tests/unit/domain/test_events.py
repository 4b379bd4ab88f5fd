"""The public text of an event: exact, chained, and read back equal."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saldo.domain.commands import ACCOUNT_ID, Kind
from saldo.domain.errors import Unreadable
from saldo.domain.events import (
    SCHEMA_NEWEST,
    Event,
    OverdraftLimitSet,
    TransactionRecorded,
    chain_hash,
    format_time,
    genesis_hash,
    private_hash,
    public_text,
    read_event,
)
from saldo.domain.money import CURRENCY_DIGITS, MINOR_UNITS_MAX
from tests.support.controls import NOW, uuid

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMES = st.datetimes(
    datetime(1900, 1, 1),  # noqa: DTZ001 - the zone is added below
    datetime(2200, 1, 1),  # noqa: DTZ001 - the same
    timezones=st.just(UTC),
)
COMMON: Mapping[str, st.SearchStrategy[Any]] = {
    "account_id": st.from_regex(ACCOUNT_ID, fullmatch=True),
    "position": st.integers(1, 2**63 - 1),
    "event_id": st.uuids(),
    "currency": st.sampled_from(sorted(CURRENCY_DIGITS)),
    "recorded_at": TIMES,
    "private_hash": st.binary(min_size=32, max_size=32).map(bytes.hex),
    "request_hash": st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
}
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        TransactionRecorded,
        kind=st.sampled_from(Kind),
        amount_minor=st.integers(1, MINOR_UNITS_MAX),
        occurred_at=TIMES,
        reverses=st.none() | st.uuids(),
        **COMMON,
    ),
    st.builds(OverdraftLimitSet, limit_minor=st.none() | st.integers(0, MINOR_UNITS_MAX), **COMMON),
)

SALARY = TransactionRecorded(
    account_id="wesley",
    position=1,
    event_id=uuid(1),
    kind=Kind.INCOME,
    amount_minor=100000,
    currency="BRL",
    occurred_at=NOW - timedelta(days=1),
    recorded_at=NOW,
    reverses=None,
    private_hash="ab" * 32,
    request_hash=None,
)
SALARY_TEXT = (
    '{"schema":2,"account":"wesley","position":1,"id":"00000000-0000-0000-0000-000000000001",'
    '"type":"transaction-recorded","kind":"INCOME","amountMinor":100000,"currency":"BRL",'
    '"occurredAt":"2026-11-23T06:30:15.123456Z","recordedAt":"2026-11-24T06:30:15.123456Z",'
    '"reverses":null,"privateHash":"' + "ab" * 32 + '","requestHash":null}'
)


def changed(**members: object) -> str:
    return json.dumps(json.loads(SALARY_TEXT) | members)


def without(name: str) -> str:
    return json.dumps({n: v for n, v in json.loads(SALARY_TEXT).items() if n != name})


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "5", '"x"', "{", "{}", changed(schema=SCHEMA_NEWEST + 1), changed(schema=0)]
    + [changed(schema="1"), changed(schema=None), changed(type="account-closed")]
    + [changed(id="x"), changed(recordedAt="yesterday"), changed(kind="GIFT"), changed(id=5)]
    + [changed(amountMinor="5"), changed(amountMinor=1.5), changed(position="1")]
    + [changed(amountMinor=None), changed(amountMinor=2**63), changed(currency=5)]
    + [changed(type="limit-set", limitMinor="7")]
    + [without(name) for name in json.loads(SALARY_TEXT)],
)
def test_an_unknown_event_text_is_unreadable_with_a_reason(text: str) -> None:
    with pytest.raises(Unreadable) as unreadable:
        read_event(text)
    assert str(unreadable.value)


def test_the_public_text_is_exact_to_the_byte() -> None:
    """It is hashed and kept for ever: neither a member nor their order may ever change."""
    assert public_text(SALARY) == SALARY_TEXT


def test_the_text_of_a_limit_is_exact_to_the_byte() -> None:
    event = OverdraftLimitSet(
        account_id="wesley",
        position=2,
        event_id=uuid(2),
        limit_minor=None,
        currency="BRL",
        recorded_at=NOW,
        private_hash="cd",
        request_hash="ef",
    )
    assert public_text(event) == (
        '{"schema":2,"account":"wesley","position":2,"id":"00000000-0000-0000-0000-000000000002",'
        '"type":"limit-set","limitMinor":null,"currency":"BRL",'
        '"recordedAt":"2026-11-24T06:30:15.123456Z","privateHash":"cd","requestHash":"ef"}'
    )


def test_a_text_of_schema_1_is_still_read() -> None:
    text = SALARY_TEXT.replace('"schema":2', '"schema":1').replace(',"requestHash":null', "")
    assert read_event(text) == SALARY


@given(EVENTS)
def test_every_event_is_valid_json_and_read_back_equal(event: Event) -> None:
    text = public_text(event)
    assert json.dumps(json.loads(text), separators=(",", ":")) == text
    assert read_event(text) == event


def test_the_chain_starts_from_the_account_and_hashes_the_texts() -> None:
    genesis = hashlib.sha256(b"wesley").digest()
    assert genesis_hash("wesley") == genesis
    expected = hashlib.sha256(genesis + SALARY_TEXT.encode()).digest()
    assert chain_hash(genesis, SALARY_TEXT) == expected


@given(st.binary(min_size=32, max_size=32), st.integers(0, len(SALARY_TEXT) - 1))
def test_any_change_of_text_or_predecessor_changes_the_hash(previous: bytes, place: int) -> None:
    other = SALARY_TEXT[:place] + chr(ord(SALARY_TEXT[place]) ^ 1) + SALARY_TEXT[place + 1 :]
    assert chain_hash(previous, other) != chain_hash(previous, SALARY_TEXT)
    assert chain_hash(bytes(32), SALARY_TEXT) == chain_hash(previous, SALARY_TEXT) or any(previous)


def test_the_private_hash_needs_the_salt() -> None:
    salt, text = b"\x01" * 16, '{"description":"Salário"}'
    assert private_hash(salt, text) == hashlib.sha256(salt + text.encode()).hexdigest()
    assert private_hash(b"\x02" * 16, text) != private_hash(salt, text)


@pytest.mark.parametrize(
    "moment",
    [NOW, NOW.astimezone(timezone(timedelta(hours=-3))), NOW.astimezone(timezone.max)],
)
def test_times_are_written_in_utc_with_six_digits(moment: datetime) -> None:
    assert format_time(moment) == "2026-11-24T06:30:15.123456Z"
    assert format_time(moment.replace(microsecond=0)).endswith("15.000000Z")
