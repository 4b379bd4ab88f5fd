"""The quick ways of the HTTP edge find what the general ones of Starlette and the routes find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response

from saldo.serve.http import Answer, Edge, EdgeRequest, IndexedHeaders, route

if TYPE_CHECKING:
    from starlette.requests import Request

NAMES = st.sampled_from([b"accept", b"if-match", b"idempotency-key", b"x-odd-\xe9"])
VALUES = st.binary(max_size=4)
ASKED = st.sampled_from(["accept", "Accept", "IF-MATCH", "idempotency-key", "x-odd-\xe9", "none"])


@given(raw=st.lists(st.tuples(NAMES, VALUES), max_size=5), asked=ASKED)
def test_indexed_headers_say_what_starlettes_say(
    raw: list[tuple[bytes, bytes]], asked: str
) -> None:
    slow, quick = Headers(raw=raw), IndexedHeaders(raw)
    assert quick.get(asked) == slow.get(asked)
    assert quick.get(asked, "other") == slow.get(asked, "other")
    assert quick.getlist(asked) == slow.getlist(asked)
    assert (asked in quick) == (asked in slow)
    assert dict(quick) == dict(slow)


@given(query=st.text("ab1=&+%;:@~.-_ é", max_size=6) | st.from_regex(r"[a-z]+=[a-z:@~.-]+"))
def test_query_parameters_are_those_that_starlette_reads(query: str) -> None:
    text = query.encode("latin-1", "replace")
    given_here = EdgeRequest({"type": "http", "query_string": text, "headers": []}).query_params
    slow = QueryParams(text)
    assert given_here == slow
    assert given_here.multi_items() == slow.multi_items()


@given(
    body=st.binary(max_size=30),
    status=st.sampled_from([200, 201, 422, 503]),
    headers=st.dictionaries(st.sampled_from(["etag", "location"]), st.text("ab1", max_size=3)),
)
def test_an_answer_is_starlettes_response(
    body: bytes, status: int, headers: dict[str, str]
) -> None:
    made = Response(body, status, headers, "application/json")
    answer = Answer(body, status, [(n.encode(), text.encode()) for n, text in headers.items()])
    assert answer.raw_headers == made.raw_headers
    assert (answer.status_code, answer.body, answer.background) == (status, body, made.background)
    assert answer.headers == made.headers


async def nothing(request: Request) -> Response:
    """Not called here."""
    raise NotImplementedError


EDGE = Edge(
    function="record_transaction",
    package="saldo.record",
    root_path="/root",
    routes=(
        route("GET", "/things", nothing),
        route("GET", "/things/{}", nothing),
        route("GET", "/things/shadowed", nothing),
        route("POST", "/things", nothing),
        route("POST", "/", nothing),
    ),
    rules={},
)


def test_routes_that_are_looked_up_are_those_that_would_be_found() -> None:
    assert len(EDGE.plain) == 6, "each route without a segment, with the root path and without"
    for (method, whole), (found, prefix) in EDGE.plain.items():
        assert whole.startswith(prefix)
        slow = EDGE._find(method, whole[len(prefix) :])  # noqa: SLF001 - the way without the table
        assert slow is not None
        assert slow[0] is found
    # Taken by the route before it, which has a segment: that one's handler wants it.
    assert ("GET", "/things/shadowed") not in EDGE.plain
