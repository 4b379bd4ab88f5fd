"""The preparation of a request before any lock: ids, private texts, keyed hashes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from saldo.domain.commands import Command, Kind
from saldo.domain.events import private_hash, request_hash
from saldo.record.intent import (
    ID_RANDOM_BYTES,
    SALT_BYTES,
    EventKey,
    Key,
    Line,
    Origin,
    canonical,
    keyed_hash,
    new_event_id,
    prepare_line,
    prepare_lines,
)
from saldo.serve.http.request import parse_time
from tests.support.controls import (
    ACCOUNT,
    NOW,
    SECRET,
    expense,
    income,
    limit,
    reversal,
    stored_stream,
)

if TYPE_CHECKING:
    from random import Random

ORIGINAL = stored_stream(income("5"))[0]


def prepared(command: Command, key: Key | None = None) -> Line:
    return prepare_line(command, origin(key))


def origin(key: Key | None) -> Origin:
    return Origin(secret=SECRET, issuer="issuer", subject="subject", idempotency_key=key)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (income("1"), income("1.00")),
        (income("10e-1"), income("1")),
        (income(metadata={"a": "1", "b": "2"}), income(metadata={"b": "2", "a": "1"})),
        (income(occurred_at=NOW), income(occurred_at=NOW.astimezone(timezone(timedelta(hours=5))))),
        (limit("5.0"), limit("5")),
        (
            income(occurred_at=parse_time("2026-11-24T06:00:00.123456Z")),
            income(occurred_at=parse_time("2026-11-24T06:00:00.123456789Z")),
        ),
    ],
)
def test_equal_commands_have_one_canonical_text(one: Command, other: Command) -> None:
    assert canonical(one) == canonical(other)
    assert prepared(one, "k").fingerprint == prepared(other, "k").fingerprint


def test_unequal_commands_have_unequal_texts() -> None:
    base = income("1")
    commands: list[Command] = [
        base,
        expense("1"),
        income("2"),
        replace(base, account_id="other"),
        replace(base, currency="BRL"),
        replace(base, description=""),
        replace(base, description="x"),
        replace(base, metadata={"a": "1"}),
        replace(base, occurred_at=NOW),
        replace(base, occurred_at=NOW + timedelta(microseconds=1)),
        limit("1"),
        limit("0"),
        limit(None),
        replace(limit("1"), currency="BRL"),
        reversal(ORIGINAL, Kind.INCOME, 500),
        replace(reversal(ORIGINAL, Kind.INCOME, 500), description="x"),
        replace(reversal(ORIGINAL, Kind.INCOME, 500), occurred_at=NOW),
    ]
    assert len({canonical(command) for command in commands}) == len(commands)


TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@example(
    description="\x1f",
    metadata={"\x1f": "\x1f"},
    currency=None,
    key=None,
    occurred_at=EPOCH + timedelta(microseconds=1),
)
@given(
    description=TEXTS,
    metadata=st.dictionaries(st.text('a"é', max_size=2), st.text("b\\")),
    currency=st.sampled_from([None, "BRL"]),
    key=st.none() | st.text('k"\\ ', min_size=1),
    occurred_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)
def test_texts_are_those_of_pythons_encoder(
    description: str | None,
    metadata: dict[str, str],
    currency: str | None,
    key: str | None,
    occurred_at: datetime | None,
) -> None:
    """A stored fingerprint is compared with one made by any later version."""
    command = replace(income("10.50"), description=description, metadata=metadata)
    command = replace(command, currency=currency, occurred_at=occurred_at)

    def encoded(members: object) -> str:
        return json.dumps(members, ensure_ascii=False, separators=(",", ":"))

    assert canonical(command) == encoded(
        ["record", ACCOUNT, "INCOME", "105e-1", currency, description]
        + [dict(sorted(metadata.items())), occurred_at and occurred_at.timestamp()]
    )
    line = prepared(command, key)
    members = json.loads(line.private_text)
    assert line.private_text == encoded(members)
    assert list(members) == (
        ["description", "metadata", "issuer", "subject", "idempotencyKey", "fingerprint", "salt"]
    )
    assert (members["description"], members["metadata"]) == (description, metadata)
    assert members["idempotencyKey"] == key


@given(secret=st.binary(min_size=32, max_size=80), parts=st.lists(st.text("aé"), min_size=1))
def test_the_keyed_hash_is_blake2b_under_the_secret(secret: bytes, parts: list[str]) -> None:
    text = "\0".join(parts).encode()
    expected = hashlib.blake2b(text, key=secret[:64], digest_size=16).digest()
    assert keyed_hash(secret, *parts) == expected


def test_the_keyed_hash_depends_on_secret_and_parts() -> None:
    assert keyed_hash(SECRET, "ab", "c") == keyed_hash(SECRET, "ab", "c")
    others = {keyed_hash(SECRET, *parts) for parts in [("a", "bc"), ("abc",), ("c", "ab")]}
    others.add(keyed_hash(bytes(32), "ab", "c"))
    assert len(others | {keyed_hash(SECRET, "ab", "c")}) == 5


def test_a_key_is_hashed_with_its_account() -> None:
    here, there = prepared(income(), "k"), prepared(income(account_id="other"), "k")
    assert here.key_hash != there.key_hash
    assert here.key_hash == prepared(expense(), "k").key_hash


KEY_TEXTS = st.text("ab ", min_size=1, max_size=5)


@example(one=EventKey("/pay roll", "7"), other=EventKey("/pay", "roll 7"))
@example(one="/payroll 7", other=EventKey("/payroll", "7"))
@given(
    one=KEY_TEXTS | st.builds(EventKey, KEY_TEXTS, KEY_TEXTS),
    other=KEY_TEXTS | st.builds(EventKey, KEY_TEXTS, KEY_TEXTS),
)
def test_unequal_keys_have_unequal_hashes(one: Key, other: Key) -> None:
    """Those of clients and of events, and what an earlier version recorded is neither's."""
    here, there = (prepared(income(), key) for key in (one, other))
    assert (here.key_hash == there.key_hash) == (one == other)
    assert here.key_hash != there.old_key_hash


