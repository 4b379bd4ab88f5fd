"""The step from the wire to commands: every wrong field of a request is named at once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from saldo.domain.commands import Kind
from saldo.record.requests import (
    BULK_LINES_MAX,
    parse_bulk,
    parse_limit,
    parse_reversal,
    parse_transaction,
    read_ndjson,
)
from saldo.serve.http.json_reader import read_json
from saldo.serve.http.problems import Invalid
from tests.support.controls import ACCOUNT, income

SALARY: dict[str, Any] = {"accountId": ACCOUNT, "type": "INCOME", "value": 1000}


def body(**members: object) -> bytes:
    return json.dumps(SALARY | members).encode()


def faults(members: bytes) -> dict[str, str]:
    """Return the wrong fields of a request body."""
    with pytest.raises(Invalid) as invalid:
        parse_transaction(read_json(members))
    return {error.field: error.message for error in invalid.value.errors}


WRONG: dict[str, list[object]] = {
    "accountId": ["", " wesley", "-wesley", "we sley", "wésley", "a" * 129, "a/b", "a\n", "a\0"]
    + ["\ud800", None, 5, True, ["a"], {}],
    "type": ["", "income", "GIFT", None, 1, True, ["INCOME"], {"a": 1}],
    "value": [None, True, [1], {}, "", "x", 0, -1, "-1", "1e41", 0.0, "9" * 65, "1e9999999"]
    + ["NaN", "Infinity", "1,5", "\u0661"],
    "currency": ["", "brl", "XXX", "BR", 986, True, ["BRL"], {}],
    "description": [5, True, [], {}, "a" * 501, "a\0b", "a\nb", "a\x1fb", "\x7f", "\x85"]
    + ["\ud800", "a\udfffb"],
    "occurredAt": ["", "yesterday", 5, True, [], "2026-11-24", "9" * 30],
    "metadata": ["", 5, True, [], {str(number): "" for number in range(21)}],
}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [(field, wrong) for field, several in WRONG.items() for wrong in several],
    ids=lambda part: ascii(part)[:30],
)
def test_a_wrong_field_is_named(field: str, wrong: object) -> None:
    assert list(faults(body(**{field: wrong}))) == [field]


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"a": 1}, "metadata.a"),
        ({"a": None}, "metadata.a"),
        ({"a": {"b": "c"}}, "metadata.a"),
        ({"a": "x" * 501}, "metadata.a"),
        ({"a": "\0"}, "metadata.a"),
        ({"a": "\ud800"}, "metadata.a"),
        ({"": "x"}, "metadata."),
        ({"a\0": "x"}, "metadata.a\0"),
        ({"\ud800": "x"}, "metadata.?"),
        ({"k" * 501: "x"}, "metadata." + "k" * 80),
    ],
    ids=lambda part: ascii(part)[:30],
)
def test_a_wrong_member_of_the_metadata_is_named(metadata: dict[str, object], field: str) -> None:
    assert list(faults(body(metadata=metadata))) == [field]


@pytest.mark.parametrize("name", ["amount", "Value", "\ud800", "idempotencyKey", "a" * 200])
def test_an_unknown_field_is_named_with_the_known_ones(name: str) -> None:
    found = faults(body(**{name: "1"}))
    assert list(found) == [name.encode("utf-8", "replace").decode()[:80]]
    assert "accountId" in found.popitem()[1]


def test_only_the_first_unknown_field_is_named() -> None:
    """A body may hold hundreds of thousands, each of which would become an error."""
    assert list(faults(body(first=1, second=2))) == ["first"]


@pytest.mark.parametrize("content", [b"[]", b"null", b"5", b'"x"', b"true"])
def test_a_body_that_is_no_object_is_refused(content: bytes) -> None:
    assert list(faults(content)) == ["body"]


def test_every_wrong_field_is_named_at_once() -> None:
    wrong = body(
        accountId="-", type="x", value=-1, currency="x", description=1, occurredAt=1, unknown=1
    )
    assert set(faults(wrong)) == {
        *("accountId", "type", "value", "currency", "description", "occurredAt", "unknown")
    }


def test_missing_fields_and_wrong_ones_are_named_together() -> None:
    """However few members there are, and whichever are missing."""
    assert set(faults(b"{}")) == {"accountId", "type", "value"}
    three = b'{"accountId":"a","description":5,"currency":"x"}'
    assert set(faults(three)) == {"type", "value", "description", "currency"}
    assert set(faults(b'{"accountId":"a","typ":"INCOME"}')) == {"type", "value", "typ"}


@pytest.mark.parametrize("value", [1000, "1000", "1000.00", 1000.0, "1e3"])
def test_value_is_a_number_or_its_text(value: object) -> None:
    assert parse_transaction(read_json(body(value=value))) == income("1000")


def test_a_number_beyond_2_to_the_53_is_exact() -> None:
    content = b'{"accountId":"a","type":"INCOME","value":9007199254740993.01}'
    command = parse_transaction(read_json(content))
    assert command.value.to_minor("BRL") == 900719925474099301


def test_every_optional_field_is_read() -> None:
    command = parse_transaction(
        read_json(
            body(
                type="EXPENSE",
                currency="KWD",
                description="Café \U0001f600 \u202f" + "a" * 490,
                metadata={str(n): "x" * 500 for n in range(20)},
                occurredAt="2026-11-24T03:00:00-03:00",
            )
        )
    )
    assert (command.kind, command.currency) == (Kind.EXPENSE, "KWD")
    assert command.description == "Café \U0001f600 \u202f" + "a" * 490
    assert len(command.metadata) == 20
    assert command.occurred_at == datetime(2026, 11, 24, 6, tzinfo=UTC)


def test_null_equals_absent_for_an_optional_field() -> None:
    nulls = body(currency=None, description=None, metadata=None, occurredAt=None)
    assert parse_transaction(read_json(nulls)) == income("1000")


@pytest.mark.parametrize("account_id", ["a", "0", "A.b_c~d:e@f-g", "9" * 128])
def test_an_account_id_is_case_sensitive(account_id: str) -> None:
    assert parse_transaction(read_json(body(accountId=account_id))).account_id == account_id


# --- bulk -------------------------------------------------------------------------------------


def bulk_faults(items: list[Any]) -> set[tuple[int | None, str]]:
    with pytest.raises(Invalid) as invalid:
        parse_bulk(items)
    return {(error.line, error.field) for error in invalid.value.errors}


@pytest.mark.parametrize("lines", [0, BULK_LINES_MAX + 1])
def test_a_bulk_request_has_a_bounded_number_of_lines(lines: int) -> None:
    assert bulk_faults([SALARY] * lines) == {(None, "body")}


def test_every_wrong_field_of_every_line_is_named() -> None:
    good = read_json(body())
    lines = [good, read_json(body(value=0)), 5, read_json(body(type="x", idempotencyKey=5))]
    assert bulk_faults(lines) == {(2, "value"), (3, "body"), (4, "type"), (4, "idempotencyKey")}


@pytest.mark.parametrize("key", ["", 5, True, [], "é", "x" * 256, '"a'])
def test_the_key_of_a_line_is_checked(key: object) -> None:
    assert bulk_faults([read_json(body(idempotencyKey=key))]) == {(1, "idempotencyKey")}


def test_a_line_may_have_its_own_key() -> None:
    keyed = read_json(body(idempotencyKey="k"))
    assert parse_bulk([keyed, read_json(body())]) == [(income(), "k"), (income(), None)]


def test_ndjson_lines_are_read_without_the_blank_ones() -> None:
    assert read_ndjson(b'{"a":"1"}\r\n\n  \n{"a":"2"}') == [{"a": "1"}, {"a": "2"}]


def test_malformed_lines_are_named_by_their_index() -> None:
    with pytest.raises(Invalid) as invalid:
        read_ndjson(b'{}\n\n{"a":\n[]\nNaN\n')
    assert [error.line for error in invalid.value.errors] == [2, 4]


def test_too_many_lines_are_refused_unread() -> None:
    """Each malformed one would become an error object: eight megabytes of them, millions."""
    with pytest.raises(Invalid) as invalid:
        read_ndjson(b"x\n" * (BULK_LINES_MAX + 1))
    assert [error.line for error in invalid.value.errors] == [None]


# --- limit and reversal -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (b"[]", {"body"}),
        (b"{}", {"overdraftLimit"}),
        (b'{"overdraftLimit":-1}', {"overdraftLimit"}),
        (b'{"overdraftLimit":"x","currency":"x","more":1}', {"overdraftLimit", "currency", "more"}),
        (b'{"overdraftLimit":true}', {"overdraftLimit"}),
    ],
)
def test_a_malformed_limit_is_refused(content: bytes, fields: set[str]) -> None:
    with pytest.raises(Invalid) as invalid:
        parse_limit(read_json(content), ACCOUNT)
    assert {error.field for error in invalid.value.errors} == fields


def test_a_limit_may_be_zero_or_removed() -> None:
    assert parse_limit(read_json(b'{"overdraftLimit":null}'), ACCOUNT).limit is None
    zero = parse_limit(read_json(b'{"overdraftLimit":0}'), ACCOUNT).limit
    assert zero is not None
    assert zero.coefficient == 0


@pytest.mark.parametrize(
    "members", [[], None, {"description": 5}, {"reason": "x"}, {"occurredAt": "yesterday"}]
)
def test_malformed_reversal_is_refused(members: object) -> None:
    with pytest.raises(Invalid):
        parse_reversal(members)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({}, (None, None)),
        ({"description": "x"}, ("x", None)),
        ({"occurredAt": "2026-11-24T06:00:00Z"}, (None, datetime(2026, 11, 24, 6, tzinfo=UTC))),
    ],
)
def test_reversal_may_have_a_reason_and_a_time(members: object, said: object) -> None:
    assert tuple(parse_reversal(members).values()) == said
