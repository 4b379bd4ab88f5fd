"""The metrics of get_balance."""

from __future__ import annotations

from saldo.serve.functions import BALANCE
from saldo.serve.telemetry.metrics import Metrics

POSITIONS = (0, 1, 5, 10, 50, 100, 1_000, 10_000)


class QueryMetrics(Metrics):
    """What get_balance counts beside what every function does."""

    def __init__(self) -> None:
        super().__init__(BALANCE.name)
        self.read_behind = self.histogram(
            "saldo_read_behind_positions",
            "How many positions the balances read were behind their streams.",
            POSITIONS,
        )
        self.streams_open = self.gauge("saldo_event_streams_open", "Event streams being served.")
        self.readers_waiting = self.gauge(
            "saldo_readers_waiting", "Readers and streams that wait for a position."
        )
