"""``python -m saldo.serve --function NAME --port N``: one function, served by uvicorn."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

import uvicorn

from saldo.serve.http.connection import BoundedProtocol
from saldo.serve.server import load, with_cors
from saldo.serve.settings import BadSetting, read_settings
from saldo.serve.telemetry import export as telemetry
from saldo.serve.telemetry.logs import log_config

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
    """uvicorn, which tells the function at the first signal that it is to stop.

    uvicorn itself says so only after the last response, and an event stream's response would hold
    the drain until its time is over.
    """

    def __init__(
        self, config: uvicorn.Config, app: FunctionApp[Any], export: Export | None
    ) -> None:
        super().__init__(config)
        self._app = app
        self._export = export

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Here, since the server ends by the signal itself: nothing runs after it.
        await asyncio.to_thread(telemetry.stop, self._export)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._app.drain()


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; 2 when a setting is missing or malformed."""
    parser = argparse.ArgumentParser(prog="python -m saldo.serve")
    # FUNCTION_TARGET is the framework's own name for it; an image says it once and for all.
    target = os.environ.get("FUNCTION_TARGET")
    parser.add_argument("--function", default=target, required=target is None)
    parser.add_argument("--source", help="its main.py (default: functions/FUNCTION/main.py)")
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8080")))
    options = parser.parse_args(arguments)
    source = options.source or f"functions/{options.function}/main.py"
    try:
        settings = read_settings(options.function)
        export = telemetry.start(settings)
    except BadSetting as error:
        print(f"saldo: {error}", file=sys.stderr)  # noqa: T201 - the one line that must be seen
        return 2
    app = load(settings, source)
    config = uvicorn.Config(
        with_cors(app),
        host=options.host,
        port=options.port,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        # Nothing here asks for the client's address or scheme: no look at X-Forwarded-*.
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
        log_config=log_config(settings.log_level, settings.function),
    )
    with contextlib.suppress(KeyboardInterrupt):
        DrainingServer(config, app, export).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
