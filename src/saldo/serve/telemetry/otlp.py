"""Export of spans and metrics by OTLP (http/protobuf), with the official SDK.

Imported only if an endpoint is configured. Two threads send: the SDK's the spans, one here the
metrics. The loop waits for neither. What a collector does not take in time is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from importlib.metadata import version
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from opentelemetry import trace
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

if TYPE_CHECKING:
    from prometheus_client import Metric as Family
    from prometheus_client.samples import Sample

    from saldo.serve.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

SPANS_QUEUED_MAX = 4_096
SPANS_A_REQUEST_MAX = 512
SPANS_DELAY_MS = 1_000
REQUEST_TIMEOUT_S = 5.0
STOP_S = 5.0
CUMULATIVE = AggregationTemporality.CUMULATIVE


class Export:
    """Sends this process's spans and metrics to ``endpoint`` until it is stopped."""

    def __init__(self, metrics: Metrics, endpoint: str, metric_interval_s: float) -> None:
        base = endpoint.rstrip("/")
        # OTEL_RESOURCE_ATTRIBUTES adds to it; the exporters read OTEL_EXPORTER_OTLP_HEADERS.
        self._resource = Resource.create(
            {
                "service.namespace": "saldo",
                "service.name": metrics.function,
                "service.version": version("saldo"),
                "service.instance.id": str(uuid.uuid4()),
            }
        )
        # tracing.begin_request decides what is sampled.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=self._resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=REQUEST_TIMEOUT_S),
                max_queue_size=SPANS_QUEUED_MAX,
                max_export_batch_size=SPANS_A_REQUEST_MAX,
                schedule_delay_millis=SPANS_DELAY_MS,
            )
        )
        trace.set_tracer_provider(self._provider)
        self._metrics = metrics
        self._exporter = OTLPMetricExporter(
            endpoint=f"{base}/v1/metrics", timeout=REQUEST_TIMEOUT_S
        )
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
                metrics = [self._metric(family) for family in self._metrics.collect()]
                scope = ScopeMetrics(InstrumentationScope("saldo"), metrics, "")
                self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
            except Exception as error:  # noqa: BLE001 - the next metrics are sent all the same
                log.warning("the metrics were not sent: %s", type(error).__name__)

    def _metric(self, family: Family) -> Metric:
        """Return a metric of the registry in the SDK's form.

        Its name is without _total, which a collector adds when it writes for Prometheus.
        """
        times = (self._started_ns, time.time_ns())
        data: Sum | Gauge | Histogram
        if family.type == "histogram":
            # One series after the other: its buckets, its count and its sum.
            series = groupby(family.samples, lambda each: {**each.labels, "le": ""})
            points = [_histogram(*samples, times=times) for _, samples in series]
            data = Histogram(points, CUMULATIVE)
        elif family.type == "gauge":
            data = Gauge([NumberDataPoint(s.labels, *times, s.value) for s in family.samples])
        else:
            counts = [NumberDataPoint(s.labels, *times, int(s.value)) for s in family.samples]
            data = Sum(counts, CUMULATIVE, is_monotonic=True)
        unit = "s" if family.name.endswith("_seconds") else "1"
        return Metric(family.name, family.documentation, unit, data)


def _histogram(*samples: Sample, times: tuple[int, int]) -> HistogramDataPoint:
    """Return one series of a histogram; in Prometheus' form each bucket counts all below it."""
    *buckets, count, total = samples
    return HistogramDataPoint(
        count.labels,
        *times,
        count=int(count.value),
        sum=total.value,
        bucket_counts=[int(b - a) for a, b in pairwise([0.0, *(each.value for each in buckets)])],
        explicit_bounds=[float(each.labels["le"]) for each in buckets[:-1]],
        # Optional in the protocol, and not kept here.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )
