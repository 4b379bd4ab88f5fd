"""The measurement of the figures: in every round, each row and its limit in turn."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import deliveries, limits, shares
from benchmarks.figures import FIGURES, Round, Row
from benchmarks.open_loop import LATE_P99_MS_MAX, run_open_loop
from benchmarks.placement import pin
from benchmarks.stack import EMPTY, EMPTY_EVENT, collector
from benchmarks.wrk import Load, NoFigure, run_wrk
from local import processes, services
from saldo.serve.functions import BALANCE, FUNCTIONS, PROJECT, RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from benchmarks.open_loop import OpenLoad
    from benchmarks.stack import Stack

    # The keys of the rows that a turn takes, and the turn.
    Turn = tuple[Collection[str], Callable[[], None]]

CONNECTIONS = 64
DELIVERIES_IN_FLIGHT = 100
ACCOUNTS = 1_000
BULK_LINES = 1_000
BULK_CONNECTIONS = 2
HALF = 0.5
FOLLOWED = 0.2
# The recorder that is profiled, and how many of its requests it traces.
PROFILED = "record_transaction-profiled"
TRACED = 0.01
# A readiness that is looked for every few milliseconds; processes.wait_until looks less often.
READY_LOOK_S = 0.002
READY_TIMEOUT_S = 60.0
WAVE_S_MAX = 120.0
US = 1e6
WAL_POSITION = "SELECT pg_current_wal_lsn() - '0/0'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long the benchmark takes. ``seconds`` is of one measurement."""

    rounds: int
    seconds: float
    starts: int
    wave_accounts: int
    profile_seconds: float


