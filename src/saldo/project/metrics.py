"""The metrics of project_balance."""

from __future__ import annotations

from saldo.serve.functions import PROJECT
from saldo.serve.sweeper import SweepMetrics

DELAY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0)


class ProjectMetrics(SweepMetrics):
    """What project_balance counts beside what every function does."""

    def __init__(self) -> None:
        super().__init__(PROJECT.name)
        self.events_projected = self.observed_counter(
            "saldo_events_projected_total", "Events folded into the read model."
        )
        self.deliveries = self.counter(
            "saldo_deliveries_total",
            "Events delivered: `projected`, `duplicate` (projected before), `blocked` (its account "
            "is), `beyond-store`, `given-up`, `refused` (not one of ours), `dead-letter`, `ping`, "
            "or `failed` (the database; it is delivered again).",
            "outcome",
        )
        self.projection_delay = self.histogram(
            "saldo_projection_delay_seconds",
            "From the recorded time of a delivered event until it was projected.",
            DELAY_S,
        )
        self.lag_positions = self.gauge(
            "saldo_projection_lag_positions",
            "Events that the read model lacked when the lag sweep last looked.",
        )
        self.lag_seconds = self.gauge(
            "saldo_projection_lag_seconds", "The age of the oldest of them; 0 without one."
        )
        self.heals = self.observed_counter(
            "saldo_heals_total",
            "Accounts that the lag sweep caught up because an event had not arrived for 5 s.",
        )
        self.refolds = self.observed_counter(
            "saldo_refolds_total",
            "Accounts whose balance was not on its stream and was folded again.",
        )
        self.dead_letters = self.gauge(
            "saldo_dead_letters", "Dead letters that wait for an operator, up to 100,000."
        )
        self.blocked_accounts = self.gauge(
            "saldo_blocked_accounts",
            "Accounts with an event that cannot be projected, up to 100,000.",
        )
