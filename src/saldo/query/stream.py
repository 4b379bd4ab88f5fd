"""A balance as server-sent events: one at the start, one at every change, ended after 50 s.

The end is on purpose: a stream is a request in flight, which keeps a pod up and would be cut at a
revision's end. The client resumes with Last-Event-ID and misses nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from saldo.query.balances import Standing
    from saldo.query.watch import Watch

STREAM_S = 50.0
HEARTBEAT_S = 10.0
RECONNECT_MS = 500
STREAMS_MAX = 500


async def balance_events(
    account_id: str,
    last_position: int,
    read: Callable[[str], Awaitable[Standing]],
    watch: Watch,
    stopping: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """The text of the stream: a balance whenever its position is beyond the last one sent."""
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    ends_at = time.monotonic() + STREAM_S
    while not stopping():
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            return
        reached = await watch.reach(account_id, last_position + 1, min(HEARTBEAT_S, left_s))
        if reached is None:
            yield b": still here\n\n"
            continue
        standing = await read(account_id)
        if standing.position > last_position:
            last_position = standing.position
            yield (f"id: {standing.position}\nevent: balance\ndata: {standing.json()}\n\n").encode()
