"""docs/metrics.md, made from the definitions in the code: `python -m local.tasks.metrics_page`."""

from __future__ import annotations

import sys
from pathlib import Path

from saldo.serve.telemetry.metrics import ALL, INSTRUMENTS

FILE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"

HEAD = """\
# Metrics

Made from the code by `python -m local.tasks.metrics_page`; a test holds it current.

Each function tells its metrics in two ways:

- **`GET /metrics`**, in Prometheus' text format, on the function's own port. As the probes, it asks
  for no token: who reaches the pod itself may read it, and in the cluster a NetworkPolicy lets in
  nobody but the namespace of the collector. A request that came through a proxy (it has
  `X-Forwarded-For` or `Forwarded`, which Knative's gateway always adds) finds nothing there. No
  metric has an account, a person or an amount in it.
- **By OTLP** (http/protobuf), to `OTEL_EXPORTER_OTLP_ENDPOINT`, every `OTEL_METRIC_EXPORT_INTERVAL`
  milliseconds (60,000 by default). The names are those below without `_total`, which a collector
  adds when it writes for Prometheus. Use one of the two ways, or each series comes twice.

The numbers are one process's own: add them up over the pods (`sum`), but take the `max` of those
that every process reads from the database (`saldo_outbox_*`, `saldo_projection_lag_*`,
`saldo_dead_letters`, `saldo_blocked_accounts`). They are absent while the database is away, and
when a function is scaled to zero, as all its series are.

Every series has the label `function` too.

| metric | kind | labels | of | meaning |
|---|---|---|---|---|
"""


def page() -> str:
    """Return the whole text of docs/metrics.md."""
    rows = []
    for each in INSTRUMENTS:
        metric = each.definition
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        of = "all" if metric.functions == ALL else ", ".join(f"`{f}`" for f in metric.functions)
        meaning = metric.meaning
        if metric.bounds:
            meaning += f" Buckets: {', '.join(f'{bound:g}' for bound in metric.bounds)}."
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {of} | {meaning} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    FILE.write_text(page())
    print(FILE.name)
    sys.exit(0)
