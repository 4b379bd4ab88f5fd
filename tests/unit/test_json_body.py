"""JSON that a stranger wrote: exact numbers, nothing twice, no surprises."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saldo.serve.json_body import Malformed, Number, read_json


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
def test_what_is_not_plain_json_is_refused_with_its_place(body: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message.replace(".", r"\.")):
        read_json(body)


@pytest.mark.parametrize(
    "text", ["9007199254740993", "0.1", "1.00", "1e400", "-0", "1E+2", "9" * 5000]
)
def test_a_number_arrives_as_its_text(text: str) -> None:
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
def test_all_else_is_read_as_json_says(value: object) -> None:
    assert read_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_no_body_does_more_than_be_refused(body: bytes) -> None:
    with contextlib.suppress(Malformed):
        read_json(body)
