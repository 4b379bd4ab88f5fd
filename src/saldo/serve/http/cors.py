"""Cross-origin requests: allowed from exactly the configured origins, none by default.

There are no cookies here, so no credentials mode: a page sends its bearer token as a header.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from starlette.responses import Response

from saldo.serve.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saldo.serve.http.request import EdgeRequest

PREFLIGHT_AGE_S = 600
REQUEST_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer, "
    "Traceparent, Tracestate, Ce-Id, Ce-Source, Ce-Specversion, Ce-Subject, Ce-Time, Ce-Type"
)
RESPONSE_HEADERS = (
    "Allow, ETag, Idempotency-Replayed, Location, Preference-Applied, Retry-After, Saldo-Behind, "
    "WWW-Authenticate, Ce-Id, Ce-Partitionkey, Ce-Sequence, Ce-Source, Ce-Specversion, Ce-Subject, "
    "Ce-Time, Ce-Type"
)


@functools.cache
def origins_of(function: str) -> frozenset[str]:
    """The origins whose pages may call ``function``."""
    return read_settings(function).cors_origins


def is_preflight(request: EdgeRequest) -> bool:
    """Whether a browser asks for leave."""
    return (
        request.scope["method"] == "OPTIONS" and b"access-control-request-method" in request.first
    )


def preflight_response(
    request: EdgeRequest, origins: frozenset[str], methods: Sequence[str]
) -> Response:
    """Leave for the methods of a path, if the origin is one of ours; otherwise nothing is said."""
    response = Response(status_code=204)
    if mark(request, response, origins):
        response.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
        response.headers["Access-Control-Allow-Headers"] = REQUEST_HEADERS
        response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_AGE_S)
    return response


def mark(request: EdgeRequest, response: Response, origins: frozenset[str]) -> bool:
    """Let a page of one of ``origins`` read ``response``; whether the request came from one."""
    response.headers.append("Vary", "Origin")
    origin = request.header(b"origin")
    if origin not in origins:
        return False
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = RESPONSE_HEADERS
    return True
