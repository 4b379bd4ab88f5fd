"""``python -m saldo.serve.probe``: is the function in this container ready?

For the image's HEALTHCHECK, which has neither a shell nor curl to ask with.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 2.0


def main() -> int:
    """0 when /readyz answers 200 on PORT of this machine, else 1."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(os.environ.get("PORT", "8080")), timeout=TIMEOUT_S
    )
    try:
        connection.request("GET", "/readyz")
        return 0 if connection.getresponse().status == http.client.OK else 1
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
