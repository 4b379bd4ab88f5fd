"""``python -m saldo.serve.healthcheck``: whether the function in this container is ready.

For the image's HEALTHCHECK, which has neither a shell nor curl to ask with. It asks by a bare
socket, since it is started anew every few seconds and http.client takes longer to import than all
the rest takes.
"""

from __future__ import annotations

import os
import socket
import sys

TIMEOUT_S = 2.0
REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
READY = b"HTTP/1.1 200 "


def main() -> int:
    """0 when /readyz answers 200 on PORT of this machine, else 1."""
    port = int(os.environ.get("PORT", "8080"))
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(REQUEST)
            # The status comes in one piece: it is the first thing that the server writes.
            return 0 if connection.recv(len(READY)) == READY else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
