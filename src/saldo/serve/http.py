"""The HTTP edge that the functions share: routes, bodies, headers, and errors to problems."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starlette.responses import Response

from saldo.serve.problems import (
    BODY_TOO_LARGE,
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    UNSUPPORTED_MEDIA_TYPE,
    FieldError,
    Invalid,
    Problem,
    Rule,
    problem_response,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.requests import Request

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 1024 * 1024
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_QUOTED_POSITION = re.compile(r'"([0-9]{1,18})"', re.ASCII)


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path; ``{}`` in the path is one segment.

    The handler gets the request, the root path by which it came (or nothing), and the segments.
    """

    method: str
    path: re.Pattern[str]
    handler: Callable[..., Awaitable[Response]]


def route(method: str, path: str, handler: Callable[..., Awaitable[Response]]) -> Route:
    """A route for a path such as ``/transactions/{}``."""
    pattern = re.escape(path).replace(r"\{\}", "([^/]+)")
    return Route(method, re.compile(pattern + "/?"), handler)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What one function answers: its routes, the root path it also hangs under, its error table."""

    root_path: str
    routes: Sequence[Route]
    rules: Mapping[type[Exception], Rule]

    async def answer(self, request: Request) -> Response:
        """The response to ``request``; every error becomes a problem."""
        try:
            return await self._dispatch(request)
        except Exception as error:  # noqa: BLE001 - the last place that can turn it into an answer
            response = problem_response(error, self.rules)
            if response is not None:
                return response
            log.exception("unexpected error")
            made = problem_response(Problem(INTERNAL, "The error was logged."), {})
            return made or Response(status_code=500)

    async def _dispatch(self, request: Request) -> Response:
        scope = request.scope
        path: str = scope["path"]
        prefix = ""
        if path.startswith(self.root_path):
            prefix = self.root_path
            path = path[len(prefix) :] or "/"
        method: str = scope["method"]
        allowed: set[str] = set()
        for each in self.routes:
            match = each.path.fullmatch(path)
            if match is None:
                continue
            if method == each.method or (method == "HEAD" and each.method == "GET"):
                return await each.handler(request, prefix, *match.groups())
            allowed.add(each.method)
        if allowed:
            rule = Rule(
                status=METHOD_NOT_ALLOWED.status,
                name=METHOD_NOT_ALLOWED.name,
                title=METHOD_NOT_ALLOWED.title,
                headers={"Allow": ", ".join(sorted(allowed))},
            )
            raise Problem(
                rule, f"{method} is not allowed here: use {', '.join(sorted(allowed))}."
            )
        raise Problem(
            NOT_FOUND, f"There is no {path} here; /openapi.json lists what there is."
        )


def body_too_large(bytes_max: int) -> Problem:
    """The problem of a body over ``bytes_max``."""
    return Problem(
        BODY_TOO_LARGE,
        f"The body may have at most {bytes_max} bytes: send less, or in several requests.",
        bytesMax=bytes_max,
    )


async def read_body(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The request's body; raises a Problem when it is larger than ``bytes_max`` or encoded."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise Problem(
            UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding {encoding[:40]!r} is not accepted: send the body uncompressed.",
        )
    length = request.headers.get("content-length")
    if length is not None and length.isdecimal() and int(length) > bytes_max:
        raise body_too_large(bytes_max)
    chunks: list[bytes] = []
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > bytes_max:
            raise body_too_large(bytes_max)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def media_type(request: Request) -> str:
    """The media type of the body, in lower case and without parameters; empty when absent."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def traceparent_of(request: Request) -> str | None:
    """The W3C trace context that came with the request, when it is well formed."""
    text = request.headers.get("traceparent")
    return text if text is not None and _TRACEPARENT.fullmatch(text) else None


def whole_number(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A query parameter that is a whole number within bounds; raises Invalid."""
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or not low <= int(text[:20]) <= high:
        raise Invalid(
            [FieldError(name, f"must be a whole number from {low} to {high}")]
        )
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


def if_match_of(request: Request) -> int | None:
    """The expected position of ``If-Match: "5"``; raises Invalid on any other form."""
    text = request.headers.get("if-match")
    if text is None:
        return None
    match = _QUOTED_POSITION.fullmatch(text.strip())
    if match is None:
        raise Invalid(
            [FieldError("If-Match", 'must be one position in quotes, such as "5"')]
        )
    return int(match.group(1))


def idempotency_key_of(request: Request) -> str | None:
    """The Idempotency-Key: an RFC 8941 string, or the bare value; raises Invalid."""
    text = request.headers.get("idempotency-key")
    return None if text is None else read_idempotency_key(text, "Idempotency-Key")


def read_idempotency_key(text: str, field: str) -> str:
    """The key that ``text`` says, 1 to 255 printable ASCII characters; raises Invalid."""
    key = text.strip(" \t")
    if key.startswith('"'):
        inner = key[1:-1]
        if (
            len(key) < 2
            or not key.endswith('"')
            or re.search(r'(?<!\\)(?:\\\\)*"', inner)
        ):  # noqa: PLR2004 - two quotes
            raise Invalid(
                [FieldError(field, 'has an opening quote without its end: write "key"')]
            )
        key = re.sub(r'\\(["\\])', r"\1", inner)
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():  # noqa: PLR2004 - the bound above
        raise Invalid(
            [FieldError(field, "must be 1 to 255 printable ASCII characters")]
        )
    return key
