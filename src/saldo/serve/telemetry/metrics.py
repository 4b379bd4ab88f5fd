"""Metrics: plain numbers of this process, read only when somebody asks for them.

Counting is an addition in a dictionary: no lock, since a function counts on its loop's thread
alone. What exists already as a number elsewhere (a queue's depth, a pool's size) is not counted
again but read when asked. Each process tells its own numbers: a scrape goes to a pod, and what is
sent by OTLP carries the process's own service.instance.id.

All metrics of all functions are defined here, once; docs/metrics.md is made from these definitions.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client.core import Metric

Labels = tuple[str | int, ...]

RECORD, PROJECT, QUERY = "record_transaction", "project_balance", "get_balance"
ALL = (RECORD, PROJECT, QUERY)

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DELAY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0)
WEIGHTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 10_000)
POSITIONS = (0, 1, 5, 10, 50, 100, 1_000, 10_000)


@dataclass(frozen=True, slots=True)
class Definition:
    """What a metric is: its Prometheus name, its meaning, its labels, and who has it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...]
    functions: tuple[str, ...]
    bounds: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """The unit as OTLP has it (UCUM)."""
        return "s" if self.name.endswith("_seconds") else "1"


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram's one series: ``counts`` has one more than there are bounds."""

    counts: list[int]
    total: float


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric and its series now."""

    definition: Definition
    numbers: Mapping[Labels, float]
    buckets: Mapping[Labels, Buckets]


class Counter:
    """A number that only grows, for each combination of labels."""

    __slots__ = ("_observed", "definition", "values")

    def __init__(
        self,
        name: str,
        meaning: str,
        labels: tuple[str, ...] = (),
        functions: tuple[str, ...] = ALL,
    ) -> None:
        self.definition = Definition(name, "counter", meaning, labels, functions)
        self.values: dict[Labels, int] = {} if labels else {(): 0}
        self._observed: Callable[[], Mapping[Labels, float]] | None = None
        INSTRUMENTS.append(self)

    def add(self, labels: Labels = (), amount: int = 1) -> None:
        """Count ``amount`` more."""
        self.values[labels] = self.values.get(labels, 0) + amount

    def observe(self, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Have ``read`` asked instead: somebody else counts."""
        self._observed = read

    def read(self) -> Reading:
        """The series now."""
        values = dict(self.values) if self._observed is None else self._observed()
        return Reading(self.definition, values, {})


