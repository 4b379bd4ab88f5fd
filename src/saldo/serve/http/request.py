"""The HTTP edge that the functions share: routes, bodies, headers, and errors to problems."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from saldo.domain.tag import read_tag
from saldo.serve.http import cors, openapi
from saldo.serve.http.problems import (
    BODY_TOO_LARGE,
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    UNSUPPORTED_MEDIA_TYPE,
    FieldError,
    Invalid,
    Problem,
    Rule,
    TooBusy,
    problem_response,
)
from saldo.serve.telemetry.tracing import SCOPE_KEY, read_traceparent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from saldo.domain.tag import Tag

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 1024 * 1024
# The server holds about so much of any body before a function asks for it.
BODY_BYTES_UNCOUNTED = 64 * 1024
# Under these names the scope of a request has the template of the route that it took, and the
# status that it was answered with.
ROUTE_KEY = "saldo.route"
STATUS_KEY = "saldo.status"
# What the framework answers itself.
FRAMEWORK_PATHS = frozenset({"/robots.txt", "/favicon.ico"})
# .NET writes seven digits of a second's fraction, Go and Java nine. The ledger keeps microseconds,
# so fromisoformat cuts off the rest.
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
# As many digits as a bigint: int() of thousands would take its time, or fail.
_WHOLE_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
# An RFC 8941 string: printable ASCII in quotes, in which a quote and a backslash are escaped.
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"', re.ASCII)
_ETAG = re.compile(r'(?:W/)?("[^"]*")')
_ONE_PARAMETER = re.compile(rb"([A-Za-z]+)=([A-Za-z0-9._~:@-]+)")
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")


class EdgeRequest:
    """A request as the handlers get it, from the server and from the framework alike.

    Headers are asked for by their bytes, in lower case as the server has them: Starlette's Request
    searches all of them for each text, and a POST asks for nine.
    """

    __slots__ = ("_parameters", "first", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        # The first of each name, as Starlette finds it.
        self.first: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self._parameters: QueryParams | None = None

    def header(self, name: bytes) -> str | None:
        """The header of that name, the first where there are several."""
        found = self.first.get(name)
        return None if found is None else found.decode("latin-1")

    def headers_named(self, name: bytes) -> list[str]:
        """All headers of that name."""
        return [text.decode("latin-1") for each, text in self.scope["headers"] if each == name]

    @property
    def parameters(self) -> QueryParams:
        """The query's parameters."""
        if self._parameters is None:
            self._parameters = QueryParams(self.scope["query_string"])
        return self._parameters

    def only_parameter(self) -> tuple[str, str] | None:
        """The query's one parameter, of characters that stand for themselves; None says nothing.

        As nearly every balance is asked for: reading escapes and repetitions takes 10 us.
        """
        match = _ONE_PARAMETER.fullmatch(self.scope["query_string"])
        return None if match is None else (match[1].decode(), match[2].decode())


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
        media_type: bytes = b"application/json",
    ) -> None:
        self.body: bytes
        self.status_code = status_code
        self.background = None
        self.body = body
        self.raw_headers = [
            *(headers or ()),
            (b"content-length", b"%d" % len(body)),
            (b"content-type", media_type),
        ]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path; ``{}`` in the path is one segment.

    The handler gets the request, the root path by which it came (or nothing), and the segments.
    ``query`` says which query parameters there are, and how often each may stand.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Response]]
    query: Mapping[str, int]
    pattern: re.Pattern[str]


