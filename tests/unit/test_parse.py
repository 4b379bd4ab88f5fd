"""From the wire to commands: every wrong field of a request is named at once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from saldo.domain.commands import Kind
from saldo.record.parse import (
    BULK_LINES_MAX,
    parse_bulk,
    parse_limit,
    parse_reversal,
    parse_transaction,
    read_ndjson,
    read_plain,
    read_plain_bulk,
)
from saldo.serve.json_body import Malformed, read_json
from saldo.serve.problems import Invalid
from tests.controls import ACCOUNT, income

if TYPE_CHECKING:
    import random

SALARY: dict[str, Any] = {"accountId": ACCOUNT, "type": "INCOME", "value": 1000}


def body(**members: object) -> bytes:
    return json.dumps(SALARY | members).encode()


def faults(members: bytes) -> dict[str, str]:
    """The wrong fields of a request's body."""
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
def test_an_unknown_field_is_named_beside_the_known_ones(name: str) -> None:
    found = faults(body(**{name: "1"}))
    assert list(found) == [name.encode("utf-8", "replace").decode()[:80]]
    assert "accountId" in found.popitem()[1]


@pytest.mark.parametrize("content", [b"[]", b"null", b"5", b'"x"', b"true"])
def test_what_is_no_object_is_refused(content: bytes) -> None:
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


def test_all_that_may_be_said_is_taken() -> None:
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


def test_null_is_as_good_as_absent_for_what_is_optional() -> None:
    nulls = body(currency=None, description=None, metadata=None, occurredAt=None)
    assert parse_transaction(read_json(nulls)) == income("1000")


@pytest.mark.parametrize("account_id", ["a", "0", "A.b_c~d:e@f-g", "9" * 128])
def test_an_account_id_is_of_its_alphabet_and_case_sensitive(account_id: str) -> None:
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
def test_a_lines_own_key_is_checked(key: object) -> None:
    assert bulk_faults([read_json(body(idempotencyKey=key))]) == {(1, "idempotencyKey")}


def test_a_line_may_carry_its_own_key() -> None:
    keyed = read_json(body(idempotencyKey="k"))
    assert parse_bulk([keyed, read_json(body())]) == [(income(), "k"), (income(), None)]


def test_lines_are_read_one_a_line_and_blank_ones_left_out() -> None:
    assert read_ndjson(b'{"a":"1"}\r\n\n  \n{"a":"2"}') == [{"a": "1"}, {"a": "2"}]


def test_malformed_lines_are_named_by_their_places_in_the_answer() -> None:
    with pytest.raises(Invalid) as invalid:
        read_ndjson(b'{}\n\n{"a":\n[]\nNaN\n')
    assert [error.line for error in invalid.value.errors] == [2, 4]


def test_more_lines_than_a_request_may_have_are_not_read_at_all() -> None:
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
def test_a_limit_that_is_none_is_refused(content: bytes, fields: set[str]) -> None:
    with pytest.raises(Invalid) as invalid:
        parse_limit(read_json(content), ACCOUNT)
    assert {error.field for error in invalid.value.errors} == fields


def test_a_limit_may_be_zero_or_lifted() -> None:
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
def test_reversal_may_say_why_and_when(members: object, said: object) -> None:
    assert parse_reversal(members) == said


# --- the quick reader -------------------------------------------------------------------------

SPACES = st.sampled_from(["", " ", "\t\r\n"])
MEMBERS = st.sampled_from(
    ['"accountId"', '"type"', '"value"', '"description"', '"currency"', '"occurredAt"']
    + ['"metadata"', '"other"', '"val\\u0075e"', "value"]
)
JSON_VALUES = st.sampled_from(
    ['"wesley"', '"a:b"', '"INCOME"', '"EXPENSE"', '"GIFT"', "1000", "10.50", "0", "0.0", "007"]
    + ["-1", "1e2", "10.", ".5", "1_0", '"10.50"', "99999999999999999999", "NaN", "null", "true"]
    + ['"BRL"', '"XXX"', '"a: b, \\": c"', '"Caf\u00e9"', '"\x7f"', '"tab\t"', '"\\ud800"']
    + ["{}", '{"a":1}', "[1]", '""', "1.0000000001", '"\u2028"', '"::"']
    + ['"\\u003a"', '"\\u003A\\u003a"', '"\\u00e9 \\n"', '"\\ud83d\\ude00"', '"\\u0031"', '"1e1"']
)
PLAIN = [('"accountId"', '"wesley"'), ('"type"', '"INCOME"'), ('"value"', "10.50")]


