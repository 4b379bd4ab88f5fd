"""``python -m saldo.serve --function NAME --port N``: one function, served by uvicorn."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from saldo.serve.http.connection import BoundedProtocol
from saldo.serve.server import load, with_cors
from saldo.serve.settings import BadSetting, read_settings
from saldo.serve.telemetry.logs import log_json

if TYPE_CHECKING:
    import socket
    from types import FrameType
    from typing import Any

    from saldo.serve.server import FunctionApp
    from saldo.serve.telemetry.otlp import Export

# A proxy in front keeps idle connections for 90 s: closing them earlier answers a request with a
# reset. The drain ends well inside the pod's termination grace.
KEEP_ALIVE_S = 120
DRAIN_S = 20
BACKLOG = 2_048


class DrainingServer(uvicorn.Server):
    """uvicorn, which drains the function at the first signal.

    uvicorn's own shutdown begins after the last response: an event stream would delay it.
    """

    def __init__(
        self, config: uvicorn.Config, app: FunctionApp[Any, Any], export: Export | None
    ) -> None:
        super().__init__(config)
        self._app = app
        self._export = export

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Here, since the server ends by the signal itself: nothing runs after it.
        if self._export is not None:
            await asyncio.to_thread(self._export.stop)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._app.drain()


def _export_of(app: FunctionApp[Any, Any]) -> Export | None:
    """Start to send spans and metrics if an endpoint is configured; raise BadSetting."""
    endpoint = app.settings.otlp_endpoint
    if endpoint is None:
        return None
    try:
        from saldo.serve.telemetry.otlp import Export  # noqa: PLC0415 - 0.1 s of CPU, needed here only
    except ImportError as error:
        raise BadSetting(
            "OTEL_EXPORTER_OTLP_ENDPOINT", "needs the extra: pip install 'saldo[telemetry]'"
        ) from error
    return Export(app.metrics, endpoint, app.settings.metric_interval_s)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; return 2 if a setting is missing or malformed."""
    parser = argparse.ArgumentParser(prog="python -m saldo.serve")
    # The framework's own name for it, set in each image.
    target = os.environ.get("FUNCTION_TARGET")
    parser.add_argument("--function", default=target, required=target is None)
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8080")))
    options = parser.parse_args(arguments)
    try:
        app = load(read_settings(options.function))
        export = _export_of(app)
    except BadSetting as error:
        print(f"saldo: {error}", file=sys.stderr)  # noqa: T201 - the one line that must be seen
        return 2
    log_json(app.settings)
    config = uvicorn.Config(
        with_cors(app),
        host=options.host,
        port=options.port,
        loop="uvloop",
        http=partial(BoundedProtocol, refusals=app.metrics.refusals),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        access_log=False,
        # The client's address and scheme are not used: ignore X-Forwarded-*.
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
        log_config=None,
    )
    with contextlib.suppress(KeyboardInterrupt):
        DrainingServer(config, app, export).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
