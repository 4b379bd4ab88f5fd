"""A body taken and an answer written in one piece are what uvicorn would have had in messages."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from saldo.serve.http import BODY_BYTES_MAX, Answer, EdgeRequest, read_body, take_body, whole_body
from saldo.serve.problems import Problem
from saldo.serve.whole import take_whole, write_whole

# Beyond so many bytes that nobody has taken, the server stops reading; its own bound is larger.
PAUSE_BYTES = 20
LOG = logging.getLogger("tests.whole")


class Transport(asyncio.Transport):
    """Remembers what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:  # noqa: ANN401 - the base class's type is wider than ours
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Server:
    """One request's cycle of uvicorn's, on a transport that remembers."""

    def __init__(self, *, keep_alive: bool = True, method: str = "POST") -> None:
        self.transport = Transport()
        self.flow = FlowControl(self.transport)
        self.responses = 0
        self.cycle = RequestResponseCycle(
            scope={"type": "http", "method": method},  # type: ignore[typeddict-item]
            transport=self.transport,
            flow=self.flow,
            logger=LOG,
            access_logger=LOG,
            access_log=False,
            default_headers=[(b"date", b"Tue, 24 Nov 2026 06:00:00 GMT")],
            message_event=asyncio.Event(),
            expect_100_continue=True,
            keep_alive=keep_alive,
            on_response=self.on_response,
        )

    def on_response(self) -> None:
        self.responses += 1

    def told(self) -> tuple[object, ...]:
        """All that a client sees of it, and the server remembers."""
        cycle = self.cycle
        return (
            self.transport.written,
            self.transport.closed,
            self.responses,
            cycle.response_started,
            cycle.response_complete,
            cycle.chunked_encoding,
            cycle.expected_content_length,
            cycle.waiting_for_100_continue,
            cycle.message_event.is_set(),
            bytes(cycle.body),
            self.transport.reading,
        )

    def receive(self, body: bytes, *, more: bool = False) -> None:
        """What the protocol does as a body's bytes come in."""
        self.cycle.waiting_for_100_continue = False
        self.cycle.body += body
        self.cycle.more_body = more
        if len(self.cycle.body) > PAUSE_BYTES:
            self.flow.pause_reading()
        self.cycle.message_event.set()


@given(
    body=st.binary(max_size=50),
    status=st.sampled_from([200, 201]),
    headers=st.lists(
        st.tuples(st.sampled_from([b"etag", b"location"]), st.sampled_from([b'"5"', b"/a"])),
        max_size=3,
    ),
    keep_alive=st.booleans(),
)
async def test_the_same_bytes_go_out_either_way(
    body: bytes,
    status: int,
    headers: list[tuple[bytes, bytes]],
    keep_alive: bool,  # noqa: FBT001 - of one kind or the other
) -> None:
    answer = Answer(body, status, headers)
    by_asgi, whole = Server(keep_alive=keep_alive), Server(keep_alive=keep_alive)
    await answer(by_asgi.cycle.scope, by_asgi.cycle.receive, by_asgi.cycle.send)  # type: ignore[arg-type]
    assert write_whole(whole.cycle.send, status, answer.raw_headers, body)  # type: ignore[arg-type]
    assert whole.told() == by_asgi.told()


@pytest.mark.parametrize("what", ["head", "paused", "gone", "started", "wrapped"])
async def test_anything_unusual_is_left_to_asgi(what: str) -> None:
    server = Server(method="HEAD" if what == "head" else "POST")
    send: Any = server.cycle.send
    if what == "paused":
        server.flow.pause_writing()
    elif what == "gone":
        server.cycle.disconnected = True
    elif what == "started":
        server.cycle.response_started = True
    elif what == "wrapped":

        async def wrapped(message: Any) -> None:  # noqa: ANN401 - any message
            await server.cycle.send(message)

        send = wrapped
    assert not write_whole(send, 200, [(b"content-length", b"2")], b"ok")
    assert server.transport.written == b""
    assert server.responses == 0


@given(
    body=st.binary(max_size=PAUSE_BYTES) | st.binary(min_size=PAUSE_BYTES + 1, max_size=40),
    bytes_max=st.sampled_from([2, 40]),
)
async def test_a_body_that_is_there_is_the_one_that_asgi_brings(
    body: bytes, bytes_max: int
) -> None:
    by_asgi, whole = Server(), Server()
    by_asgi.receive(body)
    whole.receive(body)
    taken = take_whole(whole.cycle.receive, bytes_max)  # type: ignore[arg-type]
    if taken is None:
        assert len(body) > bytes_max
        assert whole.cycle.body == body
        assert whole.cycle.message_event.is_set()
    else:
        assert taken == body == await take_body(by_asgi.cycle.receive, bytes_max)  # type: ignore[arg-type]
        assert whole.told() == by_asgi.told()


@pytest.mark.parametrize("what", ["on its way", "expected", "gone", "answered", "wrapped"])
async def test_a_body_that_is_not_all_there_is_left_to_asgi(what: str) -> None:
    server = Server()
    receive: Any = server.cycle.receive
    server.receive(b"abc", more=what == "on its way")
    if what == "expected":
        server.cycle.waiting_for_100_continue = True
    elif what == "gone":
        server.cycle.disconnected = True
    elif what == "answered":
        server.cycle.response_complete = True
    elif what == "wrapped":

        async def wrapped() -> Any:  # noqa: ANN401 - any message
            return await server.cycle.receive()

        receive = wrapped
    before = server.told()
    assert take_whole(receive, BODY_BYTES_MAX) is None
    assert server.told() == before


@given(
    encoding=st.sampled_from([None, b"identity", b"gzip"]),
    length=st.sampled_from([None, b"3"]),
    bytes_max=st.integers(2, 4),
)
async def test_a_body_is_taken_whole_only_where_it_would_be_read(
    encoding: bytes | None, length: bytes | None, bytes_max: int
) -> None:
    headers = [(b"content-encoding", encoding), (b"content-length", length)]
    scope = {"type": "http", "headers": [(n, text) for n, text in headers if text is not None]}
    whole, by_asgi = Server(), Server()
    whole.receive(b"abc")
    by_asgi.receive(b"abc")
    taken = whole_body(EdgeRequest(scope, whole.cycle.receive), bytes_max)  # type: ignore[arg-type]
    try:
        read = await read_body(EdgeRequest(scope, by_asgi.cycle.receive), bytes_max)  # type: ignore[arg-type]
    except Problem:
        assert taken is None
    else:
        assert taken == (read if encoding is None else None)
