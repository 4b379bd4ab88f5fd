"""The sink client with servers that use every form of HTTP/1.1 response, or send none."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from local.knative import sink_client
from local.knative.delivery import ERROR_DATA_BYTES_MAX, Answer, parse_target
from local.knative.sink_client import NoAnswer, SinkClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n\r\n"
TIMEOUT_S = 120.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


class Server:
    """Counts its connections; `speak` has each of them."""

    def __init__(self, speak: Speak) -> None:
        self._speak = speak
        self.connections = 0
        self._ended = asyncio.Semaphore(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._speak(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self._ended.release()

    async def until_all_ended(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(self.connections):
                await self._ended.acquire()


@contextlib.asynccontextmanager
async def client_of(speak: Speak) -> AsyncIterator[tuple[SinkClient, Server]]:
    server = Server(speak)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = SinkClient(parse_target(f"http://127.0.0.1:{port}/"))
    try:
        yield client, server
    finally:
        await client.close()
        listening.close()
        await server.until_all_ended()


def saying(*parts: bytes, close: bool = False) -> Speak:
    """Answer each request with these bytes, one write for each part."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                return

    return speak


CHUNKS = [
    b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"1\r\na\r\n",
    b"2\r\nbc\r\n0\r\n\r\n",
]
LONG = b"HTTP/1.1 400 X\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param([OK], (200, b"OK"), id="whole"),
        pytest.param([bytes([byte]) for byte in OK], (200, b"OK"), id="byte by byte"),
        pytest.param([b"HTTP/1.1 204 No Content\r\n\r\n"], (204, b""), id="no content"),
        pytest.param([b"HTTP/1.1 304 Not Modified\r\n\r\n"], (304, b""), id="not modified"),
        pytest.param(CHUNKS, (503, b"abc"), id="chunked"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n" + OK], (200, b"OK"), id="continue"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n", OK], (200, b"OK"), id="continue, apart"),
        pytest.param([LONG], (400, b"x" * ERROR_DATA_BYTES_MAX), id="long"),
    ],
)
async def test_a_response_is_read_in_every_framing(
    parts: list[bytes], expected: tuple[int, bytes]
) -> None:
    """And the next one on the same connection."""
    async with client_of(saying(*parts)) as (client, server):
        for _ in range(2):
            answer = await client.post(HEAD, None, TIMEOUT_S)
            assert (answer.status, answer.body) == expected
    assert server.connections == 1


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"HTTP/1.1 500 X\r\n\r\n", b"until ", b"the end"], (500, b"until the end")),
        ([b"HTTP/1.0 200 OK\r\n\r\n"], (200, b"")),
    ],
)
async def test_a_response_without_length_ends_with_the_connection(
    parts: list[bytes], expected: tuple[int, bytes]
) -> None:
    """The next request has another one."""
    async with client_of(saying(*parts, close=True)) as (client, server):
        for _ in range(2):
            answer = await client.post(HEAD, None, TIMEOUT_S)
            assert (answer.status, answer.body) == expected
    assert server.connections == 2


async def test_response_headers_are_returned() -> None:
    """With the names as they were written."""
    said = b"HTTP/1.1 400 X\r\nKne-Reason: \xe9\r\nContent-Length: 0\r\n\r\n"
    async with client_of(saying(said)) as (client, _):
        answer = await client.post(HEAD, None, TIMEOUT_S)
    assert answer == Answer(
        status=400, headers=[("Kne-Reason", "é"), ("Content-Length", "0")], body=b""
    )


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nOK",
        b"SMTP hello\r\n\r\n",
        b"HTTP/1.1 200",
    ],
    ids=["nothing", "cut off", "not HTTP", "half a head"],
)
async def test_a_connection_closed_early_is_no_response(said: bytes) -> None:
    """Half an answer is none."""
    async with client_of(saying(said, close=True)) as (client, _):
        with pytest.raises(NoAnswer):
            await client.post(HEAD, None, TIMEOUT_S)


async def test_an_endless_head_is_no_response() -> None:
    """It would fill the memory."""
    said = b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 * sink_client.HEAD_BYTES_MAX)
    async with client_of(saying(said)) as (client, _):
        with pytest.raises(NoAnswer, match="too long"):
            await client.post(HEAD, None, TIMEOUT_S)


async def test_a_closed_port_is_no_response() -> None:
    """The connection is refused."""
    client = SinkClient(parse_target("http://127.0.0.1:1/"))
    with pytest.raises(NoAnswer):
        await client.post(HEAD, None, TIMEOUT_S)


async def test_a_late_response_closes_its_connection() -> None:
    """Else the next request would get it."""
    answers = iter([b"first", b"late", b"own"])

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            body = next(answers)
            if body == b"late":
                await reader.read()  # Until the client has given up.
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async with client_of(speak) as (client, server):
        # Connects, so that the short timeout is spent on the answer alone on a busy machine, too.
        assert (await client.post(HEAD, None, TIMEOUT_S)).body == b"first"
        with pytest.raises(NoAnswer):
            await client.post(HEAD, None, 0.05)
        assert (await client.post(HEAD, None, TIMEOUT_S)).body == b"own"
    assert server.connections == 2


async def test_a_long_idle_connection_is_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may be closing it at this moment."""
    async with client_of(saying(OK)) as (client, server):
        await client.post(HEAD, None, TIMEOUT_S)
        monkeypatch.setattr(sink_client, "IDLE_S_MAX", -1.0)
        await client.post(HEAD, None, TIMEOUT_S)
    assert server.connections == 2


async def test_a_connection_closed_by_the_server_is_not_reused() -> None:
    """`Connection: close` and a close without a word alike."""
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with client_of(saying(closing)) as (client, server):
        for _ in range(2):
            await client.post(HEAD, None, TIMEOUT_S)
    assert server.connections == 2


async def test_concurrent_requests_have_a_connection_each() -> None:
    """None waits for another's answer."""
    together = asyncio.Barrier(3)

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await together.wait()
        writer.write(OK)

    async with client_of(speak) as (client, server), asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*(client.post(HEAD, None, TIMEOUT_S) for _ in range(3)))
    assert server.connections == 3
