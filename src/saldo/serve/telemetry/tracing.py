"""Traces from the HTTP request to the balance, made with OpenTelemetry's API.

Sampling is decided when a request arrives: by its ``traceparent``, or at random without one. Only a
sampled request has spans that are recorded. Without an endpoint the SDK is not imported, spans do
nothing, and a client's own traceparent is passed on. ARCHITECTURE.md describes a trace's parts.
"""

from __future__ import annotations

import random
import re
from contextvars import Context as Variables
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as otel
from opentelemetry.context.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from opentelemetry.trace import Span

    from saldo.serve.settings import Settings

# W3C's version 00; ids of zeros alone are none.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
SERVER_ERROR = 500
DELIVERY = "transactions process"
# Under this name the scope of a request has the traceparent that its work belongs to.
SCOPE_KEY = "saldo.traceparent"
# Work that belongs to no request runs in this context: a timer, a group commit.
NO_REQUEST = Variables()

_tracer = otel.get_tracer("saldo")
_propagator = TraceContextTextMapPropagator()


@dataclass(slots=True)
class Trace:
    """The trace that the running work belongs to. Its span is recorded if the trace is sampled.

    A request that its client wants sampled is ``kept`` only once the client is authenticated:
    anyone can send a header, and each span costs an export and a log line.
    """

    span: Span
    kept: bool = True


TRACE: ContextVar[Trace | None] = ContextVar("saldo_trace", default=None)


def read_traceparent(text: object) -> str | None:
    """Return ``text`` if it is a well-formed W3C trace context, otherwise None."""
    return text if isinstance(text, str) and _TRACEPARENT.fullmatch(text) else None


def traceparent_of(span: Span) -> str:
    """Return the trace context of what is done within ``span``."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def is_sampled(traceparent: str) -> bool:
    """Return whether the trace's root has decided to record it."""
    return bool(int(traceparent[-2:], 16) & otel.TraceFlags.SAMPLED)


def begin_request(
    scope: MutableMapping[str, Any], settings: Settings, *, delivers: bool
) -> Trace | None:
    """Return the trace of an HTTP request, and leave it in the scope and in TRACE.

    ``delivers``: the request is a source's, and belongs to the trace of the event that it brings.
    """
    parent = _parent_of(scope["headers"], event_first=delivers)
    if parent is None and (delivers or not _is_chosen(settings)):
        scope[SCOPE_KEY] = None
        return None
    context = _context_of(parent)
    if parent is None or is_sampled(parent):
        method = scope["method"]
        span = _tracer.start_span(
            DELIVERY if delivers else method,
            context,
            otel.SpanKind.CONSUMER if delivers else otel.SpanKind.SERVER,
            {"http.request.method": method, "url.scheme": scope.get("scheme", "http")},
        )
    else:
        span = otel.get_current_span(context)
    trace = Trace(span, kept=parent is None or not settings.authenticates)
    scope[SCOPE_KEY] = traceparent_of(span)
    TRACE.set(trace)
    return trace


def caller_is_known() -> None:
    """Keep the running request's span, if it has one: its client is authenticated."""
    trace = TRACE.get()
    if trace is not None:
        trace.kept = True


def end_request(span: Span, name: str, route: str, status: int) -> None:
    """End a request's span. Its path and query, which have account ids, are not recorded."""
    span.update_name(name)
    span.set_attributes({"http.route": route, "http.response.status_code": status})
    end(span, failed=status >= SERVER_ERROR)


def end(span: Span, *, failed: bool) -> None:
    """End ``span`` now."""
    if failed:
        span.set_status(otel.StatusCode.ERROR)
    span.end()


def begin_wait(batch: str) -> Span | None:
    """Begin a span for an item's wait for its group commit, if its request is sampled."""
    trace = TRACE.get()
    if trace is None or not trace.span.is_recording():
        return None
    return _tracer.start_span(f"wait for {batch}", otel.set_span_in_context(trace.span))


def begin_batch(batch: str, members: Sequence[Span | None], weight: int) -> Span | None:
    """Begin the span of a group commit with a sampled member, linked with each; set TRACE."""
    sampled = [member for member in members if member is not None]
    if not sampled:
        return None
    span = _tracer.start_span(
        f"{batch} batch",
        Context(),
        attributes={"saldo.batch.items": len(members), "saldo.batch.weight": weight},
        links=[otel.Link(member.get_span_context()) for member in sampled],
    )
    for member in sampled:
        member.add_link(span.get_span_context())
    TRACE.set(Trace(span))
    return span


def begin_send(traceparent: str | None) -> Span | None:
    """Begin a span for a record's way to Kafka, if the request that recorded it was sampled."""
    if traceparent is None or not is_sampled(traceparent):
        return None
    return _tracer.start_span("transactions send", _context_of(traceparent), otel.SpanKind.PRODUCER)


def log_members() -> Mapping[str, str]:
    """Return what a log line says of the trace that it belongs to."""
    trace = TRACE.get()
    if trace is None:
        return {}
    context = trace.span.get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _is_chosen(settings: Settings) -> bool:
    """Return whether a trace begins with a request that belongs to none."""
    return settings.otlp_endpoint is not None and random.random() < settings.trace_sample_ratio  # noqa: S311 - a sample


def _parent_of(headers: Sequence[tuple[bytes, bytes]], *, event_first: bool) -> str | None:
    of_request = of_event = None
    for name, value in headers:
        if name == b"traceparent":
            of_request = read_traceparent(value.decode("latin-1"))
        elif name == b"ce-traceparent":
            of_event = read_traceparent(value.decode("latin-1"))
    return (of_event or of_request) if event_first else (of_request or of_event)


def _context_of(traceparent: str | None) -> Context:
    """Return the context that a span begins in: its parent's, or an empty one."""
    return _propagator.extract({"traceparent": traceparent} if traceparent else {}, Context())
