"""One function as an ASGI app: startup, shutdown, health checks, metrics and its routes.

``main.py`` of a function names its FunctionApp ``app``. ``saldo.serve`` serves that app. The
``functions-framework`` command has neither startup nor shutdown: there the decorated function calls
``respond_to``, and the first request opens what is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from starlette.middleware.cors import CORSMiddleware

from saldo.serve.http.problems import ProblemResponse
from saldo.serve.http.request import TEXT, Answer, Request
from saldo.serve.http.router import METHODS, harden
from saldo.serve.settings import read_settings
from saldo.serve.telemetry import tracing
from saldo.serve.telemetry.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import starlette.requests
    from prometheus_client import Counter, Histogram
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from saldo.serve.http.router import Router
    from saldo.serve.settings import Settings

log = logging.getLogger(__name__)

GC_ALLOCATIONS = 20_000
# The status of a response that never began: the client went away.
WENT_AWAY = 499
# A proxy on the way here adds one of these, and Knative's always does.
PROXIED = frozenset({b"forwarded", b"x-forwarded-for"})
PREFLIGHT_AGE_S = 600
REQUEST_HEADERS = (
    "Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match",
    "Last-Event-ID", "Prefer", "Traceparent", "Tracestate",
    "Ce-Id", "Ce-Source", "Ce-Specversion", "Ce-Subject", "Ce-Time", "Ce-Type",
)  # fmt: skip
RESPONSE_HEADERS = (
    "Allow", "ETag", "Idempotency-Replayed", "Location", "Preference-Applied", "Retry-After",
    "Saldo-Behind", "WWW-Authenticate", "Ce-Id", "Ce-Partitionkey", "Ce-Sequence", "Ce-Source",
    "Ce-Specversion", "Ce-Subject", "Ce-Time", "Ce-Type",
)  # fmt: skip


class Closes(Protocol):
    """What a function holds between requests."""

    def drain(self) -> None:
        """End what waits for long: the process is about to stop. Runs on the loop's thread."""

    async def close(self) -> None:
        """Finish what is under way and let go of everything."""


Held = TypeVar("Held", bound=Closes)
Counts = TypeVar("Counts", bound=Metrics)


@dataclass(eq=False, kw_only=True)
class FunctionApp(Generic[Counts, Held]):
    """One function: its routes, and what it holds between requests.

    ``delivers``: its requests are a source's, each in the trace of the event that it carries.
    """

    router: Router
    metrics: Counts
    open_held: Callable[[Settings, Counts], Awaitable[Held]]
    delivers: bool = False
    # The framework's own app, under saldo.serve: it has the server's startup and shutdown.
    framework: ASGIApp | None = field(default=None, init=False)
    _held: Held | None = field(default=None, init=False)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _in_flight: int = field(default=0, init=False)
    # The counters of each method, route and status. To look one up by its labels takes 1 us.
    _series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = field(
        default_factory=dict, init=False
    )

    def __post_init__(self) -> None:
        self.metrics.http_in_flight.observe(lambda: self._in_flight)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.metrics.function

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once; raises BadSetting."""
        return read_settings(self.name)

    async def held(self) -> Held:
        """Return what the function holds, opened if it is not yet."""
        if self._held is None:
            async with self._opening:
                if self._held is None:
                    self._held = await self.open_held(self.settings, self.metrics)
        return self._held

    async def close(self) -> None:
        """Close what is held, if it was opened."""
        if self._held is not None:
            held, self._held = self._held, None
            await held.close()

    def drain(self) -> None:
        """End what waits for long: the process is about to stop."""
        if self._held is not None:
            self._held.drain()

    async def respond_to(self, request: starlette.requests.Request) -> Response:
        """Return the response to a request that the framework has taken."""
        return await self.respond(Request(request.scope, request.receive))

    async def respond(self, request: Request) -> Response:
        """Return the response to a request; every error becomes a problem."""
        try:
            response = await self.router.dispatch(self._held or await self.held(), request)
        except Exception as error:  # noqa: BLE001 - every error gets a response
            response = self.router.refusal(error)
        if isinstance(response, ProblemResponse):
            self.metrics.refusals.labels(response.name).inc()
        return harden(response)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: a probe, /metrics, or a route, counted and traced."""
        if scope["type"] != "http":
            if self.framework is not None:
                await self.framework(scope, receive, send)
        elif scope["path"] in {"/readyz", "/livez"}:
            # The server accepts connections only once all is open. The database is not checked, or
            # its outage would stop every pod.
            await Answer(b"ok\n", media_type=TEXT)(scope, receive, send)
        elif scope["path"] == "/metrics" and PROXIED.isdisjoint(dict(scope["headers"])):
            # Only for what reaches the pod itself, which a NetworkPolicy decides.
            text = await asyncio.to_thread(self.metrics.text)
            await Answer(text, media_type=CONTENT_TYPE)(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        self._in_flight += 1
        trace = tracing.begin_request(scope, self.settings, delivers=self.delivers)
        request = Request(scope, receive)
        status = WENT_AWAY
        try:
            response = await self.respond(request)
            status = response.status_code
            await response(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._count(request, status, time.monotonic() - began, trace)

    def _count(
        self, request: Request, status: int, took_s: float, trace: tracing.Trace | None
    ) -> None:
        """Count a response, and end its span where it is sampled."""
        method = request.method if request.method in METHODS else "other"
        series = (method, request.route, status)
        if series not in self._series:
            duration = self.metrics.http_duration.labels(request.route)
            self._series[series] = self.metrics.http_requests.labels(*series), duration
        requests, duration = self._series[series]
        requests.inc()
        duration.observe(took_s)
        if trace is not None and trace.span.is_recording() and trace.kept:
            name = tracing.DELIVERY if self.delivers else f"{request.method} {request.route}"
            tracing.end_request(trace.span, name, request.route, status)
            log.info("%s %s: %d in %.1f ms", method, request.route, status, took_s * 1000)

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Open what is held before the first request, close it after the last."""
        await self.held()
        # What was loaded lives as long as the process: the collector need not look at it again. It
        # runs less often than by default, since a request leaves little for it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS)
        try:
            yield
        finally:
            await self.close()


def load(settings: Settings) -> FunctionApp[Any, Any]:
    """Return the app of the settings' function, loaded by the framework from its ``main.py``."""
    from functions_framework.aio import create_asgi_app  # noqa: PLC0415 - brings Flask, 0.2 s of CPU

    source = f"functions/{settings.function}/main.py"
    framework: Starlette = create_asgi_app(target=settings.function, source=source)  # type: ignore[no-untyped-call]
    # The framework loads main.py as a module named for the file.
    app: FunctionApp[Any, Any] = sys.modules["main"].app
    app.settings = settings
    framework.router.lifespan_context = app.lifespan
    app.framework = framework
    return app


def with_cors(app: FunctionApp[Any, Any]) -> ASGIApp:
    """Let pages of the configured origins call ``app``; no other, and by default none.

    There are no cookies, so no credentials mode: a page sends its bearer token as a header.
    """
    if not app.settings.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=app.settings.cors_origins,
        allow_methods=METHODS,
        allow_headers=REQUEST_HEADERS,
        expose_headers=RESPONSE_HEADERS,
        max_age=PREFLIGHT_AGE_S,
    )