WHOLE = Effort(rounds=3, seconds=4, starts=3, wave_accounts=4_000, profile_seconds=10)
QUICK = Effort(rounds=1, seconds=2, starts=1, wave_accounts=1_000, profile_seconds=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one request took: CPU of the process under test, and CPU and WAL of PostgreSQL.

    PostgreSQL's are of all that went on meanwhile, projection included.
    """

    us: float
    postgres_us: float
    wal_bytes: float


@dataclass(slots=True, kw_only=True)
class Bench:
    """The stack under measurement, and the rounds taken so far."""

    stack: Stack
    effort: Effort
    progress: Callable[[str], None]
    taken: dict[str, list[Round]] = field(default_factory=dict)
    runs: int = 0

    def take(self, only: frozenset[str]) -> list[Row]:
        """Take all figures, or those whose keys are in ``only``; the rows in their order."""
        # In each round, in this order; then the others, once or as often as they say.
        turns = (
            ({"post_cpu", "post_hot", "post_latency", "bulk"}, self._recording),
            ({"project_cpu"}, self._projection),
            ({"get_cpu"}, self._reading),
            ({"lag_p50", "lag_p99"}, self._lag),
        )
        afterwards = (
            (set(shares.NAMED), self._shares),
            ({"memory_loaded"}, self._memory_loaded),
            ({"start"}, self._starts),
        )
        self._memory("memory_idle")
        self.warm_up()
        for number in range(1, self.effort.rounds + 1):
            self.progress(f"round {number} of {self.effort.rounds}")
            self._take_turns(turns, only)
        self._take_turns(afterwards, only)
        return [
            Row(figure=figure, rounds=self.taken[figure.key])
            for figure in FIGURES
            if figure.key in self.taken and (not only or figure.key in only)
        ]

    def _take_turns(self, turns: Sequence[Turn], only: frozenset[str]) -> None:
        for keys, turn in turns:
            if not only or not only.isdisjoint(keys):
                turn()

    def _note(self, key: str, measured: float, limit: float | None, **beside: float) -> None:
        self.taken.setdefault(key, []).append(
            Round(measured=measured, limit=limit, beside=dict(beside))
        )

    def label(self) -> str:
        """Return a new name for the idempotency keys of one run."""
        self.runs += 1
        return f"run{self.runs}"

    # --- loads, each with the CPU that one request took of the process under test

    def loaded(
        self, name: str, load: Callable[[], Load], *, alone: bool = True
    ) -> tuple[Load, Spent]:
        """Return what ``load`` counted, and the CPU per request of ``name`` and of PostgreSQL.

        A recorder's work ends only when Kafka has all: the tail is its own, too.
        """
        if alone:
            self.stack.place(name)
        else:
            self.stack.place_anywhere()
        cpu_s, server_s, wal = self._meters(name)
        counted = load()
        if name == RECORD.name:
            self.stack.wait_sent()
        cpu_end_s, server_end_s, wal_end = self._meters(name)
        if cpu_end_s <= cpu_s:
            raise NoFigure(f"{name} took too little CPU to be measured: take longer")
        return counted, Spent(
            us=(cpu_end_s - cpu_s) / counted.requests * US,
            postgres_us=(server_end_s - server_s) / counted.requests * US,
            wal_bytes=(wal_end - wal) / counted.requests,
        )

    def _meters(self, name: str) -> tuple[float, float, float]:
        stack = self.stack
        return stack.cpu_s(name), stack.postgres_cpu_s(), float(stack.sql(WAL_POSITION))

    def post(
        self,
        name: str,
        *,
        connections: int = CONNECTIONS,
        accounts: int = ACCOUNTS,
        alone: bool = True,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[Load, Spent]:
        """POST transactions to process ``name``."""

        def load() -> Load:
            return run_wrk(
                self.stack.placement,
                "post",
                self.label(),
                accounts,
                self.stack.token(),
                port=self.stack.ports[name],
                connections=connections,
                seconds=self.effort.seconds,
                meanwhile=meanwhile,
            )

        return self.loaded(name, load, alone=alone)

    def bulk(self) -> tuple[Load, Spent]:
        """POST bulk requests to the recorder."""

        def load() -> Load:
            return run_wrk(
                self.stack.placement,
                "bulk",
                self.label(),
                ACCOUNTS,
                self.stack.token(),
                BULK_LINES,
                port=self.stack.ports[RECORD.name],
                connections=BULK_CONNECTIONS,
                seconds=self.effort.seconds,
            )

        return self.loaded(RECORD.name, load, alone=False)

    def get(
        self,
        name: str,
        *,
        connections: int = CONNECTIONS,
        accounts: int = ACCOUNTS,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[Load, Spent]:
        """GET balances from process ``name``."""

        def load() -> Load:
            return run_wrk(
                self.stack.placement,
                "get",
                accounts,
                self.stack.token(),
                port=self.stack.ports[name],
                connections=connections,
                seconds=self.effort.seconds,
                meanwhile=meanwhile,
            )

        return self.loaded(name, load)

    def deliver(self, name: str) -> tuple[Load, Spent]:
        """Deliver the file's events to process ``name``."""

        def load() -> Load:
            return run_wrk(
                self.stack.placement,
                "deliver",
                self.stack.folder / "deliveries",
                port=self.stack.ports[name],
                connections=DELIVERIES_IN_FLIGHT,
                # It stops at the last answer.
                seconds=WAVE_S_MAX,
            )

        return self.loaded(name, load)

    # --- rows

    def warm_up(self) -> None:
        """Record and project every account, and call every function."""
        self.progress("warming up")
        deliveries.record_wave(self.stack, ACCOUNTS, self.label(), names=deliveries.BENCH)
        self.settle()
        for name in (BALANCE.name, EMPTY):
            self.get(name)

    def settle(self) -> None:
        """Have all projected without waiting for its deliveries: KafkaSource begins at the end."""
        self.stack.stop_source()
        self.stack.wait_settled()
        self.stack.start_source()

    def _recording(self) -> None:
        """Measure the function's CPU on a core of its own; the system places all else.

        After each load its backlog is projected, so that none pays for the one before.
        """
        pinned, post_spent = self.post(RECORD.name)
        self.settle()
        post, _ = self.post(RECORD.name, alone=False)
        self.settle()
        hot, hot_spent = self.post(RECORD.name, accounts=1, alone=False)
        self.settle()
        single, _ = self.post(RECORD.name, connections=1, alone=False)
        bulk, bulk_spent = self.bulk()
        self.settle()
        empty, empty_spent = self.post(EMPTY)
        self.stack.place_anywhere()
        insert_ms = limits.insert_median_ms(self.stack, self.effort.seconds)
        pgbench = limits.pgbench_rows_per_s(self.stack, self.effort.seconds)
        self._note(
            "post_cpu",
            post_spent.us,
            empty_spent.us,
            per_s=post.per_s,
            pinned_per_s=pinned.per_s,
            limit_per_s=empty.per_s,
            p99_ms=post.p99_ms,
            postgres_us=post_spent.postgres_us,
            wal_bytes=post_spent.wal_bytes,
        )
        self._note("post_hot", hot.per_s, post.per_s, cpu_us=hot_spent.us, p99_ms=hot.p99_ms)
        self._note("post_latency", single.p50_ms, insert_ms, per_s=single.per_s)
        rows_per_s = bulk.per_s * BULK_LINES
        self._note("bulk", rows_per_s, pgbench, cpu_us_a_row=bulk_spent.us / BULK_LINES)

    def _projection(self) -> None:
        self.stack.stop_source()
        if "project_cpu" not in self.taken:
            # An account's first event makes its rows; all later ones change them.
            self._project_wave()
        project, project_spent = self._project_wave()
        empty, empty_spent = self.deliver(EMPTY_EVENT)
        self.stack.wait_settled()
        self.stack.start_source()
        self._note(
            "project_cpu",
            project_spent.us,
            empty_spent.us,
            per_s=project.per_s,
            limit_per_s=empty.per_s,
            postgres_us=project_spent.postgres_us,
            wal_bytes=project_spent.wal_bytes,
        )

    def _project_wave(self) -> tuple[Load, Spent]:
        """Deliver one new event for each account of the wave; all of them are projected by that."""
        stack = self.stack
        with deliveries.unprojected(stack):
            deliveries.record_wave(stack, self.effort.wave_accounts, self.label())
            events = deliveries.write_deliveries(stack, stack.folder / "deliveries")
            stack.wait_sent()
            before = deliveries.positions_reached(stack)
            counted = self.deliver(PROJECT.name)
            projected = deliveries.positions_reached(stack) - before
        if before or projected < events - DELIVERIES_IN_FLIGHT:
            raise NoFigure(f"of {events} events {before} were projected before, {projected} by it")
        return counted

    def _reading(self) -> None:
        read, read_spent = self.get(BALANCE.name)
        empty, empty_spent = self.get(EMPTY)
        self._note(
            "get_cpu",
            read_spent.us,
            empty_spent.us,
            per_s=read.per_s,
            limit_per_s=empty.per_s,
            p99_ms=read.p99_ms,
            postgres_us=read_spent.postgres_us,
        )

    def _lag(self) -> None:
        posted = self.taken.get("post_cpu")
        per_s = posted[-1].beside["per_s"] if posted else self.post(RECORD.name)[0].per_s
        if not posted:
            self.settle()
        self.stack.place_anywhere()
        # KafkaSource was restarted: at first it connects, and what waits meanwhile comes at
        # once. That is the lag of a start, not that of half load.
        self._open_loop(per_s * HALF, self.effort.seconds / 2)
        load = self._open_loop(per_s * HALF, 2 * self.effort.seconds)
        if not load.kept_up:
            self.progress(
                f"the open-loop generator was {load.late_p99_ms:.0f} ms late (p99; its bound is"
                f" {LATE_P99_MS_MAX:.0f} ms): the latencies contain that"
            )
        beside = {
            "rate_per_s": per_s * HALF,
            "post_p50_ms": load.post_p50_ms,
            "post_p99_ms": load.post_p99_ms,
            "late_p99_ms": load.late_p99_ms,
        }
        self._note("lag_p50", load.lag_p50_ms, None, **beside)
        self._note("lag_p99", load.lag_p99_ms, None, **beside)

    def _open_loop(self, rate: float, seconds: float) -> OpenLoad:
        return run_open_loop(
            self.stack,
            rate=rate,
            seconds=seconds,
            accounts=ACCOUNTS,
            label=self.label(),
            followed=FOLLOWED,
        )

    def _shares(self) -> None:
        """Measure shares of the profile of a separate recorder, which traces 1 % of the requests.

        py-spy stops the process for each sample, and so no other figure is taken meanwhile.
        """
        self.progress("profiling the recorder")
        with collector() as endpoint:
            traced = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_TRACES_SAMPLER_ARG": str(TRACED),
            }
            child = self.stack.start_function(RECORD, PROFILED, **traced)
            services.wait_until_ready(child, self.stack.ports[PROFILED])
            self.post(PROFILED)  # the first token's verification is not every request's
            self._profile()
            self.stack.stop(PROFILED)
        self.settle()

    def _profile(self) -> None:
        found: dict[str, float] = {}

        def load() -> Load:
            return run_wrk(
                self.stack.placement,
                "post",
                self.label(),
                ACCOUNTS,
                self.stack.token(),
                port=self.stack.ports[PROFILED],
                connections=CONNECTIONS,
                seconds=self.effort.profile_seconds + 2,
                meanwhile=lambda: found.update(
                    shares.profile(self.stack, PROFILED, self.effort.profile_seconds)
                ),
            )

        self.loaded(PROFILED, load)
        for key, share in found.items():
            self._note(key, share, None)

    def _memory_loaded(self) -> None:
        self._memory("memory_loaded")

    def _memory(self, key: str) -> None:
        """Compare the memory of the largest function with that of the empty one."""
        own = {function.name: self.stack.resident_mb(function.name) for function in FUNCTIONS}
        empty = {name: self.stack.resident_mb(name) for name in (EMPTY, EMPTY_EVENT)}
        self._note(key, max(own.values()), empty[EMPTY], **own, **empty)

    def _starts(self) -> None:
        self.progress("starting functions")
        for _ in range(self.effort.starts):
            self._start()

    def _start(self) -> None:
        """Measure the slowest function from its process's start to the first 200 of /readyz."""
        took: dict[str, float] = {}
        for function in FUNCTIONS:
            name = f"{function.name}-started"
            began = time.perf_counter()
            child = self.stack.start_function(function, name)
            pin(child.pid, self.stack.placement.function)
            while not processes.answers(self.stack.ports[name]):
                if child.ended() is not None or time.perf_counter() - began > READY_TIMEOUT_S:
                    raise NoFigure(f"{name} did not become ready: {child.last_words()}")
                time.sleep(READY_LOOK_S)
            took[function.name] = time.perf_counter() - began
            self.stack.stop(name)
        self._note("start", max(took.values()), limits.import_s(self.stack), **took)