@given(
    start=st.sampled_from([0, 1, 3, 3, 3]),
    pairs=st.lists(st.tuples(MEMBERS, JSON_VALUES), max_size=4),
    spaces=st.tuples(SPACES, SPACES, SPACES),
    tail=st.sampled_from(["}", "}", "}", "}}", "", "} x", ",}"]),
    moved=st.randoms(use_true_random=False),
)
@example(start=3, pairs=[('"value"', "5")], spaces=("", " ", ""), tail="}", moved=None)
def test_the_quick_reader_takes_nothing_that_the_general_one_reads_otherwise(
    start: int,
    pairs: list[tuple[str, str]],
    spaces: tuple[str, str, str],
    tail: str,
    moved: random.Random | None,
) -> None:
    before, between, after = spaces
    members = PLAIN[:start] + pairs
    if moved is not None:
        moved.shuffle(members)
    texts = [f"{name}{before}:{between}{text}{after}" for name, text in members]
    content = ("{" + ",".join(texts) + tail).encode("utf-8", "surrogatepass")
    quick = read_plain(content)
    if quick is not None:
        assert quick == parse_transaction(read_json(content))


IMPORT_MEMBERS = [
    ('"occurredAt"', '"2026-11-24T06:00:00Z"'),
    ('"occurredAt"', '"2026-11-24t06:00:00.5+03:00"'),
    ('"occurredAt"', '"2026-11-24T06:00:00"'),
    ('"metadata"', '{"a":"b"}'),
    ('"metadata"', '{"a:":":b","c":""}'),
    ('"metadata"', '{"a":"b","a":"b"}'),
    ('"metadata"', '{"":"b"}'),
    ('"metadata"', '{"a":5}'),
    ('"metadata"', '{"' + "a" * 501 + '":"b"}'),
    ('"metadata"', "{" + ",".join(f'"{n}":"x"' for n in range(21)) + "}"),
    ('"idempotencyKey"', '"k:1"'),
    ('"idempotencyKey"', '" \\"k\\" "'),
    ('"idempotencyKey"', '"\\"k"'),
    ('"idempotencyKey"', '"\u00e9"'),
    ('"idempotencyKey"', '""'),
]
ARRAY, NDJSON = ("[", ",", "]"), ("", "\n", "")
FRAMES = [ARRAY, ARRAY, NDJSON, NDJSON, ("[", "\n", "]"), ("[", ",", ""), ("[", ",", "]]")]
FRAMES += [(" [", " , ", "]\n"), ("\n", "\n\n \n", "\n"), ("", "\r\n", "\x0b"), ("", " ", "")]

LINES = st.tuples(MEMBERS, JSON_VALUES) | st.sampled_from(IMPORT_MEMBERS)


@given(
    lines=st.lists(
        st.tuples(st.sampled_from([0, 3, 3, 3, 3]), st.lists(LINES, max_size=3)),
        max_size=3,
    ),
    frame=st.sampled_from(FRAMES),
    moved=st.randoms(use_true_random=False),
)
@example(lines=[(3, [('"value"', "5")]), (3, [])], frame=ARRAY, moved=None)
@example(lines=[(3, [('"description"', '"\\u003a"'), ('"value"', "5")])], frame=ARRAY, moved=None)
@example(lines=[(3, []), (3, [])], frame=("", "x\n", ""), moved=None)
def test_the_quick_bulk_reader_takes_nothing_that_the_general_one_reads_otherwise(
    lines: list[tuple[int, list[tuple[str, str]]]],
    frame: tuple[str, str, str],
    moved: random.Random | None,
) -> None:
    texts = []
    for start, pairs in lines:
        members = PLAIN[:start] + pairs
        if moved is not None:
            moved.shuffle(members)
        texts.append("{" + ",".join(f"{name}:{text}" for name, text in members) + "}")
    before, between, after = frame
    content = (before + between.join(texts) + after).encode("utf-8", "surrogatepass")
    for ndjson in (False, True):
        quick = read_plain_bulk(content, ndjson=ndjson)
        if quick is not None:
            assert quick == parse_bulk(read_ndjson(content) if ndjson else read_json(content))


