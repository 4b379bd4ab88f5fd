"""A client's connection: uvicorn's protocol with bounds on what a client sends, and how slowly.

uvicorn takes a protocol class of ours as its ``http`` setting. This one adds three things:

- An ``Upgrade`` is ignored, as RFC 9110 (7.8) lets a server do. The parser stops after the head of
  such a request and would read its body as the next request. So the head goes through a new parser
  without that header, followed by the bytes that the first one did not read.
- The head of a request is bounded in bytes, headers and time; its body in time and pace.
- A trailer never becomes a header of the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from saldo.serve.http.problems import BAD_HTTP, HEAD_TOO_LARGE, TOO_SLOW, Problem

if TYPE_CHECKING:
    import asyncio
    from typing import Any

    from prometheus_client import Counter
    from uvicorn import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

HEADERS_MAX = 100
HEAD_BYTES_MAX = 32 * 1024
HEAD_S = 10
# A body may take so long, and a second more for each BODY_BYTES_A_SECOND_MIN of it that are there.
BODY_S = 10
BODY_BYTES_A_SECOND_MIN = 16 * 1024
BODY_S_MAX = 120
CHECK_S = 1.0
# Requests that wait on one connection for the response to an earlier one.
PIPELINED_MAX = 100


class _Refused(Exception):
    """The parser must not go on."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        refusals: Counter,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.refusals = refusals
        self.problem: Problem | None = None
        # Whether a request has begun to arrive and is not all there, and whether its head is.
        self.receiving = False
        self.has_head = False
        # When the head, or the body, began to arrive, and the bytes of the body that are there.
        self.since_s = 0.0
        self.body_bytes = 0
        # Bytes that the parser took and did not hand over yet.
        self.held_bytes = 0
        self.pace_task: asyncio.TimerHandle | None = None
        # Whether the connection ends once the running response is sent; what comes is not read.
        self.ending = False

    @property
    def newest(self) -> RequestResponseCycle | None:
        """The newest request whose head is there."""
        return self.cycle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self.pace_task is not None:
            self.pace_task.cancel()

    def data_received(self, data: bytes) -> None:
        if self.ending:
            return
        self._unset_keepalive_if_required()
        self.held_bytes += len(data)
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as stopped:
                    data = self._head_without_upgrade() + data[stopped.args[0] :]
            if self.held_bytes > HEAD_BYTES_MAX or (
                self.receiving and len(self.headers) > HEADERS_MAX
            ):
                self._refuse(_head_too_large())
                return
        except httptools.HttpParserError:
            self._refuse(self.problem or Problem(BAD_HTTP, "This is not HTTP/1.1."))
            return
        if self.transport.is_closing():
            return
        if self.receiving:
            if self.pace_task is None:
                self.pace_task = self.loop.call_later(CHECK_S, self._check_pace)
        elif self.newest is None or self.newest.response_complete:
            self._await_request()

    # --- what the parser calls ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.receiving, self.has_head = True, False
        self.since_s = self.loop.time()

    def on_response_complete(self) -> None:
        if self.ending:
            self.transport.close()
        super().on_response_complete()

    def on_headers_complete(self) -> None:
        size = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        if size > HEAD_BYTES_MAX or len(self.headers) > HEADERS_MAX:
            self._stop(_head_too_large())
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._stop(Problem(BAD_HTTP, "CONNECT is for proxies, and this is none."))
            return  # comes again, without the upgrade
        self.held_bytes = self.body_bytes = 0
        self.has_head, self.since_s = True, self.loop.time()
        super().on_headers_complete()
        # The request has the list; what comes after its head goes into another.
        self.headers = []
        if len(self.pipeline) > PIPELINED_MAX:
            self._stop(Problem(BAD_HTTP, f"At most {PIPELINED_MAX} requests may wait."))

    def on_body(self, body: bytes) -> None:
        self.held_bytes = 0
        self.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.has_head:
            return  # the head with an upgrade: comes again
        if len(self.headers) > HEADERS_MAX:  # those after the head: its trailers
            self._stop(_head_too_large())
        self.receiving = False
        self.held_bytes = 0
        super().on_message_complete()

    # --- bounds -------------------------------------------------------------------------------

    def _head_without_upgrade(self) -> bytes:
        """Return the head just read without its ``Upgrade``, and start a new parser."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        return b"\r\n".join([*lines, b"\r\n"])

    def _await_request(self) -> None:
        """Close the connection unless a request begins within the keep-alive time."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _check_pace(self) -> None:
        """Refuse a request that arrives too slowly."""
        self.pace_task = None
        if not self.receiving or self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.since_s += CHECK_S  # it is the server that does not read on
        allowed_s: float = HEAD_S
        if self.has_head:
            allowed_s = min(BODY_S + self.body_bytes / BODY_BYTES_A_SECOND_MIN, BODY_S_MAX)
        if self.loop.time() - self.since_s <= allowed_s:
            self.pace_task = self.loop.call_later(CHECK_S, self._check_pace)
            return
        what = (
            f"body must arrive within {BODY_S} s and {BODY_BYTES_A_SECOND_MIN} bytes a second, "
            f"and in {BODY_S_MAX} s at most"
            if self.has_head
            else f"headers must arrive within {HEAD_S} s"
        )
        self._refuse(Problem(TOO_SLOW, f"The {what}: send it in fewer or smaller pieces."))

    def _stop(self, problem: Problem) -> None:
        """Stop the parser from within one of its callbacks."""
        self.problem = problem
        raise _Refused

    def _refuse(self, problem: Problem) -> None:
        """Respond with ``problem`` where a response is due, and close the connection.

        A complete request before it may have been carried out: its response is sent first, and the
        connection closed then. Requests that wait behind that one are dropped.
        """
        cycle = self.newest
        own = self.receiving and self.has_head
        if self.pipeline or (cycle is not None and not own and not cycle.response_complete):
            self.pipeline.clear()
            self.ending = True
            return
        if cycle is None or not own or not cycle.response_started:
            self.refusals.labels(problem.rule.name).inc()
            response = problem.response()
            head = [STATUS_LINE[response.status_code], b"connection: close\r\n"]
            head += [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
            self.transport.write(b"".join([*head, b"\r\n", bytes(response.body)]))
        if own and cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


def _head_too_large() -> Problem:
    return Problem(
        HEAD_TOO_LARGE,
        f"The request line and headers may have {HEAD_BYTES_MAX} bytes, and there may be "
        f"{HEADERS_MAX} headers: send fewer.",
        bytesMax=HEAD_BYTES_MAX,
        headersMax=HEADERS_MAX,
    )
