"""A balance as server-sent events: one at the start, one at every change, ended after 50 s.

The end is on purpose: a stream is a request in flight, which keeps a pod up and would be cut at a
revision's end. The client resumes with Last-Event-ID and misses nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse

from saldo.query.position_watch import TooManyWaiters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from saldo.query.balances import Standing
    from saldo.query.position_watch import Watch
    from saldo.serve.http.auth import Caller

STREAM_S = 50.0
HEARTBEAT_S = 10.0
RECONNECT_MS = 500
STREAMS_MAX = 500
STREAMS_A_CALLER_MAX = 50


class OpenStreams:
    """The event streams that are open in this process, by caller."""

    def __init__(self) -> None:
        self.count = 0
        self._by_caller: Counter[tuple[str, str]] = Counter()

    def require_room(self, caller: Caller) -> None:
        """Raise TooManyWaiters unless ``caller`` may open one more."""
        if self._by_caller[caller.issuer, caller.subject] >= STREAMS_A_CALLER_MAX:
            raise TooManyWaiters(
                f"A caller may have {STREAMS_A_CALLER_MAX} event streams open: close one first."
            )
        if self.count >= STREAMS_MAX:
            raise TooManyWaiters

    def add(self, caller: Caller, streams: int) -> None:
        """Count streams of ``caller`` that open, or by a negative number close."""
        self.count += streams
        self._by_caller[caller.issuer, caller.subject] += streams
        self._by_caller += Counter()  # drop those at zero


class EventStream(StreamingResponse):
    """A response of server-sent events, counted from before its first byte until it ends.

    require_room has been called without an await in between, so that it holds for this one.
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


async def balance_events(
    account_id: str,
    last_tag: str,
    read: Callable[[str], Awaitable[Standing]],
    watch: Watch,
    stopping: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """The text of the stream: a balance whenever its tag is another than the last one sent.

    ``last_tag`` is the client's Last-Event-ID. What is no tag of the present state, such as one of
    an event that a restore has removed, gets the present state.
    """
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    ends_at = time.monotonic() + STREAM_S
    seen = last_tag
    while not stopping():
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            return
        reached = await watch.reach(account_id, 0, min(HEARTBEAT_S, left_s), seen)
        if reached is None:
            yield b": still here\n\n"
            continue
        seen = reached
        standing = await read(account_id)
        # Nothing is sent of a balance that is not on its stream; its next state is waited for.
        if standing.is_projected and standing.tag() != last_tag:
            seen = last_tag = standing.tag()
            yield f"id: {last_tag}\nevent: balance\ndata: {standing.json()}\n\n".encode()
