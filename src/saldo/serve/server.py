"""Serving a function in earnest: the framework's app with a life of its own, behind a gate.

The framework makes the app from ``main.py``; this adds what it lacks: resources that open at start
and close after the last request, probes in front of its catch-all route, and a drain. Nothing of
its private parts is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from starlette.exceptions import HTTPException

from saldo.serve.http.problems import METHOD_NOT_ALLOWED, Problem, problem_response
from saldo.serve.http.request import BODY_BYTES_MAX, ROUTE_KEY, STATUS_KEY
from saldo.serve.telemetry import metrics, tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    Answerer = Callable[[Scope], ASGIApp | None]

log = logging.getLogger(__name__)

GC_ALLOCATIONS = 20_000

# What the framework hands to a function.
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class Closes(Protocol):
    """A resource that must be closed."""

    async def close(self) -> None:
        """Finish what is under way and let go of everything."""


Held = TypeVar("Held", bound=Closes)


class Resident(Generic[Held]):
    """What a function holds between requests, opened once.

    Under ``saldo.serve`` it opens before the first request is taken and closes after the last.
    Under the plain ``functions-framework`` command, which has no such moments, the first request
    opens it.
    """

    def __init__(self, open_held: Callable[[], Awaitable[Held]]) -> None:
        self._open = open_held
        # None until it is opened: asked for first, get() being a coroutine of its own.
        self.held: Held | None = None
        self._opening = asyncio.Lock()
        RESIDENTS.append(self)

    async def get(self) -> Held:
        """The resource, opened if it is not yet."""
        if self.held is None:
            async with self._opening:
                if self.held is None:
                    self.held = await self._open()
        return self.held

    async def close(self) -> None:
        """Close the resource if it was opened."""
        if self.held is not None:
            held, self.held = self.held, None
            await held.close()


# The residents of the one function that this process has loaded.
RESIDENTS: list[Resident[Any]] = []


# What ends by itself only when it is told that the process stops: event streams, long waits.
DRAINS: list[Callable[[], None]] = []


def begin_drain() -> None:
    """Tell whoever asked in DRAINS that the process is about to stop. Runs on the loop's thread."""
    for drain in DRAINS:
        drain()


