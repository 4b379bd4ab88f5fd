"""An answer written in one piece is what uvicorn would have written of two messages."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from saldo.serve.http import Answer
from saldo.serve.whole_answer import write_whole

LOG = logging.getLogger("tests.whole_answer")


class Transport(asyncio.Transport):
    """Remembers what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:  # noqa: ANN401 - the base class's type is wider than ours
        self.written += data

    def close(self) -> None:
        self.closed = True


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
        )


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