class Gauge:
    """A number that is read when asked for; one that is not known now has no series."""

    __slots__ = ("_observed", "definition")

    def __init__(
        self,
        name: str,
        meaning: str,
        labels: tuple[str, ...] = (),
        functions: tuple[str, ...] = ALL,
    ) -> None:
        self.definition = Definition(name, "gauge", meaning, labels, functions)
        self._observed: list[Callable[[], Mapping[Labels, float]]] = []
        INSTRUMENTS.append(self)

    def observe(self, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Have ``read`` asked, beside what was asked before."""
        self._observed.append(read)

    def observe_one(self, read: Callable[[], float | None]) -> None:
        """Have ``read`` asked for the one series; None is not known."""

        def one() -> Mapping[Labels, float]:
            value = read()
            return {} if value is None else {(): value}

        self._observed = [one]

    def read(self) -> Reading:
        """The series now."""
        values: dict[Labels, float] = {}
        for read in self._observed:
            values |= read()
        return Reading(self.definition, values, {})


class Histogram:
    """How often a number fell into each bucket, and the sum, for each combination of labels."""

    __slots__ = ("_bounds", "_series", "definition")

    def __init__(
        self,
        name: str,
        meaning: str,
        bounds: tuple[float, ...],
        labels: tuple[str, ...] = (),
        functions: tuple[str, ...] = ALL,
    ) -> None:
        self.definition = Definition(name, "histogram", meaning, labels, functions, bounds)
        self._bounds = bounds
        # The counts of the buckets, and at the end the sum.
        self._series: dict[Labels, list[float]] = {}
        if not labels:
            self._series[()] = [0] * (len(bounds) + 2)
        INSTRUMENTS.append(self)

    def record(self, value: float, labels: Labels = ()) -> None:
        """Count ``value``."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = [0] * (len(self._bounds) + 2)
        series[bisect_left(self._bounds, value)] += 1
        series[-1] += value

    def read(self) -> Reading:
        """The series now."""
        buckets = {
            labels: Buckets([int(count) for count in series[:-1]], series[-1])
            for labels, series in list(self._series.items())
        }
        return Reading(self.definition, {}, buckets)


INSTRUMENTS: list[Counter | Gauge | Histogram] = []


def readings(function: str) -> list[Reading]:
    """Everything that ``function`` has to tell, in the order of the definitions."""
    return [each.read() for each in INSTRUMENTS if function in each.definition.functions]


# --- every function ---------------------------------------------------------------------------

HTTP_REQUESTS = Counter(
    "saldo_http_requests_total",
    "Requests answered, the probes and /metrics not counted. The route is a template "
    "(/transactions/{}), `none` where there is nothing; status 499: the client went away.",
    ("method", "route", "status"),
)
HTTP_DURATION = Histogram(
    "saldo_http_request_duration_seconds",
    "From the request's head to the end of the answer; an event stream's is as long as it lived.",
    LATENCY_S,
    ("route",),
)
HTTP_IN_FLIGHT = Gauge("saldo_http_requests_in_flight", "Requests being answered now.")
REFUSALS = Counter(
    "saldo_refusals_total",
    "Problems answered, by the last word of their type, such as `too-busy` and `too-many-waiters`.",
    ("problem",),
)
BATCH_WEIGHT = Histogram(
    "saldo_batch_weight",
    "What one group commit held: transactions recorded, accounts caught up, or balances read.",
    WEIGHTS,
    ("batch",),
)
BATCH_DURATION = Histogram(
    "saldo_batch_duration_seconds", "How long one group commit took.", LATENCY_S, ("batch",)
)
QUEUE_WEIGHT = Gauge("saldo_queue_weight", "What waits for the next group commit.", ("batch",))
QUEUE_WEIGHT_MAX = Gauge(
    "saldo_queue_weight_max", "Beyond it requests are refused as too-busy.", ("batch",)
)
POOL_CONNECTIONS = Gauge(
    "saldo_pool_connections",
    "Connections to PostgreSQL that are open; state is `used` or `idle`.",
    ("database", "state"),
)
POOL_CONNECTIONS_MAX = Gauge(
    "saldo_pool_connections_max", "POOL_SIZE_MAX of the process, for each database.", ("database",)
)
CLOCK_AHEAD = Gauge(
    "saldo_clock_ahead_seconds",
    "How far the process's clock is ahead of the event store's at the least; negative: behind. "
    "Nothing is dated by it, but tokens end by it. More than 5 s either way is reported.",
)
SWEEPS = Counter(
    "saldo_sweeps_total",
    "Sweeps by the process's own timer; outcome is `done` or `failed`.",
    ("sweep", "outcome"),
    (RECORD, PROJECT),
)
SWEEP_DONE_AT = Gauge(
    "saldo_sweep_last_done_timestamp_seconds",
    "When a sweep of this process last came to its end, in Unix time.",
    ("sweep",),
    (RECORD, PROJECT),
)

# --- record_transaction -----------------------------------------------------------------------

EVENTS_RECORDED = Counter(
    "saldo_events_recorded_total", "Events committed to the event store.", (), (RECORD,)
)
REPLAYS = Counter(
    "saldo_replays_total",
    "Transactions answered with the answer of an earlier request of the same key.",
    (),
    (RECORD,),
)
OUTBOX_ROWS = Gauge(
    "saldo_outbox_rows",
    "Events that Kafka has not acknowledged, over all processes, up to 100,000.",
    (),
    (RECORD,),
)
OUTBOX_AGE = Gauge(
    "saldo_outbox_age_seconds", "The age of the oldest of them; 0 without one.", (), (RECORD,)
)
RELAY_IN_FLIGHT = Gauge(
    "saldo_relay_in_flight", "Records that await Kafka's acknowledgement.", (), (RECORD,)
)
RELAY_RECORDS = Counter(
    "saldo_relay_records_total",
    "Records handed to the producer (`sent`, `swept` of them by the sweep), and what Kafka said "
    "(`acknowledged`, `failed`).",
    ("outcome",),
    (RECORD,),
)

# --- project_balance --------------------------------------------------------------------------

EVENTS_PROJECTED = Counter(
    "saldo_events_projected_total", "Events folded into the read model.", (), (PROJECT,)
)
DELIVERIES = Counter(
    "saldo_deliveries_total",
    "Events delivered: `projected`, `duplicate` (it was projected before), `blocked` (its account "
    "is), `beyond-store`, `given-up`, `refused` (not one of ours), `dead-letter`, `ping`, or "
    "`failed` (the database; it is delivered again).",
    ("outcome",),
    (PROJECT,),
)
PROJECTION_DELAY = Histogram(
    "saldo_projection_delay_seconds",
    "From the recorded time of a delivered event until it was projected.",
    DELAY_S,
    (),
    (PROJECT,),
)
LAG_POSITIONS = Gauge(
    "saldo_projection_lag_positions",
    "Events that the read model lacked when the lag sweep last looked.",
    (),
    (PROJECT,),
)
LAG_SECONDS = Gauge(
    "saldo_projection_lag_seconds",
    "The age of the oldest of them; 0 without one.",
    (),
    (PROJECT,),
)
HEALS = Counter(
    "saldo_heals_total",
    "Accounts that the lag sweep caught up because an event of theirs had not come for 5 s.",
    (),
    (PROJECT,),
)
REFOLDS = Counter(
    "saldo_refolds_total",
    "Accounts whose balance did not stand on its stream and was folded anew.",
    (),
    (PROJECT,),
)
DEAD_LETTERS = Gauge(
    "saldo_dead_letters", "Dead letters that wait for an operator, up to 100,000.", (), (PROJECT,)
)
BLOCKED_ACCOUNTS = Gauge(
    "saldo_blocked_accounts",
    "Accounts with an event that cannot be projected, up to 100,000.",
    (),
    (PROJECT,),
)

# --- get_balance ------------------------------------------------------------------------------

READ_BEHIND = Histogram(
    "saldo_read_behind_positions",
    "How many positions the balances read were behind their streams.",
    POSITIONS,
    (),
    (QUERY,),
)
STREAMS_OPEN = Gauge("saldo_event_streams_open", "Event streams being served.", (), (QUERY,))
READERS_WAITING = Gauge(
    "saldo_readers_waiting", "Readers and streams that wait for a position.", (), (QUERY,)
)


# --- told -------------------------------------------------------------------------------------

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def prometheus_text(function: str) -> bytes:
    """All metrics of ``function`` in Prometheus' text format.

    The client library is imported here, when somebody first asks: it is no part of a start.
    """
    from prometheus_client.core import (  # noqa: PLC0415 - see above
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.exposition import generate_latest  # noqa: PLC0415

    families: list[Metric] = []
    for reading in readings(function):
        metric = reading.definition
        names = ["function", *metric.labels]
        if metric.kind == "histogram":
            histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=names)
            for labels, series in reading.buckets.items():
                histogram.add_metric(
                    [function, *map(str, labels)], _cumulative(metric.bounds, series), series.total
                )
            families.append(histogram)
            continue
        made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = made(metric.name, metric.meaning, labels=names)
        for labels, value in reading.numbers.items():
            family.add_metric([function, *map(str, labels)], value)
        families.append(family)
    return generate_latest(_Collected(families))


class _Collected:
    """What generate_latest takes for a registry."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _cumulative(bounds: tuple[float, ...], series: Buckets) -> list[tuple[str, float]]:
    """Prometheus' buckets: each counts all below it, too."""
    so_far = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(float, bounds), float("inf")), series.counts, strict=True):
        so_far += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), so_far))
    return buckets
