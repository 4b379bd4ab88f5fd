"""The metrics of one function in one process: its registry, and those that every function has.

prometheus_client keeps what is counted here. What is already a number elsewhere (a queue's depth, a
pool's size) is read at a scrape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WEIGHTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 10_000)

Kind = Literal["counter", "gauge", "histogram"]

# The time at which each series began is not exported.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric's Prometheus name, its meaning, its labels and, of a histogram, its buckets."""

    kind: Kind
    name: str
    meaning: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


class Observed:
    """A gauge or counter that is read when it is scraped. A value that is not known is left out."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._reads: dict[tuple[str, ...], Callable[[], float | None]] = {}

    def observe(self, read: Callable[[], float | None], *labels: str) -> None:
        """Read the series with these labels by ``read``, which returns None if it is not known."""
        self._reads[labels] = read

    def collect(self) -> Iterator[Metric]:
        """Yield the metric with its series now."""
        metric = self._definition
        make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = make(metric.name, metric.meaning, labels=metric.labels)
        for labels, read in list(self._reads.items()):
            value = read()
            if value is not None:
                family.add_metric(labels, value)
        yield family


class Metrics:
    """The metrics of one function. Each side adds its own in a subclass."""

    def __init__(self, function: str) -> None:
        self.function = function
        self.definitions: list[Definition] = []
        self._registry = CollectorRegistry()
        self.http_requests = self.counter(
            "saldo_http_requests_total",
            "Responses, except to the probes and /metrics. The route is a template "
            "(/transactions/{}), or `none`; status 499: the client went away.",
            "method",
            "route",
            "status",
        )
        self.http_duration = self.histogram(
            "saldo_http_request_duration_seconds",
            "From the request's head to the end of the response, also of an event stream.",
            LATENCY_S,
            "route",
        )
        self.http_in_flight = self.gauge("saldo_http_requests_in_flight", "Requests in progress.")
        self.refusals = self.counter(
            "saldo_refusals_total",
            "Problem responses, by the last word of their type, such as `too-busy` and "
            "`too-many-waiters`.",
            "problem",
        )
        self.batch_weight = self.histogram(
            "saldo_batch_weight",
            "Transactions recorded, accounts caught up or balances read in one group commit.",
            WEIGHTS,
            "batch",
        )
        self.batch_duration = self.histogram(
            "saldo_batch_duration_seconds", "How long one group commit took.", LATENCY_S, "batch"
        )
        self.queue_weight = self.gauge(
            "saldo_queue_weight", "What waits for the next group commit.", "batch"
        )
        self.queue_weight_max = self.gauge(
            "saldo_queue_weight_max", "Beyond it requests are refused as too-busy.", "batch"
        )
        self.pool_connections = self.gauge(
            "saldo_pool_connections",
            "Open connections to PostgreSQL; state is `used` or `idle`.",
            "database",
            "state",
        )
        self.pool_connections_max = self.gauge(
            "saldo_pool_connections_max", "POOL_SIZE_MAX, for each database.", "database"
        )
        self.clock_ahead = self.gauge(
            "saldo_clock_ahead_seconds",
            "How far the process's clock is at least ahead of the event store's; negative: behind. "
            "It dates nothing, but decides when tokens expire. Over 5 s either way is reported.",
        )

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        """Add a number that only grows."""
        self.definitions.append(Definition("counter", name, meaning, labels))
        return Counter(name, meaning, labels, registry=self._registry)

    def histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        """Add a number of which the distribution is kept."""
        self.definitions.append(Definition("histogram", name, meaning, labels, buckets))
        return Histogram(name, meaning, labels, buckets=buckets, registry=self._registry)

    def gauge(self, name: str, meaning: str, *labels: str) -> Observed:
        """Add a number that is read at a scrape."""
        return self._observed(Definition("gauge", name, meaning, labels))

    def observed_counter(self, name: str, meaning: str, *labels: str) -> Observed:
        """Add a number that only grows, counted elsewhere and read at a scrape."""
        return self._observed(Definition("counter", name, meaning, labels))

    def _observed(self, definition: Definition) -> Observed:
        self.definitions.append(definition)
        observed = Observed(definition)
        self._registry.register(observed)
        return observed

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its series now, each labelled with the function's name."""
        for family in self._registry.collect():
            family.samples = [
                sample._replace(labels={"function": self.function, **sample.labels})
                for sample in family.samples
            ]
            yield family

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self)
