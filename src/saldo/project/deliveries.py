"""Plain deliveries, taken straight from the server: nearly all that KafkaSource sends.

The framework makes a CloudEvent of each with the ``cloudevents`` package, 60 us, of which this
function needs three attributes and whether the private part was erased. What is plain is known from
the headers alone; anything else goes the framework's way, and comes to the same: a test holds what
is read here to what the package reads.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from saldo.project.projection import says_erased
from saldo.serve.http.request import BODY_BYTES_MAX, STATUS_KEY, Answer, take_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

RECORDED = "saldo.transaction.recorded"
TEXT = b"text/plain; charset=utf-8"

_PLAIN = {
    b"ce-specversion": b"1.0",
    b"ce-type": RECORDED.encode(),
    b"content-type": b"application/json",
}
_ASKED_FOR = (
    ("id", b"ce-id"),
    ("subject", b"ce-subject"),
    ("sequence", b"ce-sequence"),
    ("time", b"ce-time"),
)
_NEEDED = (b"ce-id", b"ce-source", b"ce-subject", b"ce-sequence", b"ce-time")


class _Data(msgspec.Struct):
    event: msgspec.Raw
    private: msgspec.Raw


_read_data = msgspec.json.Decoder(_Data).decode


def is_plain(scope: Scope) -> bool:
    """Whether a request is a recorded event in binary mode, with all that it should have."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    return (
        scope["method"] == "POST"
        and _PLAIN.items() <= headers.items()
        and all(headers.get(name) for name in _NEEDED)
        and b"ce-knativeerrordest" not in headers
        and length.isdigit()
        and int(length) <= BODY_BYTES_MAX
    )


def attributes_of(scope: Scope) -> dict[str, str]:
    """The attributes of a plain delivery that the projector asks for."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return {name: headers[header].decode("latin-1") for name, header in _ASKED_FOR}


def body_says_erased(body: bytes) -> bool:
    """The same of the data's text, which is a text and no object where it is not JSON."""
    try:
        if bytes(_read_data(body).private).startswith(b"{"):
            return False
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass  # the other reader, which the framework uses, may think otherwise
    try:
        return says_erased(json.loads(body))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise HTTPException(400, "the data cannot be read") from error


class Deliveries:
    """Answers plain deliveries as the framework does; ``take`` raises an HTTPException."""

    def __init__(self, take: Callable[[Mapping[str, str], bool], Awaitable[None]]) -> None:
        self._take = take

    def answerer(self, scope: Scope) -> ASGIApp | None:
        """What answers a request without the framework; None where it is the framework's."""
        return self if is_plain(scope) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await take_body(receive, BODY_BYTES_MAX)
        except ClientDisconnect:
            return
        try:
            await self._take(attributes_of(scope), body_says_erased(body))
        except HTTPException as refused:
            answer = Answer(refused.detail.encode(), refused.status_code, None, TEXT)
        else:
            answer = Answer(b"OK", 200, None, TEXT)
        scope[STATUS_KEY] = answer.status_code
        await answer(scope, receive, send)