def route(
    method: str,
    path: str,
    handler: Callable[..., Awaitable[Response]],
    query: Mapping[str, int] | None = None,
) -> Route:
    """A route for a path such as ``/transactions/{}``."""
    pattern = re.escape(path).replace(r"\{\}", "([^/]+)")
    return Route(method, path, handler, query or {}, re.compile(pattern + "/?"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What one function answers: its routes, the root path it also hangs under, its error table.

    ``package`` is the one that holds the function's part of the OpenAPI document. ``pages`` are for
    people: answered to GET without a token, and no part of the document, as ``/docs``.
    """

    function: str
    package: str
    root_path: str
    routes: Sequence[Route]
    rules: Mapping[type[Exception], Rule]
    pages: Sequence[Route] = ()
    # Method and whole path of the routes without a segment of the client's, so that they are looked
    # up: what _find would find for them, with the root path by which they came.
    plain: dict[tuple[str, str], tuple[Route, str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for each in self.routes:
            for prefix in ("", self.root_path):
                found = self._find(each.method, each.path)
                if found is not None and "{}" not in found[0].path:
                    self.plain[each.method, prefix + each.path] = found[0], prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI app of its own, with nothing between it and the server.

        The framework's stack (its router, four middlewares, a context and a random id for each
        request) costs more than the whole of a balance's reading; it would call ``answer`` as well.
        """
        response = await self._answer(EdgeRequest(scope, receive))
        scope[STATUS_KEY] = response.status_code
        await response(scope, receive, send)

    def answerer(self, scope: Scope) -> ASGIApp | None:
        """What answers a request without the framework; None where it is the framework's."""
        return None if scope["path"] in FRAMEWORK_PATHS else self

    async def answer(self, request: Request) -> Response:
        """The response to a request that the framework has taken; every error becomes a problem."""
        return await self._answer(EdgeRequest(request.scope, request.receive))

    async def _answer(self, request: EdgeRequest) -> Response:
        origins = cors.origins_of(self.function)
        if origins and cors.is_preflight(request):
            allowed = self._methods_at(self._split(request.scope["path"])[1])
            response = cors.preflight_response(request, origins, allowed)
        else:
            try:
                response = await self._dispatch(request)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
                response = self._refusal(error)
            if origins:
                cors.mark(request, response, origins)
        headers = response.raw_headers
        headers.append(_NOSNIFF)
        for name, _ in headers:
            if name == b"cache-control":
                return response
        headers.append(_NO_STORE)
        return response

    def _refusal(self, error: Exception) -> Response:
        """The response to an error: a problem, by the function's own table."""
        if isinstance(error, ClientDisconnect):
            return Response(status_code=400)  # nobody is there to read it
        response = problem_response(error, self.rules)
        if response is None:
            log.error("unexpected error", exc_info=error)
            response = problem_response(Problem(INTERNAL, "The error was logged."), {})
        return response or Response(status_code=500)

    def _split(self, path: str) -> tuple[str, str]:
        """The root path by which a request came, or nothing, and the rest of its path."""
        if path == self.root_path or path.startswith(self.root_path + "/"):
            return self.root_path, path[len(self.root_path) :] or "/"
        return "", path

    async def _dispatch(self, request: EdgeRequest) -> Response:
        asked: str = request.scope["method"]
        method = "GET" if asked == "HEAD" else asked
        segments: tuple[str, ...] = ()
        plain = self.plain.get((method, request.scope["path"]))
        if plain is not None:
            each, prefix = plain
        else:
            prefix, path = self._split(request.scope["path"])
            found = self._find(method, path)
            if found is None:
                if method == "GET" and path in {"/openapi.json", "/docs"}:
                    request.scope[ROUTE_KEY] = path
                return self._without_route(asked, method, path)
            each, segments = found
        request.scope[ROUTE_KEY] = each.path
        if request.scope["query_string"]:
            _check_query(request, each.query)
        response = await each.handler(request, prefix, *segments)
        return _without_body(response) if asked == "HEAD" else response

    def _find(self, method: str, path: str) -> tuple[Route, tuple[str, ...]] | None:
        """The first route that takes ``path`` (without the root path), and the path's segments."""
        for each in (*self.routes, *self.pages):
            if each.method == method:
                match = each.pattern.fullmatch(path)
                if match is not None:
                    return each, match.groups()
        return None

    def _without_route(self, asked: str, method: str, path: str) -> Response:
        if method == "GET" and path in {"/openapi.json", "/docs"}:
            return self._described(path)
        allowed = self._methods_at(path)
        if allowed:
            listed = ", ".join(allowed)
            raise Problem(
                replace(METHOD_NOT_ALLOWED, headers={"Allow": listed}),
                f"{asked} is not allowed here: use {listed}.",
            )
        raise Problem(NOT_FOUND, f"There is no {path} here; /openapi.json lists what there is.")

    def _methods_at(self, path: str) -> list[str]:
        """The methods that ``path`` takes, in order; none where there is nothing."""
        methods = {
            each.method for each in (*self.routes, *self.pages) if each.pattern.fullmatch(path)
        }
        if path in {"/openapi.json", "/docs"}:
            methods.add("GET")
        if "GET" in methods:
            methods.add("HEAD")
        if methods and cors.origins_of(self.function):
            methods.add("OPTIONS")
        return sorted(methods)

    def _described(self, path: str) -> Response:
        headers = {"Cache-Control": "no-cache"}
        if path == "/openapi.json":
            text = openapi.document_text(self.package, tuple(self.rules.values()))
            return Response(text, 200, headers, "application/json")
        page = openapi.page(self.package, tuple(self.rules.values()))
        headers |= {"Content-Security-Policy": page.policy, "Referrer-Policy": "no-referrer"}
        return Response(page.html, 200, headers, "text/html")


def _check_query(request: EdgeRequest, known: Mapping[str, int]) -> None:
    """Refuse a parameter that is not known, or stands too often: it would be ignored."""
    only = request.only_parameter()
    if only is not None and only[0] in known:
        return
    errors: list[FieldError] = []
    given = request.parameters
    for name in dict.fromkeys(given.keys()):
        times_max = known.get(name)
        if times_max is None:
            listed = f"the parameters are {', '.join(known)}" if known else "there are none here"
            errors.append(FieldError(name[:80], f"is not known; {listed}"))
        elif len(given.getlist(name)) > times_max:
            times = "once" if times_max == 1 else f"{times_max} times"
            errors.append(FieldError(name, f"may be given {times}"))
    if errors:
        raise Invalid(errors)


def _without_body(response: Response) -> Response:
    """What HEAD gets of a stream: its headers. The server leaves out any other body itself."""
    if not isinstance(response, StreamingResponse):
        return response
    return Response(None, response.status_code, response.headers)


def body_too_large(bytes_max: int) -> Problem:
    """The problem of a body over ``bytes_max``."""
    return Problem(
        BODY_TOO_LARGE,
        f"The body may have at most {bytes_max} bytes: send less, or in several requests.",
        bytesMax=bytes_max,
    )


class Arrivals:
    """The bytes of all bodies that are still on their way to this process."""

    __slots__ = ("bytes", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.bytes_max = bytes_max


async def read_body(
    request: EdgeRequest,
    bytes_max: int = BODY_BYTES_MAX,
    arrivals: Arrivals | None = None,
) -> bytes:
    """Return the request's body; raise a Problem when it is larger than ``bytes_max`` or encoded.

    Raise TooBusy when more bytes are on their way than ``arrivals`` allows.
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
    return await take_body(request.receive, bytes_max, arrivals)


async def take_body(receive: Receive, bytes_max: int, arrivals: Arrivals | None = None) -> bytes:
    """Return the body that ``receive`` brings, as read_body; or raise ClientDisconnect."""
    chunks: list[bytes] = []
    received = counted = 0
    more = True
    try:
        while more:
            # Not by Starlette's stream, an asynchronous generator: most bodies are one message.
            message = await receive()
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
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def media_type(request: EdgeRequest) -> str:
    """The media type of the body, in lower case and without parameters; empty when absent."""
    given = request.first.get(b"content-type", b"")
    if given == b"application/json":  # nearly always: the same in one step
        return "application/json"
    return given.decode("latin-1").partition(";")[0].strip().lower()


def traceparent_of(request: EdgeRequest) -> str | None:
    """The W3C trace context that the request's work belongs to, if there is one."""
    if SCOPE_KEY in request.scope:
        traceparent: str | None = request.scope[SCOPE_KEY]
        return traceparent
    # Not behind the Gate: nothing is traced here, and what came is handed on.
    return read_traceparent(request.header(b"traceparent"))


def whole_number(request: EdgeRequest, name: str, default: int, low: int, high: int) -> int:
    """A query parameter that is a whole number within bounds; raises Invalid."""
    text = request.parameters.get(name, str(default))
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
    """The moment that an RFC 3339 text names, in UTC; None when it is not one."""
    if not _RFC_3339.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if TIME_YEAR_MIN <= moment.year <= TIME_YEAR_MAX else None


def _only_header(request: EdgeRequest, name: str, key: bytes) -> str | None:
    """The value of a header that may stand once; raises Invalid."""
    text = request.header(key)
    stand_twice = len(request.first) < len(request.scope["headers"])
    if stand_twice and len(request.headers_named(key)) > 1:
        raise Invalid([FieldError(name, "may be given once")])
    return text


def if_match_of(request: EdgeRequest) -> Tag | None:
    """The expected state of ``If-Match``, by its tag or its bare position; raises Invalid."""
    text = _only_header(request, "If-Match", b"if-match")
    if text is None:
        return None
    text = text.strip()
    tag = read_tag(text[1:-1])
    if tag is None or text[0] + text[-1] != '""':
        fault = 'must be one ETag or one position in quotes, such as "5"'
        raise Invalid([FieldError("If-Match", fault)])
    return tag


def refuse_if_match(request: EdgeRequest, why: str) -> None:
    """Raise Invalid where If-Match would be ignored."""
    if b"if-match" in request.first:
        raise Invalid([FieldError("If-Match", why)])


def is_held(request: EdgeRequest, etag: str) -> bool:
    """Whether ``If-None-Match`` says that the client holds the representation of ``etag``."""
    text = ", ".join(request.headers_named(b"if-none-match"))
    return text.strip() == "*" or etag in _ETAG.findall(text)


def idempotency_key_of(request: EdgeRequest) -> str | None:
    """The Idempotency-Key: an RFC 8941 string, or the bare value; raises Invalid."""
    text = _only_header(request, "Idempotency-Key", b"idempotency-key")
    return None if text is None else read_idempotency_key(text, "Idempotency-Key")


def read_idempotency_key(text: str, field: str) -> str:
    """The key that ``text`` says, 1 to 255 printable ASCII characters; raises Invalid."""
    key = text.strip(" \t")
    inner = key[1:-1]
    if key == f'"{inner}"' and '"' not in inner and "\\" not in inner and inner.isascii():
        key = inner  # the common form of what the pattern takes; the checks below are for all
    elif key.startswith('"'):
        match = _STRING.fullmatch(key)
        if match is None:
            raise Invalid([FieldError(field, 'is not a well-formed string: write "key"')])
        key = match.group(1)
        if "\\" in key:
            key = re.sub(r"\\(.)", r"\1", key)
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():  # noqa: PLR2004 - the bound above
        raise Invalid([FieldError(field, "must be 1 to 255 printable ASCII characters")])
    return key
