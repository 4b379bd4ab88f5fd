"""A request as the handlers get it, and a response made of bytes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from saldo.domain.tag import read_tag
from saldo.serve.http.problems import (
    BODY_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    FieldError,
    Invalid,
    Problem,
    TooBusy,
)
from saldo.serve.telemetry.tracing import SCOPE_KEY, read_traceparent

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from saldo.domain.tag import Tag

BODY_BYTES_MAX = 1024 * 1024
# The server holds about so much of any body before a function asks for it.
BODY_BYTES_UNCOUNTED = 64 * 1024
JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
# The route of a request that none took.
NO_ROUTE = "none"
# .NET writes seven digits of a second's fraction, Go and Java nine. The ledger keeps microseconds,
# so fromisoformat cuts off the rest.
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    # fromisoformat would take 99 minutes.
    r"([Zz]|[+-][0-9]{2}:[0-5][0-9])",
    re.ASCII,
)
# As many digits as a bigint: int() of thousands would take its time, or fail.
_WHOLE_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
# An RFC 8941 string: printable ASCII in quotes, in which a quote and a backslash are escaped.
_STRING = re.compile(r'"([ !#-\[\]-~]*(?:\\["\\][ !#-\[\]-~]*)*)"', re.ASCII)
_ETAG = re.compile(r'(?:W/)?("[^"]*")')


class Request:
    """A request, from the server and from the framework alike.

    ``route`` is the template of the route that took it, ``root_path`` the one by which it came.

    Headers are found by their bytes, in lower case as the server has them. Starlette's Request
    searches all of them for each text, and a POST needs nine.
    """

    __slots__ = ("_parameters", "first", "method", "path", "receive", "root_path", "route", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.root_path = ""
        self.route = NO_ROUTE
        # The first of each name, as Starlette finds it.
        self.first: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self._parameters: dict[str, list[str]] | None = None

    def header(self, name: bytes) -> str | None:
        """Return the header of that name, the first where there are several."""
        found = self.first.get(name)
        return None if found is None else found.decode("latin-1")

    def headers_named(self, name: bytes) -> list[str]:
        """Return all headers of that name."""
        return [text.decode("latin-1") for each, text in self.scope["headers"] if each == name]

    @property
    def parameters(self) -> dict[str, list[str]]:
        """The query's parameters, each with its values."""
        if self._parameters is None:
            self._parameters = {}
            for pair in filter(None, self.scope["query_string"].decode("latin-1").split("&")):
                name, _, text = pair.partition("=")
                self._parameters.setdefault(unquote_plus(name), []).append(unquote_plus(text))
        return self._parameters

    def parameter(self, name: str) -> str | None:
        """Return the first value of a query parameter."""
        return self.parameters.get(name, (None,))[0]


class Answer(Response):
    """A response whose headers are bytes already: Starlette's own would encode them one by one.

    No header's value may hold a text of the client's, since none is checked. They go out in the
    order in which Starlette has them: those given, then length and type.
    """

    def __init__(
        self,
        body: bytes,
        status_code: int = 200,
        headers: list[tuple[bytes, bytes]] | None = None,
        media_type: bytes = JSON,
    ) -> None:
        self.status_code = status_code
        self.background = None
        self.body: bytes = body
        self.raw_headers = [
            *(headers or ()),
            (b"content-length", b"%d" % len(body)),
            (b"content-type", media_type),
        ]


def body_too_large(bytes_max: int) -> Problem:
    """Return the problem of a body over ``bytes_max``."""
    return Problem(
        BODY_TOO_LARGE,
        f"The body may have at most {bytes_max} bytes: send less, or in several requests.",
        bytesMax=bytes_max,
    )


@dataclass(slots=True)
class Arrivals:
    """The bytes of all bodies that are still on their way to this process."""

    bytes_max: int
    bytes: int = 0


async def read_body(
    request: Request,
    bytes_max: int = BODY_BYTES_MAX,
    arrivals: Arrivals | None = None,
) -> bytes:
    """Return the request's body; raise a Problem when it is larger than ``bytes_max`` or encoded.

    Raise TooBusy when more bytes are on their way than ``arrivals`` allows, and ClientDisconnect.
    """
    encoding = request.header(b"content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        raise Problem(
            UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding {encoding[:40]!r} is not accepted: send the body uncompressed.",
        )
    length = request.header(b"content-length")
    if length is not None and length.isdecimal() and int(length) > bytes_max:
        raise body_too_large(bytes_max)
    chunks: list[bytes] = []
    received = counted = 0
    more = True
    try:
        while more:
            # Not by Starlette's stream, an asynchronous generator: most bodies are one message.
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            chunk = message.get("body", b"")
            received += len(chunk)
            if received > bytes_max:
                raise body_too_large(bytes_max)
            if arrivals is not None and received > BODY_BYTES_UNCOUNTED:
                if arrivals.bytes + len(chunk) > arrivals.bytes_max:
                    raise TooBusy
                arrivals.bytes += len(chunk)
                counted += len(chunk)
            chunks.append(chunk)
    finally:
        if arrivals is not None:
            arrivals.bytes -= counted
    return b"".join(chunks)


