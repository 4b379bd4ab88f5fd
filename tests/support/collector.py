"""An OTLP collector for tests: a real HTTP server that reads the protocol's own messages."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSpan:
    """A span as it came, ids in hexadecimal; ``links`` are (trace id, span id)."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    links: frozenset[tuple[str, str]]
    attributes: dict[str, Any]
    failed: bool

    @property
    def key(self) -> tuple[str, str]:
        """What a link to it says."""
        return self.trace_id, self.span_id


@dataclass(slots=True, kw_only=True, eq=False)
class Collector:
    """What has come so far; ``metrics`` is the newest of each name, by service."""

    url: str
    spans: list[SeenSpan] = field(default_factory=list)
    metrics: dict[tuple[str, str], Any] = field(default_factory=dict)
    instances: set[tuple[str, str]] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until ``condition`` is true of the received spans, and return its value."""
        deadline = time.monotonic() + DEADLINE_S
        with self.changed:
            while not (found := condition()):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    names = sorted({(span.service, span.name) for span in self.spans})
                    raise AssertionError(f"it did not come; spans: {names}")
                self.changed.wait(left_s)
            return found

    def of_trace(self, trace_id: str) -> dict[str, SeenSpan]:
        """Return the spans of a trace by their names."""
        return {span.name: span for span in self.spans if span.trace_id == trace_id}

    def take_spans(self, body: bytes) -> None:
        """Keep an export of spans."""
        request = ExportTraceServiceRequest.FromString(body)
        with self.changed:
            for group in request.resource_spans:
                resource = _attributes(group.resource.attributes)
                for scope in group.scope_spans:
                    self.spans += [_seen(span, resource["service.name"]) for span in scope.spans]
            self.changed.notify_all()

    def take_metrics(self, body: bytes) -> None:
        """Keep an export of metrics."""
        request = ExportMetricsServiceRequest.FromString(body)
        with self.changed:
            for group in request.resource_metrics:
                resource = _attributes(group.resource.attributes)
                service = resource["service.name"]
                self.instances.add((service, resource["service.instance.id"]))
                for scope in group.scope_metrics:
                    for metric in scope.metrics:
                        self.metrics[service, metric.name] = metric
            self.changed.notify_all()


def _seen(span: Any, service: str) -> SeenSpan:
    return SeenSpan(
        service=service,
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=frozenset((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_attributes(span.attributes),
        failed=span.status.code == 2,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Yield a running collector."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            takers = {"/v1/traces": made.take_spans, "/v1/metrics": made.take_metrics}
            takers[self.path](body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Collector(url=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
