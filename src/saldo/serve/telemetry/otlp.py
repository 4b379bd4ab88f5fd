"""What is told to a collector: spans and metrics by OTLP (http/protobuf), with the official SDK.

Imported only where an endpoint is set. Two threads send, the SDK's for the spans and one for the
metrics; the loop never waits for either, and what a collector does not take in time is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from saldo.serve.telemetry.metrics import readings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry import trace
    from opentelemetry.context import Context

    from saldo.serve.telemetry.metrics import Labels, Reading
    from saldo.serve.telemetry.tracing import Attributes, Span

log = logging.getLogger(__name__)

SCOPE = "saldo"
SPANS_QUEUED_MAX = 4_096
SPANS_A_REQUEST_MAX = 512
SPANS_DELAY_MS = 1_000
REQUEST_TIMEOUT_S = 5.0
STOP_S = 5.0
KINDS = {
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
    "producer": SpanKind.PRODUCER,
    "internal": SpanKind.INTERNAL,
}


class OtlpSpan:
    """tracing.Span, on a span of the SDK."""

    __slots__ = ("inner",)

    def __init__(self, inner: trace.Span) -> None:
        self.inner = inner

    @property
    def traceparent(self) -> str:
        context = self.inner.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def link(self, other: Span) -> None:
        if isinstance(other, OtlpSpan):
            self.inner.add_link(other.inner.get_span_context())

    def end(self, attributes: Attributes | None = None, *, failed: bool = False) -> None:
        if attributes:
            self.inner.set_attributes(attributes)
            route = attributes.get("http.route")
            if route is not None and self._is_named_by_method():
                self.inner.update_name(f"{self._name()} {route}")
        if failed:
            self.inner.set_status(StatusCode.ERROR)
        self.inner.end()

    def _name(self) -> str:
        return str(getattr(self.inner, "name", ""))

    def _is_named_by_method(self) -> bool:
        """The route is known only once the request was dispatched; until then it is the method."""
        return self._name().isupper()


class OtlpTracer:
    """tracing.Tracer, on the SDK's."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def begin(
        self,
        name: str,
        kind: str,
        parent: str | None,
        attributes: Attributes,
        links: Sequence[Span] = (),
    ) -> OtlpSpan:
        linked = [
            Link(each.inner.get_span_context()) for each in links if isinstance(each, OtlpSpan)
        ]
        return OtlpSpan(
            self._tracer.start_span(
                name, _context_of(parent), KINDS[kind], attributes=attributes, links=linked
            )
        )


def _context_of(parent: str | None) -> Context:
    """The SDK's context of a traceparent; without one, of nothing: a trace begins."""
    if parent is None:
        return set_span_in_context(NonRecordingSpan(SpanContext(0, 0, is_remote=False)))
    context = SpanContext(
        trace_id=int(parent[3:35], 16),
        span_id=int(parent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(parent[53:55], 16)),
    )
    return set_span_in_context(NonRecordingSpan(context))


class Export:
    """Sends this process's spans and metrics to ``endpoint`` until it is stopped."""

    def __init__(self, function: str, endpoint: str, metric_interval_s: float) -> None:
        base = endpoint.rstrip("/")
        self._function = function
        # OTEL_RESOURCE_ATTRIBUTES adds to it; OTEL_EXPORTER_OTLP_HEADERS is the exporters' own.
        self._resource = Resource.create(
            {
                "service.namespace": "saldo",
                "service.name": function,
                "service.version": version("saldo"),
                "service.instance.id": str(uuid.uuid4()),
            }
        )
        self._provider = TracerProvider(
            # Who is recorded was decided at the edge: tracing.begin_request.
            sampler=ALWAYS_ON,
            resource=self._resource,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=REQUEST_TIMEOUT_S),
                max_queue_size=SPANS_QUEUED_MAX,
                max_export_batch_size=SPANS_A_REQUEST_MAX,
                schedule_delay_millis=SPANS_DELAY_MS,
            )
        )
        self.tracer = OtlpTracer(self._provider.get_tracer(SCOPE))
        self._metrics = OTLPMetricExporter(endpoint=f"{base}/v1/metrics", timeout=REQUEST_TIMEOUT_S)
        self._interval_s = metric_interval_s
        self._started_ns = time.time_ns()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send_metrics, name="otlp-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, within STOP_S; a collector that is down holds up no stop."""
        self._stopping.set()
        last = threading.Thread(target=self._provider.shutdown, name="otlp-last", daemon=True)
        last.start()
        deadline = time.monotonic() + STOP_S
        for thread in (last, self._thread):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _send_metrics(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(self._interval_s)
            try:
                self._metrics.export(self._metrics_data())
            except Exception as error:  # noqa: BLE001 - metrics must go on, whatever a reader does
                log.warning("the metrics were not sent: %s", type(error).__name__)

    def _metrics_data(self) -> MetricsData:
        now_ns = time.time_ns()
        metrics = [self._metric(reading, now_ns) for reading in readings(self._function)]
        scope = ScopeMetrics(InstrumentationScope(SCOPE), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _metric(self, reading: Reading, now_ns: int) -> Metric:
        metric = reading.definition
        # A collector that writes for Prometheus adds _total to a counter's name by itself.
        name = metric.name.removesuffix("_total")
        return Metric(name, metric.meaning, metric.unit, self._points(reading, now_ns))

    def _points(self, reading: Reading, now_ns: int) -> Sum | Gauge | Histogram:
        metric = reading.definition

        def attributes(labels: Labels) -> Attributes:
            told = zip(metric.labels, map(str, labels), strict=True)
            return {"function": self._function, **dict(told)}

        if metric.kind == "histogram":
            return Histogram(
                [
                    HistogramDataPoint(
                        attributes=attributes(labels),
                        start_time_unix_nano=self._started_ns,
                        time_unix_nano=now_ns,
                        count=sum(series.counts),
                        sum=series.total,
                        bucket_counts=series.counts,
                        explicit_bounds=metric.bounds,
                        # Optional in the protocol, and not kept here.
                        min=None,  # type: ignore[arg-type]
                        max=None,  # type: ignore[arg-type]
                    )
                    for labels, series in reading.buckets.items()
                ],
                AggregationTemporality.CUMULATIVE,
            )
        points = [
            NumberDataPoint(attributes(labels), self._started_ns, now_ns, value)
            for labels, value in reading.numbers.items()
        ]
        if metric.kind == "gauge":
            return Gauge(points)
        return Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
