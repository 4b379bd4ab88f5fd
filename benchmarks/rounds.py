"""Takes the figures: every row a turn a round, each with its limit in the same round."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import deliveries, limits, shares
from benchmarks.figures import FIGURES, Round, Row
from benchmarks.open_loop import LATE_P99_MS_MAX, run_open_loop
from benchmarks.placement import pin
from benchmarks.stack import EMPTY, EMPTY_EVENT
from benchmarks.wrk import Load, NoFigure, run_wrk
from local import processes
from local.services import BALANCE, FUNCTIONS, PROJECT, RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

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
# A readiness that is looked for every few milliseconds; processes.wait_until looks less often.
READY_LOOK_S = 0.002
READY_TIMEOUT_S = 60.0
WAVE_S_MAX = 120.0
US = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long the benchmark takes. ``seconds`` is of one measurement."""

    rounds: int
    seconds: float
    starts: int
    wave_accounts: int
    profile_seconds: float


WHOLE = Effort(rounds=4, seconds=4, starts=5, wave_accounts=8_000, profile_seconds=10)
QUICK = Effort(rounds=1, seconds=1, starts=1, wave_accounts=1_000, profile_seconds=2)


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
        self._warm_up()
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

    def _label(self) -> str:
        """A name for the idempotency keys of one run; none is used twice."""
        self.runs += 1
        return f"run{self.runs}"

    # --- loads, each with the CPU that one request took of the process under test

    def _loaded(self, name: str, load: Callable[[], Load]) -> tuple[Load, float]:
        """What ``load`` counted, and the microseconds of CPU of process ``name`` a request.

        A recorder's work ends only when Kafka has all: the tail is its own, too.
        """
        self.stack.place(name)
        before = self.stack.cpu_s(name)
        counted = load()
        if name == RECORD.name:
            self.stack.wait_sent()
        return counted, (self.stack.cpu_s(name) - before) / counted.requests * US

    def _post(
        self, name: str, *, connections: int = CONNECTIONS, accounts: int = ACCOUNTS
    ) -> tuple[Load, float]:
        def load() -> Load:
            return run_wrk(
                self.stack.placement,
                "post",
                self._label(),
                accounts,
                self.stack.token(),
                port=self.stack.ports[name],
                connections=connections,
                seconds=self.effort.seconds,
            )

        return self._loaded(name, load)

    def _bulk(self) -> tuple[Load, float]:
        def load() -> Load:
            return run_wrk(
                self.stack.placement,
                "bulk",
                self._label(),
                ACCOUNTS,
                self.stack.token(),
                BULK_LINES,
                port=self.stack.ports[RECORD.name],
                connections=BULK_CONNECTIONS,
                seconds=self.effort.seconds,
            )

        return self._loaded(RECORD.name, load)

    def _get(self, name: str) -> tuple[Load, float]:
        def load() -> Load:
            return run_wrk(
                self.stack.placement,
                "get",
                ACCOUNTS,
                self.stack.token(),
                port=self.stack.ports[name],
                connections=CONNECTIONS,
                seconds=self.effort.seconds,
            )

        return self._loaded(name, load)

    def _deliver(self, name: str) -> tuple[Load, float]:
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

        return self._loaded(name, load)

    # --- rows

    def _warm_up(self) -> None:
        """Every account exists and is projected; every function has answered."""
        self.progress("warming up")
        deliveries.record_wave(self.stack, ACCOUNTS, self._label(), names=deliveries.BENCH)
        deliveries.record_wave(self.stack, self.effort.wave_accounts, self._label())
        self._settle()
        for name in (BALANCE.name, EMPTY):
            self._get(name)

    def _settle(self) -> None:
        """Have all projected without waiting for its deliveries: KafkaSource begins at the end."""
        self.stack.stop_source()
        self.stack.wait_settled()
        self.stack.start_source()

    def _recording(self) -> None:
        post, post_us = self._post(RECORD.name)
        hot, hot_us = self._post(RECORD.name, accounts=1)
        single, _ = self._post(RECORD.name, connections=1)
        bulk, bulk_us = self._bulk()
        self._settle()
        empty, empty_us = self._post(EMPTY)
        self.stack.place(EMPTY)
        insert_ms = limits.insert_median_ms(self.stack, self.effort.seconds)
        pgbench = limits.pgbench_rows_per_s(self.stack, self.effort.seconds)
        rows_per_s = bulk.per_s * BULK_LINES
        self._note(
            "post_cpu",
            post_us,
            empty_us,
            per_s=post.per_s,
            limit_per_s=empty.per_s,
            p99_ms=post.p99_ms,
        )
        self._note("post_hot", hot.per_s, post.per_s, cpu_us=hot_us, p99_ms=hot.p99_ms)
        self._note("post_latency", single.p50_ms, insert_ms, per_s=single.per_s)
        self._note("bulk", rows_per_s, pgbench, cpu_us_a_row=bulk_us / BULK_LINES)

    def _projection(self) -> None:
        stack = self.stack
        stack.stop_source()
        with deliveries.unprojected(stack):
            deliveries.record_wave(stack, self.effort.wave_accounts, self._label())
            events = deliveries.write_deliveries(stack, stack.folder / "deliveries")
            stack.wait_sent()
            before = deliveries.positions_reached(stack)
            project, project_us = self._deliver(PROJECT.name)
            projected = deliveries.positions_reached(stack) - before
            if before or projected < events - DELIVERIES_IN_FLIGHT:
                raise NoFigure(f"of {events} events {before} were projected before, {projected} by")
        empty, empty_us = self._deliver(EMPTY_EVENT)
        stack.wait_settled()
        stack.start_source()
        self._note(
            "project_cpu", project_us, empty_us, per_s=project.per_s, limit_per_s=empty.per_s
        )

    def _reading(self) -> None:
        read, read_us = self._get(BALANCE.name)
        empty, empty_us = self._get(EMPTY)
        self._note(
            "get_cpu",
            read_us,
            empty_us,
            per_s=read.per_s,
            limit_per_s=empty.per_s,
            p99_ms=read.p99_ms,
        )

    def _lag(self) -> None:
        posted = self.taken.get("post_cpu")
        per_s = posted[-1].beside["per_s"] if posted else self._post(RECORD.name)[0].per_s
        if not posted:
            self._settle()
        self.stack.place("nothing")
        load = run_open_loop(
            self.stack,
            rate=per_s * HALF,
            seconds=2 * self.effort.seconds,
            accounts=ACCOUNTS,
            label=self._label(),
            followed=FOLLOWED,
        )
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

    def _shares(self) -> None:
        """py-spy stops the process for each sample, and so no other figure is taken meanwhile."""
        self.progress("profiling the recorder")
        found: dict[str, float] = {}

        def load() -> Load:
            return run_wrk(
                self.stack.placement,
                "post",
                self._label(),
                ACCOUNTS,
                self.stack.token(),
                port=self.stack.ports[RECORD.name],
                connections=CONNECTIONS,
                seconds=self.effort.profile_seconds + 2,
                meanwhile=lambda: found.update(
                    shares.profile(self.stack, RECORD.name, self.effort.profile_seconds)
                ),
            )

        self._loaded(RECORD.name, load)
        for key, share in found.items():
            self._note(key, share, None)
        self._settle()

    def _memory_loaded(self) -> None:
        self._memory("memory_loaded")

    def _memory(self, key: str) -> None:
        """The largest function against the empty one."""
        own = {function.name: self.stack.resident_mb(function.name) for function in FUNCTIONS}
        empty = {name: self.stack.resident_mb(name) for name in (EMPTY, EMPTY_EVENT)}
        self._note(key, max(own.values()), empty[EMPTY], **own, **empty)

    def _starts(self) -> None:
        self.progress("starting functions")
        for _ in range(self.effort.starts):
            self._start()

    def _start(self) -> None:
        """The slowest function: from its process's start to the first 200 of /readyz."""
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
