"""``python -m saldo.serve.healthcheck``: the image's HEALTHCHECK, which has neither shell nor curl.

It uses a bare socket: it starts every few seconds, and http.client is slow to import.
"""

from __future__ import annotations

import os
import socket
import sys

TIMEOUT_S = 2.0
REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
READY = b"HTTP/1.1 200 "


def main() -> int:
    """Return 0 if /readyz responds with 200 on PORT of this machine, otherwise 1."""
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
