"""The rows of the benchmark: what each measures, its limit and its target."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

# The ratio of a row is measured / limit; a row without a limit is judged by what was measured.
Relation = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row. ``unit`` is that of the measured value and of its limit."""

    key: str
    title: str
    limit: str | None
    unit: str
    relation: Relation
    bound: float

    def judged_unit(self) -> str:
        """Return the unit of the value that is compared with the bound."""
        return "x" if self.limit else self.unit


FIGURES = (
    Figure(
        key="post_cpu",
        title="POST /transactions, 64 connections, 1,000 accounts: CPU of the function",
        limit="the empty function, the same requests",
        unit="us",
        relation="at most",
        bound=1.7,
    ),
    Figure(
        key="post_hot",
        title="POST /transactions, one hot account: throughput",
        limit="the throughput over 1,000 accounts",
        unit="/s",
        relation="at least",
        bound=0.9,
    ),
    Figure(
        key="post_latency",
        title="POST, 1 connection: median latency",
        limit="one-row INSERT + commit by asyncpg",
        unit="ms",
        relation="at most",
        bound=2.0,
    ),
    Figure(
        key="bulk",
        title="bulk POST, 1,000 transactions per request: throughput",
        limit="100-row INSERT + commit, 10 clients, in pgbench",
        unit="/s",
        relation="at least",
        bound=0.5,
    ),
    Figure(
        key="get_cpu",
        title="GET /balances, 64 connections: CPU of the function",
        limit="the empty function, the same requests",
        unit="us",
        relation="at most",
        bound=1.4,
    ),
    Figure(
        key="project_cpu",
        title="projection, 100 in flight: CPU of the function per event",
        limit="the empty CloudEvent function, the same deliveries",
        unit="us",
        relation="at most",
        bound=1.6,
    ),
    Figure(
        key="lag_p50",
        title="delay from the 201 to the balance at half load, p50",
        limit=None,
        unit="ms",
        relation="at most",
        bound=20.0,
    ),
    Figure(
        key="lag_p99",
        title="delay from the 201 to the balance at half load, p99",
        limit=None,
        unit="ms",
        relation="at most",
        bound=100.0,
    ),
    Figure(
        key="start",
        title="time from start to the first 200 of /readyz, slowest function",
        limit="importing functions-framework alone",
        unit="s",
        relation="at most",
        bound=2.0,
    ),
    Figure(
        key="memory_idle",
        title="resident memory when idle, largest function",
        limit="the empty function",
        unit="MB",
        relation="at most",
        bound=2.0,
    ),
    Figure(
        key="memory_loaded",
        title="resident memory after all loads, largest function",
        limit="the empty function",
        unit="MB",
        relation="at most",
        bound=2.0,
    ),
    Figure(
        key="share_idempotency",
        title="share of the recorder's profile: idempotency keys",
        limit=None,
        unit="%",
        relation="at most",
        bound=10.0,
    ),
    Figure(
        key="share_chain",
        title="share of the recorder's profile: hash chain",
        limit=None,
        unit="%",
        relation="at most",
        bound=10.0,
    ),
    Figure(
        key="share_auth",
        title="share of the recorder's profile: authentication",
        limit=None,
        unit="%",
        relation="at most",
        bound=10.0,
    ),
    Figure(
        key="share_tracing",
        title="share of the recorder's profile: tracing 1 % of the requests",
        limit=None,
        unit="%",
        relation="at most",
        bound=10.0,
    ),
)
BY_KEY = {figure.key: figure for figure in FIGURES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of a row: the measured value, its limit in the same round, and further values."""

    measured: float
    limit: float | None = None
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def judged(self) -> float:
        """The ratio, or the measured value if there is no limit."""
        return self.measured if self.limit is None else self.measured / self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure with all its rounds."""

    figure: Figure
    rounds: list[Round]

    @property
    def median(self) -> float:
        """The median of the judged values."""
        return statistics.median(each.judged for each in self.rounds)

    @property
    def low(self) -> float:
        """The smallest judged value."""
        return min(each.judged for each in self.rounds)

    @property
    def high(self) -> float:
        """The largest judged value."""
        return max(each.judged for each in self.rounds)

    @property
    def measured(self) -> float:
        """The median of the measured values."""
        return statistics.median(each.measured for each in self.rounds)

    @property
    def limit(self) -> float | None:
        """The median of the limits."""
        limits = [each.limit for each in self.rounds if each.limit is not None]
        return statistics.median(limits) if limits else None

    @property
    def met(self) -> bool:
        """Whether the median reaches the bound."""
        if self.figure.relation == "at most":
            return self.median <= self.figure.bound
        return self.median >= self.figure.bound

    def beside(self, name: str) -> float | None:
        """Return the median of the further value ``name``."""
        values = [each.beside[name] for each in self.rounds if name in each.beside]
        return statistics.median(values) if values else None
