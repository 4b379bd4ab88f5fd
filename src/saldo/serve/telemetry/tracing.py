"""One trace id from the HTTP request to the balance, and what it costs where nobody looks: nothing.

A request is sampled at the edge: as its ``traceparent`` says, or, without one, by chance. Only a
sampled request has spans. The OpenTelemetry SDK is handed in by ``telemetry.start``; without an
endpoint it is never imported, and all that is left is to hand a client's own traceparent on.

The trace goes with the event: the outbox keeps the traceparent, Kafka's header carries it, and the
delivery's span is its child. A delivery without one belongs to a request that was not sampled.

A group commit is work for many requests. Its span is a trace of its own, linked to each sampled
member; each member has a span for its wait, linked to the group commit that ended it.
"""

from __future__ import annotations

import random
import re
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

# W3C's version 00; ids of zeros alone are none.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
SAMPLED = 0x01
SERVER_ERROR = 500
# Under this name the scope of a request has the traceparent that its work belongs to.
SCOPE_KEY = "saldo.traceparent"
# Work of nobody in particular runs in this context: a timer, a group commit.
NOBODY = Context()

Attributes = dict[str, str | int | float | bool]


class Span(Protocol):
    """What is used here of a span that is being recorded."""

    @property
    def traceparent(self) -> str:
        """The trace context of what is done within it."""

    def link(self, other: Span) -> None:
        """Link this span to another."""

    def end(self, attributes: Attributes | None = None, *, failed: bool = False) -> None:
        """End it now."""


class Tracer(Protocol):
    """What makes spans."""

    def begin(
        self,
        name: str,
        kind: str,
        parent: str | None,
        attributes: Attributes,
        links: Sequence[Span] = (),
    ) -> Span:
        """A span that begins now; ``parent`` is a traceparent, None begins a trace."""


@dataclass(slots=True)
class Trace:
    """The trace that the running work belongs to; ``span`` is None where it is not sampled.

    A request that its client wants sampled is ``kept`` only once the client is known: anyone can
    send a header, and each span costs an export and a log line.
    """

    traceparent: str
    span: Span | None
    kept: bool = True

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]


TRACE: ContextVar[Trace | None] = ContextVar("saldo_trace", default=None)


@dataclass(slots=True)
class _Tracing:
    """Whether this process traces, and how much."""

    tracer: Tracer | None = None
    ratio: float = 0.0
    authenticates: bool = False


_tracing = _Tracing()


def trace_with(tracer: Tracer | None, ratio: float, *, authenticates: bool = False) -> None:
    """Trace from now on, ``ratio`` of the requests that do not say it themselves; None: no more.

    Where the process ``authenticates``, what a request says of it counts after ``caller_is_known``.
    """
    _tracing.tracer, _tracing.ratio, _tracing.authenticates = tracer, ratio, authenticates


def read_traceparent(text: object) -> str | None:
    """``text`` when it is a well-formed W3C trace context; anything else is as none at all."""
    return text if isinstance(text, str) and _TRACEPARENT.fullmatch(text) else None


def is_sampled(traceparent: str) -> bool:
    """Whether the trace is recorded, as its root has decided."""
    return bool(int(traceparent[-2:], 16) & SAMPLED)


def begin_request(scope: MutableMapping[str, Any], *, delivers: bool) -> Trace | None:
    """The trace of an HTTP request, which it also leaves in the scope and in TRACE.

    ``delivers``: the request is a source's, and belongs to the trace of the event that it brings.
    """
    parent = _parent_of(scope["headers"], event_first=delivers)
    tracer = _tracing.tracer
    if tracer is None:
        sampled = False
    elif parent is not None:
        sampled = is_sampled(parent)
    else:
        sampled = not delivers and random.random() < _tracing.ratio  # noqa: S311 - a sample
    if tracer is not None and sampled:
        method = scope["method"]
        span = tracer.begin(
            "transactions process" if delivers else method,
            "consumer" if delivers else "server",
            parent,
            {"http.request.method": method, "url.scheme": scope.get("scheme", "http")},
        )
        trace = Trace(span.traceparent, span, kept=parent is None or not _tracing.authenticates)
    elif parent is not None:
        trace = Trace(parent, None)
    else:
        scope[SCOPE_KEY] = None
        return None
    scope[SCOPE_KEY] = trace.traceparent
    TRACE.set(trace)
    return trace


def caller_is_known() -> None:
    """Keep the running request's span, if it has one: its client is authenticated."""
    trace = TRACE.get()
    if trace is not None:
        trace.kept = True


def end_request(span: Span, route: str, status: int) -> None:
    """End a request's span. No path and no query: they have account ids."""
    span.end(
        {"http.route": route, "http.response.status_code": status}, failed=status >= SERVER_ERROR
    )


def _parent_of(headers: Sequence[tuple[bytes, bytes]], *, event_first: bool) -> str | None:
    of_request = of_event = None
    for name, value in headers:
        if name == b"traceparent":
            of_request = read_traceparent(value.decode("latin-1"))
        elif name == b"ce-traceparent":
            of_event = read_traceparent(value.decode("latin-1"))
    return (of_event or of_request) if event_first else (of_request or of_event)


def begin_wait(batch: str) -> Span | None:
    """A span for an item's wait for its group commit, where its request is sampled."""
    tracer = _tracing.tracer
    if tracer is None:
        return None
    trace = TRACE.get()
    if trace is None or trace.span is None:
        return None
    return tracer.begin(f"wait for {batch}", "internal", trace.traceparent, {})


def begin_batch(batch: str, members: Sequence[Span | None], weight: int) -> Span | None:
    """The span of a group commit with a sampled member, linked with each; in TRACE, too."""
    tracer = _tracing.tracer
    if tracer is None:
        return None
    links = [member for member in members if member is not None]
    if not links:
        return None
    attributes: Attributes = {"saldo.batch.items": len(members), "saldo.batch.weight": weight}
    span = tracer.begin(f"{batch} batch", "internal", None, attributes, links)
    for member in links:
        member.link(span)
    TRACE.set(Trace(span.traceparent, span))
    return span


def begin_send(traceparent: str | None) -> Span | None:
    """A span for a record's way to Kafka, where the request that recorded it was sampled."""
    tracer = _tracing.tracer
    if tracer is None or traceparent is None or not is_sampled(traceparent):
        return None
    return tracer.begin("transactions send", "producer", traceparent, {})


def log_members() -> Mapping[str, str]:
    """What a log line says of the trace that it belongs to."""
    trace = TRACE.get()
    if trace is None:
        return {}
    return {"trace_id": trace.trace_id, "span_id": trace.traceparent[36:52]}