def media_type(request: Request) -> str:
    """Return the body's media type, in lower case and without parameters; empty when absent."""
    given = request.first.get(b"content-type", b"").decode("latin-1")
    return given.partition(";")[0].strip().lower()


def traceparent_of(request: Request) -> str | None:
    """Return the W3C trace context that the request's work belongs to, if there is one."""
    if SCOPE_KEY in request.scope:
        traceparent: str | None = request.scope[SCOPE_KEY]
        return traceparent
    # Not under saldo.serve: nothing is traced here, and what came is handed on.
    return read_traceparent(request.header(b"traceparent"))


def whole_number(request: Request, name: str, default: int, low: int, high: int) -> int:
    """Return a query parameter that is a whole number within bounds; raises Invalid."""
    text = request.parameters.get(name, [str(default)])[0]
    if not _WHOLE_NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise Invalid([FieldError(name, f"must be a whole number from {low} to {high}")])
    return int(text)


TIME_YEAR_MIN = 1900
TIME_YEAR_MAX = 2200
TIME_FAULT = (
    f"must be an RFC 3339 time between {TIME_YEAR_MIN} and {TIME_YEAR_MAX}, "
    "such as 2026-11-24T06:00:00Z"
)


def parse_time(text: str) -> datetime | None:
    """Return the moment that an RFC 3339 text names, in UTC; None when it is not one."""
    if not _RFC_3339.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if TIME_YEAR_MIN <= moment.year <= TIME_YEAR_MAX else None


def _only_header(request: Request, name: str, key: bytes) -> str | None:
    """Return the value of a header that may be given once; raises Invalid."""
    if key in request.first and len(request.headers_named(key)) > 1:
        raise Invalid([FieldError(name, "may be given once")])
    return request.header(key)


def if_match_of(request: Request) -> Tag | None:
    """Return the expected state of ``If-Match``, by its tag or its position; raises Invalid."""
    text = _only_header(request, "If-Match", b"if-match")
    if text is None:
        return None
    text = text.strip()
    tag = read_tag(text[1:-1])
    if tag is None or text[0] + text[-1] != '""':
        fault = 'must be one ETag or one position in quotes, such as "5"'
        raise Invalid([FieldError("If-Match", fault)])
    return tag


def refuse_if_match(request: Request, why: str) -> None:
    """Raise Invalid where If-Match would be ignored."""
    if b"if-match" in request.first:
        raise Invalid([FieldError("If-Match", why)])


def is_held(request: Request, etag: str) -> bool:
    """Return whether ``If-None-Match`` says that the client holds the representation ``etag``."""
    if b"if-none-match" not in request.first:
        return False
    text = ", ".join(request.headers_named(b"if-none-match"))
    return text.strip() == "*" or etag in _ETAG.findall(text)


def file_response(
    request: Request, body: bytes, media_type: str, headers: dict[str, str]
) -> Response:
    """Return the response to a request for a file that changes with a new version only."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    # The browser asks again each time: it gets a new version at once, and otherwise a 304.
    headers |= {"ETag": etag, "Cache-Control": "no-cache"}
    if is_held(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, media_type)


def idempotency_key_of(request: Request) -> str | None:
    """Return the Idempotency-Key: an RFC 8941 string, or the bare value; raises Invalid."""
    text = _only_header(request, "Idempotency-Key", b"idempotency-key")
    return None if text is None else read_idempotency_key(text, "Idempotency-Key")


def read_idempotency_key(text: str, field: str) -> str:
    """Return the key that ``text`` says, 1 to 255 printable ASCII characters; raises Invalid."""
    key = text.strip(" \t")
    if key.startswith('"'):
        match = _STRING.fullmatch(key)
        if match is None:
            raise Invalid([FieldError(field, 'is not a well-formed string: write "key"')])
        key = match.group(1)
        if "\\" in key:
            key = re.sub(r"\\(.)", r"\1", key)
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():  # noqa: PLR2004 - the bound above
        raise Invalid([FieldError(field, "must be 1 to 255 printable ASCII characters")])
    return key
