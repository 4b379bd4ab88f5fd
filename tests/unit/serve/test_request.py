"""The parts of a request that the functions read: parameters, headers, times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from saldo.domain.tag import Tag
from saldo.serve.http.problems import Invalid
from saldo.serve.http.request import (
    Request,
    idempotency_key_of,
    if_match_of,
    parse_time,
    traceparent_of,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message


async def no_body() -> Message:
    """Fail: no test here reads a body."""
    raise NotImplementedError


def request(
    path: str = "/", query: str = "", method: str = "GET", headers: Mapping[str, str] | None = None
) -> Request:
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in (headers or {}).items()],
    }
    return Request(scope, no_body)


def field_of(error: pytest.ExceptionInfo[Invalid]) -> str:
    return error.value.errors[0].field


# --- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "+1", "1.0", "501", "0", "\u0661", "1e2", " 1"]
    # A bound that looks at the first digits only lets these through.
    + ["0" * 20 + "1000000", "0" * 30 + "1", "9" * 5000],
    ids=lambda text: text[:12],
)
def test_a_parameter_out_of_its_bounds_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        whole_number(request(query=f"limit={text}"), "limit", 50, 1, 500)
    assert field_of(refused) == "limit"


def test_leading_zeros_do_not_exceed_a_numbers_bound() -> None:
    with pytest.raises(Invalid):
        whole_number(request(query=f"after={'0' * 20}{'9' * 30}"), "after", 0, 0, 2**62)


@pytest.mark.parametrize(
    ("query", "number"), [("", 50), ("limit=1", 1), ("limit=500", 500), ("limit=007", 7)]
)
def test_a_parameter_is_its_number_or_the_default(query: str, number: int) -> None:
    assert whole_number(request(query=query), "limit", 50, 1, 500) == number


# --- headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["", '""', '"', '"a', 'a"b"c' + "\x7f", '"a"b"', "x" * 256, "é", '"a";b=1', "\t"]
)
def test_a_malformed_idempotency_key_is_refused(header: str) -> None:
    with pytest.raises(Invalid) as refused:
        idempotency_key_of(request(headers={"Idempotency-Key": header}))
    assert field_of(refused) == "Idempotency-Key"


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ('"abc"', "abc"),
        ("abc", "abc"),
        ("  abc ", "abc"),
        (r'"a\"b\\c"', r'a"b\c'),
        ('" spaces "', " spaces "),
        ("x" * 255, "x" * 255),
    ],
)
def test_an_idempotency_key_is_a_string_or_its_bare_text(header: str, key: str) -> None:
    assert idempotency_key_of(request(headers={"Idempotency-Key": header})) == key


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (' "5" ', Tag(5)),
        ('"0"', Tag(0)),
        ('"5-1a2b3c4d5e6f7081"', Tag(5, "1a2b3c4d5e6f7081")),
    ],
)
def test_an_expected_state_is_a_position_or_a_tag(header: str, expected: Tag) -> None:
    assert if_match_of(request(headers={"If-Match": header})) == expected


@pytest.mark.parametrize(
    "header",
    [
        *("5", "*", 'W/"5"', '"5", "6"', '"-1"', '""', '"', "", f'"{"9" * 19}"', '"5', '5"'),
        *('"5-"', '"5-1a2b"', '"5-1A2B3C4D5E6F7081"', '"5-1a2b3c4d5e6f70812"'),
        *("5-1a2b3c4d5e6f7081", 'W/"5-1a2b3c4d5e6f7081"'),
    ],
)
def test_an_expected_state_of_another_form_is_refused(header: str) -> None:
    with pytest.raises(Invalid) as refused:
        if_match_of(request(headers={"If-Match": header}))
    assert field_of(refused) == "If-Match"


def test_absent_headers_are_none() -> None:
    said = request()
    assert (idempotency_key_of(said), if_match_of(said), traceparent_of(said)) == (None,) * 3


def test_a_malformed_trace_is_not_passed_on() -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    assert traceparent_of(request(headers={"traceparent": trace})) == trace
    assert traceparent_of(request(headers={"traceparent": trace + "x"})) is None


@pytest.mark.parametrize(
    "text",
    ["", "2026-11-24", "2026-11-24T06:00:00", "2026-11-24 06:00:00Z", "1899-12-31T23:59:59Z"]
    + [
        "2201-01-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-11-24T24:00:00Z",
        "9999-12-31T23:00:00-23:00",
    ]
    + ["2026-11-24T06:00:00+05:99", "2026-11-24T06:00:00-00:60", "2026-11-24T06:00:00+24:00"]
    + ["2026-11-24T06:00:00+25:00", "2026-11-24T06:00:00.1234567890Z", "\u0662026-11-24T06:00:00Z"]
    + ["0001-01-01T00:00:00+14:00", "2026-11-24T06:00:00Z\n", "20261124T060000Z"],
)
def test_a_text_that_is_no_valid_time_is_none(text: str) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    "text",
    ["2026-11-24T06:00:00Z", "2026-11-24t06:00:00z", "2026-11-24T03:00:00-03:00"]
    + ["2026-11-24T06:00:00.0Z", "2026-11-24T11:30:00.000000+05:30"],
)
def test_a_time_is_the_same_moment_in_every_zone(text: str) -> None:
    assert parse_time(text) == datetime(2026, 11, 24, 6, tzinfo=UTC)


@pytest.mark.parametrize("fraction", ["123456", "1234567", "12345678", "123456789", "123456999"])
def test_time_is_truncated_to_microseconds(fraction: str) -> None:
    """.NET writes seven digits, Go and Java nine."""
    moment = parse_time(f"2026-11-24T06:00:00.{fraction}Z")
    assert moment == datetime(2026, 11, 24, 6, 0, 0, 123456, tzinfo=UTC)