@contextlib.asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Open every resident before the first request, close them after the last."""
    for resident in RESIDENTS:
        await resident.get()
    # What was loaded lives as long as the process: the collector need not look at it again. It runs
    # more seldom than by default, since a request leaves little for it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)
    try:
        yield
    finally:
        for resident in reversed(RESIDENTS):
            await resident.close()


# An answer that never began: the client went away.
WENT_AWAY = 499
# A proxy on the way here adds one of these, and Knative's always does.
PROXIED = frozenset({b"forwarded", b"x-forwarded-for"})


class Gate:
    """Answers the probes and /metrics, and everything else through ``app``, counted and traced.

    ``guard`` may answer a request itself (returning an ASGI app) before its body is read: the
    projector's sender is checked there, since a cloud_event function sees no headers. ``answerer``
    says what answers a request as the function would, without the framework's stack in between;
    None where the framework must.
    """

    def __init__(
        self,
        app: ASGIApp,
        guard: Callable[[Scope], Awaitable[ASGIApp | None]] | None = None,
        answerer: Answerer | None = None,
        function: str = "",
    ) -> None:
        self._app = app
        self._guard = guard
        self._answerer = answerer
        self._function = function
        self._delivers = function == metrics.PROJECT
        self._in_flight = 0
        metrics.HTTP_IN_FLIGHT.observe_one(lambda: self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in {"/readyz", "/livez"}:
            # The server takes connections only once the residents are open: to be asked at all
            # is to be ready. The database is not asked, or its outage would stop every pod.
            await _plain(send, 200, b"ok\n")
        elif scope["path"] == "/metrics" and PROXIED.isdisjoint(dict(scope["headers"])):
            # As a probe: for who reaches the pod itself, which a NetworkPolicy decides. What came
            # through a proxy is the outside, and finds nothing here.
            text = await asyncio.to_thread(metrics.prometheus_text, self._function)
            await _plain(send, 200, text, metrics.CONTENT_TYPE)
        else:
            began = time.monotonic()
            self._in_flight += 1
            trace = tracing.begin_request(scope, delivers=self._delivers)
            try:
                await self._app_for(scope)(scope, receive, send)
            finally:
                self._in_flight -= 1
                self._count(scope, time.monotonic() - began, trace)

    def _count(self, scope: Scope, took_s: float, trace: tracing.Trace | None) -> None:
        """Count an answer, and end its span where it is sampled."""
        status = scope.get(STATUS_KEY, WENT_AWAY)
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = "/" if self._delivers else scope.get(ROUTE_KEY, "none")
        metrics.HTTP_REQUESTS.add((method, route, status))
        metrics.HTTP_DURATION.record(took_s, (route,))
        if trace is not None and trace.span is not None and trace.kept:
            tracing.end_request(trace.span, route, status)
            log.info("%s %s: %d in %.1f ms", method, route, status, took_s * 1000)

    def _app_for(self, scope: Scope) -> ASGIApp:
        """What answers a request, and notes its status."""
        if scope["method"] not in METHODS:
            # The framework would answer in words of its own.
            return _refuse_method
        return self._unguarded(scope) if self._guard is None else self._guarded

    def _unguarded(self, scope: Scope) -> ASGIApp:
        direct = None if self._answerer is None else self._answerer(scope)
        return direct or self._by_framework

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = None if self._guard is None else await self._guard(scope)
        if answer is None:
            await self._unguarded(scope)(scope, _bounded(receive), send)
        else:
            await answer(scope, receive, _noting(scope, send))

    async def _by_framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _noting(scope, send))


def _noting(scope: Scope, send: Send) -> Send:
    """``send`` that notes in ``scope`` with what status an answer begins."""

    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            scope[STATUS_KEY] = message["status"]
        await send(message)

    return noting


def _bounded(receive: Receive) -> Receive:
    """``receive`` that refuses a body over BODY_BYTES_MAX, which the framework would take whole."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > BODY_BYTES_MAX:
            raise HTTPException(413, f"at most {BODY_BYTES_MAX} bytes")
        return message

    return bounded


async def _refuse_method(scope: Scope, receive: Receive, send: Send) -> None:
    allowed = ", ".join(METHODS)
    rule = replace(METHOD_NOT_ALLOWED, headers={"Allow": allowed, "Cache-Control": "no-store"})
    refused = problem_response(Problem(rule, f"Nothing here takes it: use {allowed}."), {})
    assert refused is not None  # noqa: S101 - a Problem carries its own rule
    await refused(scope, receive, _noting(scope, send))


async def _plain(
    send: Send, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8"
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type.encode()),
                (b"content-length", str(len(body)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


# Set by a function's module while it is loaded: the guard that its requests must pass.
GUARDS: list[Callable[[Scope], Awaitable[ASGIApp | None]]] = []


# Set by a function's module while it is loaded: what answers a request as the function would.
ANSWERERS: list[Answerer] = []


_gated = False


def is_gated() -> bool:
    """Whether this process serves through a Gate, and so checks who delivers."""
    return _gated


def build_app(function: str, source: str) -> Gate:
    """The ASGI app of ``function``, loaded from its ``main.py``."""
    from functions_framework.aio import create_asgi_app  # noqa: PLC0415 - brings Flask, 0.2 s of CPU

    global _gated  # noqa: PLW0603 - one process serves one function
    _gated = True
    app: Starlette = create_asgi_app(target=function, source=source)  # type: ignore[no-untyped-call]
    app.router.lifespan_context = lifespan
    return Gate(app, GUARDS[0] if GUARDS else None, ANSWERERS[0] if ANSWERERS else None, function)
