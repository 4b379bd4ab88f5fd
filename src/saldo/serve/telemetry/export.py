"""Whether this process tells a collector of itself: only where OTEL_EXPORTER_OTLP_ENDPOINT is set.

/metrics answers in any case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saldo.serve.settings import BadSetting
from saldo.serve.telemetry.tracing import trace_with

if TYPE_CHECKING:
    from saldo.serve.settings import Settings
    from saldo.serve.telemetry.otlp import Export


def start(settings: Settings) -> Export | None:
    """Begin to export, where there is whereto; raises BadSetting without the SDK."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from saldo.serve.telemetry.otlp import Export  # noqa: PLC0415 - 0.4 s of CPU, and only here
    except ImportError as error:
        raise BadSetting(
            "OTEL_EXPORTER_OTLP_ENDPOINT", "needs the extra: pip install 'saldo[telemetry]'"
        ) from error
    export = Export(settings.function, settings.otlp_endpoint, settings.metric_interval_s)
    authenticates = settings.callers is not None or settings.sources is not None
    trace_with(export.tracer, settings.trace_sample_ratio, authenticates=authenticates)
    return export


def stop(export: Export | None) -> None:
    """Send what is left and end."""
    if export is not None:
        trace_with(None, 0.0)
        export.stop()
