"""A server for an empty function: the framework's own app, with no code of Saldo.

The server and its settings are those of ``saldo.serve``, and so is the garbage collector, so that
both functions are measured under the same conditions.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from functions_framework.aio import create_asgi_app

if TYPE_CHECKING:
    from starlette.applications import Starlette


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--function", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backlog", type=int, required=True)
    parser.add_argument("--keep-alive", type=int, required=True)
    parser.add_argument("--gc-allocations", type=int, required=True)
    options = parser.parse_args()
    source = str(Path(__file__).with_name("main.py"))
    app: Starlette = create_asgi_app(target=options.function, source=source)  # type: ignore[no-untyped-call]
    gc.collect()
    gc.freeze()
    gc.set_threshold(options.gc_allocations)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.run(
            app,
            host="127.0.0.1",
            port=options.port,
            loop="uvloop",
            http="httptools",
            lifespan="on",
            access_log=False,
            server_header=False,
            log_level="warning",
            backlog=options.backlog,
            timeout_keep_alive=options.keep_alive,
        )


if __name__ == "__main__":
    main()
