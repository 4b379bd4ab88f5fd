"""HTTP/1.1 to a sink, byte for byte as the dispatcher's own client writes it.

A client library would not do: it adds a Content-Length to a tombstone, encodes a header's `é` as
two bytes, and takes several times as long. What is here is the client's half of HTTP/1.1 with
keep-alive over httptools' parser: no redirects (a 3xx is a failure), no TLS, no compression, no
retry of its own (a retry is the delivery's decision).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import httptools

from local.knative.delivery import ERROR_DATA_BYTES_MAX, Answer

if TYPE_CHECKING:
    from local.knative.delivery import Target

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 200
# Servers close idle connections, and a request that meets the close is lost: it would count as a
# failure and wait for its retry. So a connection is left after a time that is shorter than any
# sink's (functions-framework's own server: 2 s).
IDLE_S_MAX = 1.5

_STATUS_OK = 200
_STATUSES_WITHOUT_BODY = frozenset({204, 304})


class NoAnswer(Exception):
    """Nothing that is an HTTP answer came: refused, reset, timed out, or not HTTP."""


class SinkClient:
    """Connections to one sink; as many as there are requests in flight, which the caller bounds."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def post(self, head: bytes, body: bytes | None, timeout_s: float) -> Answer:
        """Send one request and wait for the whole answer. NoAnswer when there is none in time."""
        connection = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = self._take_idle() or await self._connect()
                answer = await connection.exchange(head, body)
        except TimeoutError as error:
            raise NoAnswer(f"no answer within {timeout_s} s") from error
        except OSError as error:
            raise NoAnswer(str(error)) from error
        finally:
            if connection is not None:
                self._give_back(connection)
        return answer

    async def close(self) -> None:
        """Close all connections, those in use too."""
        for connection in tuple(self._all):
            connection.abort()
        self._all.clear()
        self._idle.clear()

    def _take_idle(self) -> _Connection | None:
        oldest = asyncio.get_running_loop().time() - IDLE_S_MAX
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_since >= oldest:
                return connection
            self._discard(connection)
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(loop), self._target.host, self._target.port
        )
        self._all.add(connection)
        return connection

    def _give_back(self, connection: _Connection) -> None:
        if connection.reusable:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            self._discard(connection)

    def _discard(self, connection: _Connection) -> None:
        connection.abort()
        self._all.discard(connection)


class _Connection(asyncio.Protocol):
    """One connection with at most one request on it. httptools calls the `on_` methods."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[Answer] | None = None
        self.idle_since = 0.0
        self._begin_answer()

    # --- for the client

    @property
    def reusable(self) -> bool:
        """Return whether the next request may go over it: open, and no answer outstanding."""
        return self._transport is not None and self._answered is None

    async def exchange(self, head: bytes, body: bytes | None) -> Answer:
        """Write the request and wait for its answer."""
        assert self._answered is None, "one request at a time"  # noqa: S101 - the caller's error
        if self._transport is None:
            raise NoAnswer("the connection was closed")
        answered: asyncio.Future[Answer] = self._loop.create_future()
        self._answered = answered
        self._begin_answer()
        self._transport.write(head + body if body else head)
        return await answered

    def abort(self) -> None:
        """Close at once. An answer that is still to come is not waited for."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # --- for the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answered is None:
            self.abort()  # There was no request.
            return
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"not HTTP: {error}")
            return
        if not self._head_done and self._head_bytes > HEAD_BYTES_MAX:
            self._fail("the answer's head is too long")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._head_done and self._until_close and exc is None:
            self.on_message_complete()
        self._fail(f"the connection was closed{f': {exc}' if exc else ''}")

    def _fail(self, reason: str) -> None:
        answered, self._answered = self._answered, None
        if answered is not None and not answered.done():
            answered.set_exception(NoAnswer(reason))
        self.abort()

    # --- for the parser

    def _begin_answer(self) -> None:
        self._head_bytes = 0
        self._head_done = False
        # Without a length the body ends where the connection does.
        self._until_close = True
        self._headers: list[tuple[str, str]] = []
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._headers) < HEADERS_MAX:
            self._headers.append((name.decode("latin-1"), value.decode("latin-1")))
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._until_close = False

    def on_headers_complete(self) -> None:
        self._head_done = True
        if self._parser.get_status_code() in _STATUSES_WITHOUT_BODY:
            self._until_close = False

    def on_body(self, body: bytes) -> None:
        if len(self._body) < ERROR_DATA_BYTES_MAX:
            self._body = (self._body + body)[:ERROR_DATA_BYTES_MAX]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < _STATUS_OK:  # 100 Continue and the like come before the answer.
            self._begin_answer()
            return
        answered, self._answered = self._answered, None
        if not self._parser.should_keep_alive():
            self.abort()
        if answered is not None and not answered.done():
            answered.set_result(Answer(status=status, headers=self._headers, body=self._body))
