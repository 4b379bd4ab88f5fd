"""The JSON reader: exact numbers, no repeated members, bounded work."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saldo.record.requests import BULK_LINES_MAX, parse_bulk, parse_transaction, read_ndjson
from saldo.serve.http.json_reader import MEMBERS_MAX, VALUES_MAX, Malformed, Number, read_json
from saldo.serve.http.problems import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "line 1"),
        (b"{", "line 1"),
        (b'{"a":1}x', "Extra data"),
        (b'{"a":\n  tru}', "line 2, column 3"),
        (b'{"value":NaN}', "NaN is not a JSON number"),
        (b'{"value":Infinity}', "Infinity is not"),
        (b'{"value":-Infinity}', "-Infinity is not"),
        (b'{"value":01}', "line 1"),
        (b'{"value":1,"value":2}', 'the member "value" stands twice'),
        (b'[{"a":{"b":1,"c":2,"b":3}}]', 'the member "b" stands twice'),
        (b'{"a":1,"\\u0061":2}', 'the member "a" stands twice'),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "line 1"),
        (b"[" * 100_000, "nests too deeply"),
        (b'{"a":' * 100_000, "nests too deeply"),
        (b'{"a":"\x01"}', "control character"),
    ],
    ids=lambda part: str(part[:24]),
)
def test_invalid_json_is_refused_with_its_position(body: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message.replace(".", r"\.")):
        read_json(body)


@pytest.mark.parametrize(
    "text", ["9007199254740993", "0.1", "1.00", "1e400", "-0", "1E+2", "9" * 5000]
)
def test_a_number_is_kept_as_its_text(text: str) -> None:
    number = read_json(f'{{"value":{text}}}'.encode())["value"]
    assert (number, type(number)) == (text, Number)


def test_a_string_of_digits_is_told_apart_from_a_number() -> None:
    text, number = read_json(b'["12",12]')
    assert (type(text), type(number)) == (str, Number)


JSON = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_other_json_is_read_as_usual(value: object) -> None:
    assert read_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_any_other_body_is_refused(body: bytes) -> None:
    with contextlib.suppress(Malformed):
        read_json(body)


# --- what a body may cost ---------------------------------------------------------------------


def members(count: int, *, same: bool = False) -> bytes:
    """Return an object of ``count`` members with different names, or all with the same."""
    texts = (f'"{0 if same else number:07}":1' for number in range(count))
    return ("{" + ",".join(texts) + "}").encode()


def repeated_at_the_end(count: int) -> bytes:
    """Return an object whose last member only is repeated."""
    return members(count)[:-1] + b',"%07d":2}' % (count - 1)


BODIES: dict[str, Callable[[int], bytes]] = {
    "unknown members": members,
    "one member again and again": lambda count: members(count, same=True),
    "a member repeated at the end": repeated_at_the_end,
    "members of the metadata": lambda count: b'{"metadata":' + members(count) + b"}",
    "a list of one object": lambda count: b"[" + members(count) + b"]",
    "a list of numbers": lambda count: b"[" + b"0," * count + b"0]",
    "a list of objects": lambda count: b"[" + b"{}," * count + b"{}]",
    "an open string of quotes": lambda count: b'["' + b'\\"' * count,
    "a string of commas": lambda count: b'{"description":"' + b"," * (4 * count) + b'"}',
    "lines of objects": lambda count: b"{}\n" * (count // 20),
    "long names": lambda count: b'{"' + b"n" * (4 * count) + b'":1}',
}
READERS: dict[str, Callable[[bytes], object]] = {
    "json": lambda body: _parse(read_json(body)),
    "ndjson": lambda body: parse_bulk(read_ndjson(body)),
}


def _parse(content: object) -> object:
    return parse_bulk(content) if isinstance(content, list) else parse_transaction(content)


TRIES_MAX = 20
# The noise of the clock and of a cold cache.
CLOCK_S = 0.02


def cpu_s(read: Callable[[bytes], object], body: bytes) -> float:
    """Return the CPU seconds that refusing ``body`` takes."""
    began = time.process_time()
    with pytest.raises((Malformed, Invalid)):
        read(body)
    return time.process_time() - began


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("reader", READERS)
def test_reading_takes_linear_time(name: str, reader: str) -> None:
    """The least of some tries: a quadratic step costs four times as much in each of them.

    A neighbour that takes the cache may make one try look worse, but never all.
    """
    read = READERS[reader]
    once_body, twice_body = (BODIES[name](count) for count in (140_000, 280_000))
    once = twice = float("inf")
    # When the collector runs, and how long, depends on what other tests have left behind.
    gc.disable()
    try:
        for _ in range(TRIES_MAX):
            once = min(once, cpu_s(read, once_body))
            twice = min(twice, cpu_s(read, twice_body))
            if twice <= max(2.5 * once, CLOCK_S):
                break
    finally:
        gc.enable()
    assert twice <= max(2.5 * once, CLOCK_S)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"0," * VALUES_MAX + b"0]",
        b"[" + b"{}," * VALUES_MAX + b"{}]",
        b"[" + b"[[]]," * VALUES_MAX + b"0]",
        members(700_000),
    ],
    ids=["numbers", "objects", "arrays", "members"],
)
def test_too_many_values_are_refused_unread(body: bytes) -> None:
    with pytest.raises(Malformed, match="more than 300000 values"):
        read_json(body)
    with pytest.raises(Malformed, match="more than 300000 values"):
        read_ndjson(body)


def test_an_object_of_too_many_members_is_refused_early() -> None:
    assert len(read_json(members(MEMBERS_MAX))) == MEMBERS_MAX
    with pytest.raises(Malformed, match="more than 100 members"):
        read_json(members(MEMBERS_MAX + 1))


def test_commas_in_texts_are_not_counted() -> None:
    text = ',[{\\"' * VALUES_MAX
    assert len(read_json(b'{"a":"' + text.encode() + b'"}')["a"]) == 4 * VALUES_MAX


def test_the_largest_bulk_request_is_within_the_value_limit() -> None:
    line = {
        "accountId": "a",
        "type": "INCOME",
        "value": "1",
        "currency": "BRL",
        "description": "d",
        "occurredAt": "2026-11-24T06:00:00Z",
        "idempotencyKey": "k",
        "metadata": {str(number): "x" for number in range(20)},
    }
    body = json.dumps([line] * BULK_LINES_MAX).encode()
    assert len(parse_bulk(read_json(body))) == BULK_LINES_MAX
