"""Routes: which handler responds to a method and a path, and what its errors become."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from saldo.serve.http import openapi
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


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path; ``{}`` in the path is one segment.

    The handler gets what the function holds open, the request, and the segments. ``query`` says
    which query parameters there are, and how often each may be given.
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
    """Return the route for a path such as ``/transactions/{}``."""
    pattern = re.escape(path).replace(r"\{\}", "([^/]+)")
    return Route(method, path, handler, query or {}, re.compile(pattern + "/?"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """The routes of one function, the root path they also hang under, and its table of errors.

    ``package`` holds the function's part of the OpenAPI document, if it has one. ``pages`` are for
    people: they need no token and are no part of that document.
    """

    root_path: str
    routes: Sequence[Route]
    rules: Mapping[type[Exception], Rule]
    pages: Sequence[Route] = ()
    package: str | None = None
    # Routes without a segment, by method and whole path, with the root path of the request.
    fixed: dict[tuple[str, str], tuple[Route, str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for each in self.routes:
            for prefix in ("", self.root_path):
                found = self._find(each.method, each.path)
                if found is not None and "{}" not in found[0].path:
                    self.fixed[each.method, prefix + each.path] = found[0], prefix

    async def dispatch(self, held: object, request: Request) -> Response:
        """Return the response of the route that takes ``request``; raises what its handler does."""
        method = "GET" if request.method == "HEAD" else request.method
        segments: tuple[str, ...] = ()
        fixed = self.fixed.get((method, request.path))
        if fixed is not None:
            found, request.root_path = fixed
        else:
            request.root_path, path = self._split(request.path)
            match = self._find(method, path)
            if match is None:
                return self._without_route(request, method, path)
            found, segments = match
        request.route = found.path
        if request.scope["query_string"]:
            _check_query(request, found.query)
        response = await found.handler(held, request, *segments)
        return _without_body(response) if request.method == "HEAD" else response

    def refusal(self, error: Exception) -> Response:
        """Return the response to an error: a problem, by the function's own table."""
        if isinstance(error, ClientDisconnect):
            return Response(status_code=400)  # there is no one to read it
        response = problem_response(error, self.rules)
        if response is None:
            log.error("unexpected error", exc_info=error)
            response = problem_response(Problem(INTERNAL, "The error was logged."), {})
        return response or Response(status_code=500)

    def _split(self, path: str) -> tuple[str, str]:
        """Return the root path of a request, or nothing, and the rest of its path."""
        if path == self.root_path or path.startswith(self.root_path + "/"):
            return self.root_path, path[len(self.root_path) :] or "/"
        return "", path

    def _find(self, method: str, path: str) -> tuple[Route, tuple[str, ...]] | None:
        """Return the first route that takes ``path`` (without the root path), with its segments."""
        for each in (*self.routes, *self.pages):
            if each.method == method:
                match = each.pattern.fullmatch(path)
                if match is not None:
                    return each, match.groups()
        return None

    def _without_route(self, request: Request, method: str, path: str) -> Response:
        if self.package is not None and method == "GET" and path in openapi.PATHS:
            request.route = path
            return openapi.response(path, self.package, tuple(self.rules.values()))
        allowed = self.methods_at(path)
        if allowed:
            listed = ", ".join(allowed)
            raise Problem(
                replace(METHOD_NOT_ALLOWED, headers={"Allow": listed}),
                f"{request.method} is not allowed here: use {listed}.",
            )
        raise Problem(NOT_FOUND, f"There is no {path} here; /openapi.json lists what there is.")

    def methods_at(self, path: str) -> list[str]:
        """Return the methods that ``path`` takes, in order; none where there is nothing."""
        methods = {
            each.method for each in (*self.routes, *self.pages) if each.pattern.fullmatch(path)
        }
        if self.package is not None and path in openapi.PATHS:
            methods.add("GET")
        if "GET" in methods:
            methods.add("HEAD")
        return sorted(methods)


def unknown_method() -> Response:
    """Return the response to a method that the framework would not hand to a function."""
    listed = ", ".join(METHODS)
    rule = replace(METHOD_NOT_ALLOWED, headers={"Allow": listed})
    response = problem_response(Problem(rule, f"Nothing here takes it: use {listed}."), {})
    assert response is not None  # noqa: S101 - a Problem carries its own rule
    return response


def harden(response: Response) -> Response:
    """Add the headers that every response carries; nothing is kept by a cache unless it says so."""
    headers = response.raw_headers
    headers.append(_NOSNIFF)
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append(_NO_STORE)
    return response


def _check_query(request: Request, known: Mapping[str, int]) -> None:
    """Refuse a parameter that is unknown or given too often: it would be ignored."""
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
    """Return a stream's headers for HEAD. The server leaves out any other body itself."""
    if not isinstance(response, StreamingResponse):
        return response
    return Response(None, response.status_code, response.headers)
