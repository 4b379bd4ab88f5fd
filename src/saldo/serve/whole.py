"""A body that is there goes from uvicorn's connection in one piece, and an answer to it.

ASGI has both sent as messages, which takes two coroutines for a body of one piece, and for an
answer two patterns for each header: 10 us of a request, for headers that only this package writes.
Here the body is taken as it lies, and the answer's bytes are joined and written once. Wherever
anything is not as it nearly always is (another server, a wrapped ``receive`` or ``send``, a body
still on its way, a client that reads slowly or has gone) nothing is done, and the caller goes by
ASGI. A test holds what is taken and written, and what the server remembers of it, to be the same
either way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Receive, Send


def take_whole(receive: Receive, bytes_max: int) -> bytes | None:
    """The whole body, if ``receive`` is uvicorn's own and has all of at most ``bytes_max`` bytes.

    None says that nothing was taken.
    """
    cycle = getattr(receive, "__self__", None)
    if (
        type(cycle) is not RequestResponseCycle
        or cycle.more_body
        or cycle.waiting_for_100_continue
        or cycle.disconnected
        or cycle.response_complete
        or len(cycle.body) > bytes_max
    ):
        return None
    cycle.flow.resume_reading()
    cycle.message_event.clear()
    body = bytes(cycle.body)
    cycle.body = bytearray()
    return body


def write_whole(
    send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> bool:
    """Write a whole response, if ``send`` is uvicorn's own; whether it was done.

    ``headers`` have lower-case names, and content-length among them.
    """
    cycle = getattr(send, "__self__", None)
    if (
        type(cycle) is not RequestResponseCycle
        or cycle.response_started
        or cycle.disconnected
        or cycle.access_log
        or cycle.flow.write_paused
        or cycle.scope["method"] == "HEAD"
    ):
        return False
    pieces = [STATUS_LINE[status]]
    for name, value in cycle.default_headers:
        pieces += (name, b": ", value, b"\r\n")
    for name, value in headers:
        pieces += (name, b": ", value, b"\r\n")
    pieces.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    pieces.append(body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = cycle.chunked_encoding = False
    cycle.transport.write(b"".join(pieces))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
