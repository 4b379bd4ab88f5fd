"""A balance as server-sent events: one at the start, one at every change, ended after 50 s.

A longer stream would keep a pod up and be cut at the end of a revision. The client resumes with
Last-Event-ID and misses nothing.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import StreamingResponse

from saldo.query.errors import ReadModelUnavailable, TooManyWaiters
from saldo.query.responses import balance_of
from saldo.serve.http.problems import TooBusy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from saldo.query.reader import OpenStreams, Reader
    from saldo.serve.http.auth import Caller

STREAM_S = 50.0
HEARTBEAT_S = 10.0
RECONNECT_MS = 500


class EventStream(StreamingResponse):
    """A response of server-sent events, counted from before its first byte until it ends.

    Call require_room first, without an await in between.
    """

    def __init__(self, events: AsyncIterator[bytes], streams: OpenStreams, caller: Caller) -> None:
        super().__init__(events, 200, {"Cache-Control": "no-store"}, "text/event-stream")
        self._streams = streams
        self._caller = caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        self._streams.add(self._caller, 1)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.add(self._caller, -1)


async def balance_events(reader: Reader, account_id: str, last_tag: str) -> AsyncIterator[bytes]:
    """Yield the stream's text: a balance whenever its tag differs from the last one sent.

    ``last_tag`` is the client's Last-Event-ID. If it is not a tag of the present state, such as one
    of an event that a restore has removed, the present state is sent. On an error the stream ends,
    and the client reconnects.
    """
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    ends_at = time.monotonic() + STREAM_S
    seen = last_tag
    with contextlib.suppress(ReadModelUnavailable, TooBusy, TooManyWaiters):
        while not reader.stopping:
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                return
            reached = await reader.watch.reach(account_id, 0, min(HEARTBEAT_S, left_s), seen)
            if reached is None:
                yield b": still here\n\n"
                continue
            seen = reached
            standing = await reader.read(account_id)
            # A balance that is not on its stream is not sent; its next state is awaited.
            if standing.is_projected and standing.tag != last_tag:
                seen = last_tag = standing.tag
                data = msgspec.json.encode(balance_of(standing))
                yield b"id: %s\nevent: balance\ndata: %s\n\n" % (last_tag.encode(), data)
