"""Routes: which handler responds to a method and a path, and what its errors become."""

from __future__ import annotations

import itertools
import logging
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from saldo.serve.http.problems import (
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    FieldError,
    Invalid,
    Problem,
    Rule,
    problem_response,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from saldo.serve.http.request import Request

log = logging.getLogger(__name__)

# What the framework hands to a function.
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")


class Route:
    """A method and a path; ``{}`` in the path is one segment.

    The handler gets what the function holds open, the request, and the segments. ``query`` says
    which query parameters there are, and how often each may be given.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Callable[..., Awaitable[Response]],
        query: Mapping[str, int] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.handler = handler
        self.query = query or {}
        self.pattern = re.compile(re.escape(path).replace(r"\{\}", "([^/]+)") + "/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """The routes of one function, the root path they also hang under, and its table of errors.

    ``pages`` are for people: they need no token and are no part of the OpenAPI document.
    """

    root_path: str
    routes: Sequence[Route]
    rules: Mapping[type[Exception], Rule]
    pages: Sequence[Route] = ()

    async def dispatch(self, held: object, request: Request) -> Response:
        """Return the response of the route that takes ``request``; raises what its handler does."""
        if request.method not in METHODS:
            listed = ", ".join(METHODS)
            raise _not_allowed(f"Nothing here takes it: use {listed}.", listed)
        method = "GET" if request.method == "HEAD" else request.method
        path = request.path
        if path.startswith(self.root_path + "/") or path == self.root_path:
            request.root_path, path = self.root_path, path[len(self.root_path) :] or "/"
        for each in itertools.chain(self.routes, self.pages):
            match = each.pattern.fullmatch(path) if each.method == method else None
            if match is not None:
                break
        else:
            raise self._without_route(request.method, path)
        request.route = each.path
        if request.scope["query_string"]:
            _check_query(request, each.query)
        response = await each.handler(held, request, *match.groups())
        return _without_body(response) if request.method == "HEAD" else response

    def refusal(self, error: Exception) -> Response:
        """Return the response to an error: a problem, by the function's own table."""
        if isinstance(error, ClientDisconnect):
            return Response(status_code=400)  # there is no one to read it
        response = problem_response(error, self.rules)
        if response is None:
            log.error("unexpected error", exc_info=error)
            response = Problem(INTERNAL, "The error was logged.").response()
        return response

    def _without_route(self, method: str, path: str) -> Problem:
        methods = {
            each.method for each in (*self.routes, *self.pages) if each.pattern.fullmatch(path)
        }
        if not methods:
            return Problem(
                NOT_FOUND, f"There is no {path} here; /openapi.json lists what there is."
            )
        listed = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
        return _not_allowed(f"{method} is not allowed here: use {listed}.", listed)


def _not_allowed(detail: str, listed: str) -> Problem:
    return Problem(replace(METHOD_NOT_ALLOWED, headers={"Allow": listed}), detail)


def harden(response: Response) -> Response:
    """Add the headers that every response carries; nothing is kept by a cache unless it says so."""
    headers = response.raw_headers
    headers.append(_NOSNIFF)
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append(_NO_STORE)
    return response


def _check_query(request: Request, known: Mapping[str, int]) -> None:
    """Refuse a parameter that is unknown or given too often: it would be ignored."""
    errors: list[FieldError] = []
    for name, values in request.parameters.items():
        times_max = known.get(name)
        if times_max is None:
            listed = f"the parameters are {', '.join(known)}" if known else "there are none here"
            errors.append(FieldError(name[:80], f"is not known; {listed}"))
        elif len(values) > times_max:
            times = "once" if times_max == 1 else f"{times_max} times"
            errors.append(FieldError(name, f"may be given {times}"))
    if errors:
        raise Invalid(errors)


def _without_body(response: Response) -> Response:
    """Return a stream's headers for HEAD. The server leaves out any other body itself."""
    if not isinstance(response, StreamingResponse):
        return response
    return Response(None, response.status_code, response.headers)
