"""The rows of the benchmark: what each one measures, against which limit, and what is to reach."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

# The ratio of a row is measured / limit; a row without a limit is judged by what was measured.
Relation = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row. ``unit`` is of what is measured and of its limit alike."""

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
        title="the same, one hot account: throughput",
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
        title="bulk record, 1,000 a request: rows",
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
        title="projection, 100 in flight: CPU of the function an event",
        limit="the empty CloudEvent function, the same deliveries",
        unit="us",
        relation="at most",
        bound=1.6,
    ),
    Figure(
        key="lag_p50",
        title="from the 201 to the balance at half load, p50",
        limit=None,
        unit="ms",
        relation="at most",
        bound=20.0,
    ),
    Figure(
        key="lag_p99",
        title="from the 201 to the balance at half load, p99",
        limit=None,
        unit="ms",
        relation="at most",
        bound=100.0,
    ),
    Figure(
        key="start",
        title="start: process to /readyz, the slowest function",
        limit="importing functions-framework alone",
        unit="s",
        relation="at most",
        bound=2.0,
    ),
    Figure(
        key="memory_idle",
        title="resident memory idle, the largest function",
        limit="the empty function",
        unit="MB",
        relation="at most",
        bound=2.0,
    ),
    Figure(
        key="memory_loaded",
        title="resident memory after all load, the largest function",
        limit="the empty function",
        unit="MB",
        relation="at most",
        bound=2.0,
    ),
    Figure(
        key="share_idempotency",
        title="share of the idempotency key in the recorder's profile",
        limit=None,
        unit="%",
        relation="at most",
        bound=10.0,
    ),
    Figure(
        key="share_chain",
        title="share of the hash chain",
        limit=None,
        unit="%",
        relation="at most",
        bound=10.0,
    ),
    Figure(
        key="share_auth",
        title="share of the authentication",
        limit=None,
        unit="%",
        relation="at most",
        bound=10.0,
    ),
    Figure(
        key="share_tracing",
        title="share of tracing at 1 %",
        limit=None,
        unit="%",
        relation="at most",
        bound=10.0,
    ),
)
BY_KEY = {figure.key: figure for figure in FIGURES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One turn of a row: what was measured, its limit in the same turn, and what stands beside."""

    measured: float
    limit: float | None = None
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def judged(self) -> float:
        """The ratio, or what was measured where there is no limit."""
        return self.measured if self.limit is None else self.measured / self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure with all its rounds."""

    figure: Figure
    rounds: list[Round]

    @property
    def median(self) -> float:
        """The median of what is judged."""
        return statistics.median(each.judged for each in self.rounds)

    @property
    def low(self) -> float:
        """The smallest of what is judged."""
        return min(each.judged for each in self.rounds)

    @property
    def high(self) -> float:
        """The largest of what is judged."""
        return max(each.judged for each in self.rounds)

    @property
    def measured(self) -> float:
        """The median of what was measured."""
        return statistics.median(each.measured for each in self.rounds)

    @property
    def limit(self) -> float | None:
        """The median of the limit."""
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
