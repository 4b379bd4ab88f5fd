"""Requests and responses hold what Starlette's own would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response

from saldo.domain.tag import read_tag
from saldo.serve.http.problems import Invalid
from saldo.serve.http.request import Answer, Request, if_match_of

if TYPE_CHECKING:
    from starlette.types import Message

NAMES = st.sampled_from([b"accept", b"if-match", b"idempotency-key", b"x-odd-\xe9"])
VALUES = st.binary(max_size=4)


async def no_body() -> Message:
    """Fail: no test here reads a body."""
    raise NotImplementedError


def asked(raw: list[tuple[bytes, bytes]], query: bytes = b"") -> Request:
    return Request(
        {"type": "http", "method": "GET", "path": "/", "query_string": query, "headers": raw},
        no_body,
    )


@given(raw=st.lists(st.tuples(NAMES, VALUES), max_size=5), name=NAMES | st.just(b"none"))
def test_headers_match_those_of_starlette(raw: list[tuple[bytes, bytes]], name: bytes) -> None:
    slow, quick = Headers(raw=raw), asked(raw)
    text = name.decode("latin-1")
    assert quick.header(name) == slow.get(text)
    assert quick.headers_named(name) == slow.getlist(text)
    assert (name in quick.first) == (text in slow)


@given(raw=st.lists(st.tuples(NAMES, st.sampled_from([b'"5"', b'"6"'])), max_size=4))
def test_a_repeated_single_header_is_refused(
    raw: list[tuple[bytes, bytes]],
) -> None:
    found = Headers(raw=raw).getlist("if-match")
    if len(found) > 1:
        with pytest.raises(Invalid):
            if_match_of(asked(raw))
    else:
        assert if_match_of(asked(raw)) == (read_tag(found[0].strip('"')) if found else None)


@given(
    query=st.text("ab1=&+%;:@~.-_ é", max_size=6)
    | st.from_regex(r"[a-z]+=[a-z:@~.-]+")
    | st.from_regex(r"a=(%[0-9a-f]{2}|[+&;=b])+", fullmatch=True)
)
def test_query_parameters_match_those_of_starlette(query: str) -> None:
    text = query.encode("latin-1", "replace")
    slow = QueryParams(text)
    assert asked([], text).parameters == {name: slow.getlist(name) for name in slow}


@given(
    body=st.binary(max_size=30),
    status=st.sampled_from([200, 201, 422, 503]),
    headers=st.dictionaries(st.sampled_from(["etag", "location"]), st.text("ab1", max_size=3)),
)
def test_a_response_matches_that_of_starlette(
    body: bytes, status: int, headers: dict[str, str]
) -> None:
    made = Response(body, status, headers, "application/json")
    answer = Answer(body, status, [(n.encode(), text.encode()) for n, text in headers.items()])
    assert answer.raw_headers == made.raw_headers
    assert (answer.status_code, answer.body, answer.background) == (status, body, made.background)
    assert answer.headers == made.headers
