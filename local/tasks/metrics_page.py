"""docs/metrics.md, made from the definitions in the code: `python -m local.tasks.metrics_page`."""

from __future__ import annotations

import sys
from pathlib import Path

from saldo.project.metrics import ProjectMetrics
from saldo.query.metrics import QueryMetrics
from saldo.record.metrics import RecordMetrics

# The metrics of each function, by its name.
METRICS = {each.function: each for each in (RecordMetrics(), ProjectMetrics(), QueryMetrics())}
# Each metric once, with the functions that have it.
DEFINITIONS = {each.name: each for metrics in METRICS.values() for each in metrics.definitions}
FUNCTIONS = {
    name: tuple(function for function, metrics in METRICS.items() if each in metrics.definitions)
    for name, each in DEFINITIONS.items()
}

FILE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"

HEAD = """\
# Metrics

Generated from the code by `make reference`; a test checks that it is current.

Each function exposes its metrics in two ways:

- **`GET /metrics`**, in Prometheus' text format, on the function's port. Like the probes, it needs
  no token. In the cluster a NetworkPolicy allows only the collector's namespace to reach it. It is
  closed to requests that came through a proxy, which have `X-Forwarded-For` or `Forwarded`;
  Knative's gateway always adds them. No metric contains an account, a person or an amount.
- **By OTLP** (http/protobuf), to `OTEL_EXPORTER_OTLP_ENDPOINT`, every `OTEL_METRIC_EXPORT_INTERVAL`
  milliseconds (60,000 by default). The names are those below without `_total`, which a collector
  adds when it writes for Prometheus. Use only one of the two ways, or each series arrives twice.

Each process counts for itself: add the numbers up over the pods (`sum`). Take the `max` of those
that every process reads from the database (`saldo_outbox_*`, `saldo_projection_lag_*`,
`saldo_dead_letters`, `saldo_blocked_accounts`). They are missing while the database cannot be
reached, and when a function is scaled to zero, like all its series.

Every series also has the label `function`.

| metric | kind | labels | of | meaning |
|---|---|---|---|---|
"""


def page() -> str:
    """Return the whole text of docs/metrics.md."""
    rows = []
    for metric in DEFINITIONS.values():
        functions = FUNCTIONS[metric.name]
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        of = "all" if len(functions) == len(METRICS) else ", ".join(f"`{f}`" for f in functions)
        meaning = metric.meaning
        if metric.buckets:
            meaning += f" Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}."
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {of} | {meaning} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    FILE.write_text(page())
    print(FILE.name)
    sys.exit(0)
