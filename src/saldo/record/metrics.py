"""The metrics of record_transaction."""

from __future__ import annotations

from saldo.serve.functions import RECORD
from saldo.serve.sweeper import SweepMetrics


class RecordMetrics(SweepMetrics):
    """What record_transaction counts beside what every function does."""

    def __init__(self) -> None:
        super().__init__(RECORD.name)
        self.events_recorded = self.counter(
            "saldo_events_recorded_total", "Events committed to the event store."
        )
        self.replays = self.counter(
            "saldo_replays_total",
            "Transactions answered with the response to an earlier request with the same key.",
        )
        self.outbox_rows = self.gauge(
            "saldo_outbox_rows",
            "Events that Kafka has not acknowledged, over all processes, up to 100,000.",
        )
        self.outbox_age = self.gauge(
            "saldo_outbox_age_seconds", "The age of the oldest of them; 0 without one."
        )
        self.relay_in_flight = self.gauge(
            "saldo_relay_in_flight", "Records that await Kafka's acknowledgement."
        )
        self.relay_records = self.observed_counter(
            "saldo_relay_records_total",
            "Records handed to the producer (`sent`, `swept` of them by the sweep), and what Kafka "
            "reported (`acknowledged`, `failed`).",
            "outcome",
        )