def test_the_old_hash_of_a_key_is_that_of_its_text() -> None:
    for key in (EventKey("/payroll", "7"), "/payroll 7"):
        assert prepared(income(), key).old_key_hash == keyed_hash(SECRET, ACCOUNT, "/payroll 7")
    plain = prepared(income(), "k")
    assert (plain.key_hash, plain.old_key_hash) == (keyed_hash(SECRET, ACCOUNT, "k"), None)


def test_without_a_key_there_is_no_fingerprint() -> None:
    line = prepared(income())
    assert (line.key_hash, line.fingerprint, line.request_hash) == (None, None, None)


def test_the_private_text_holds_the_erasable_fields() -> None:
    line = prepared(income(description="Café", metadata={"a": "b"}), "key")
    private = json.loads(line.private_text)
    salt = bytes.fromhex(private.pop("salt"))
    assert line.private_hash == private_hash(salt, line.private_text)
    fingerprint = (line.fingerprint or b"").hex()
    assert private == {
        "description": "Café",
        "metadata": {"a": "b"},
        "issuer": "issuer",
        "subject": "subject",
        "idempotencyKey": "key",
        "fingerprint": fingerprint,
    }


def test_equal_private_texts_have_unequal_hashes() -> None:
    assert len({prepared(income(description="rent")).private_hash for _ in range(20)}) == 20


def test_an_event_id_is_a_uuid_7_of_the_moment() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_event_id(os.urandom(ID_RANDOM_BYTES)) for _ in range(100)]
    after = time.time_ns() // 1_000_000
    assert {(each.version, each.variant) for each in ids} == {(7, "specified in RFC 4122")}
    assert all(before <= each.int >> 80 <= after for each in ids)
    assert len(set(ids)) == 100


COMMANDS = st.sampled_from(
    [income(), income("2", "b"), expense("3"), income(description='a"b', metadata={"c": "d"})]
)


@given(
    commands=st.lists(st.tuples(COMMANDS, st.sampled_from([None, "k", "l"])), min_size=1),
    random=st.randoms(use_true_random=False),
)
def test_lines_of_a_bulk_equal_single_requests(
    commands: list[tuple[Command, str | None]], random: Random
) -> None:
    """All but their ids, which tell the time, too."""
    chance = [random.randbytes(SALT_BYTES + ID_RANDOM_BYTES) for _ in commands]
    drawn = iter(chance)
    lines = prepare_lines(commands, origin(None), random=lambda _: next(drawn))
    for line, (command, key), own in zip(lines, commands, chance, strict=True):
        single = prepare_line(command, origin(key), random=lambda _, own=own: own)  # type: ignore[misc]
        assert line == replace(single, event_id=line.event_id)
        low = (1 << 62) - 1
        assert line.event_id.int & low == int.from_bytes(own, "big") & low


def test_a_key_of_a_bulk_request_numbers_its_lines() -> None:
    commands: list[tuple[Command, str | None]] = [(income(), None), (income("2", "b"), None)]
    lines = prepare_lines(commands, origin("k"))
    assert len({line.event_id for line in lines}) == len(lines)
    assert len({json.loads(line.private_text)["salt"] for line in lines}) == len(lines)
    whole = keyed_hash(SECRET, "bulk", canonical(income()), canonical(income("2", "b")))
    for number, line in enumerate(lines, start=1):
        assert (line.key_line, line.fingerprint) == (number, whole)
        key_hash = keyed_hash(SECRET, line.command.account_id, "k")
        assert line.key_hash == key_hash
        assert line.request_hash == request_hash(key_hash, number, whole)
        private = json.loads(line.private_text)
        assert (private["idempotencyKey"], private["fingerprint"]) == ("k", whole.hex())


def test_an_intent_touches_the_accounts_of_its_lines() -> None:
    assert prepared(income()).command.account_id == ACCOUNT