@pytest.mark.parametrize(("name", "text"), IMPORT_MEMBERS)
def test_the_quick_bulk_reader_reads_what_an_import_says_as_the_general_one(
    name: str, text: str
) -> None:
    members = [*PLAIN, (name, text)]
    body = "[{" + ",".join(f"{name}:{text}" for name, text in members) + "}]"
    quick = read_plain_bulk(body.encode())
    if quick is not None:
        assert quick == parse_bulk(read_json(body.encode()))


@pytest.mark.parametrize(
    "line",
    [
        b'{"accountId":"wesley","description":"Rent: May","type":"INCOME","value":10.50}',
        b'{"accountId":"a","type":"EXPENSE","value":"10.50","currency":"BRL"}',
        b'{"accountId":"a","type":"EXPENSE","value":1,"occurredAt":"2026-11-24T00:00:00Z"}',
        b'{"accountId":"a","type":"EXPENSE","value":1,"idempotencyKey":"k:1","metadata":{"a:":"b"}}',
        b'{"accountId":"a","type":"EXPENSE","value":7,"description":"Sal\\u00e1rio"}',
    ],
)
def test_the_quick_bulk_reader_takes_what_most_send(line: bytes) -> None:
    """Otherwise it would cost time and save none."""
    for ndjson, body in ((True, line + b"\n\n" + line + b"\n"), (False, b"[" + line + b"]")):
        general = parse_bulk(read_ndjson(body) if ndjson else read_json(body))
        assert read_plain_bulk(body, ndjson=ndjson) == general


@pytest.mark.parametrize("lines", [0, BULK_LINES_MAX, BULK_LINES_MAX + 1])
def test_the_quick_bulk_reader_has_the_general_ones_bound(lines: int) -> None:
    line = b'{"accountId":"a","type":"INCOME","value":1}'
    taken = 1 <= lines <= BULK_LINES_MAX
    array = b"[" + b",".join([line] * lines) + b"]"
    assert (read_plain_bulk(array) is not None) == taken
    assert (read_plain_bulk(b"\n".join([line] * lines), ndjson=True) is not None) == taken


@pytest.mark.parametrize("depth", [1_500, 100_000])
def test_what_nests_too_deeply_is_for_the_general_reader(depth: int) -> None:
    start = b'{"accountId":"a","type":"INCOME","value":'
    for nested in (start + b"[" * depth, b"[" + start + b"[" * depth, b"[" * depth):
        assert read_plain(nested) is None
        assert read_plain_bulk(nested) is None
        assert read_plain_bulk(nested, ndjson=True) is None
        with pytest.raises(Malformed):
            read_json(nested)


@pytest.mark.parametrize(
    "content",
    [
        b'{"accountId":"wesley","type":"INCOME","value":1000}',
        b'{"accountId":"a:b","description":"Rent: May","type":"EXPENSE","value":10.50}',
        b' { "value" : 0.01, "type" : "INCOME", "currency": "BRL", "accountId" : "w" } ',
        '{"accountId":"w","type":"INCOME","value":1,"description":"Caf\u00e9"}'.encode(),
    ],
)
def test_the_quick_reader_takes_what_most_send(content: bytes) -> None:
    """Otherwise it would cost time and save none."""
    quick = read_plain(content)
    assert quick is not None
    assert quick == parse_transaction(read_json(content))


@pytest.mark.parametrize("wrong", [b"\xed\xa0\x80", b"\xff", b"\xc3"])
def test_the_quick_reader_takes_no_text_that_is_not_utf_8(wrong: bytes) -> None:
    content = b'{"accountId":"w","type":"INCOME","value":1,"description":"' + wrong + b'"}'
    assert read_plain(content) is None
    with pytest.raises(Malformed):
        read_json(content)
