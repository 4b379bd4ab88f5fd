"""The OpenAPI document of a function, as JSON and in Redoc, a viewer.

`make reference` makes each side's openapi.json from openapi.yaml, the response bodies and the table
of errors.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING

from saldo.serve.http.request import file_response
from saldo.serve.http.router import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from saldo.serve.http.request import Request

# Redoc 2.5.4 (MIT), as npm's package has it, compressed. It puts its rules into an empty style
# element and one fixed text: the hashes let these in, and no other style.
VIEWER = "redoc.standalone.js.gz"
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; "
    "style-src 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' "
    "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Saldo</title></head>
<body><redoc spec-url="{root}/openapi.json" disable-search="true"></redoc>
<script src="{root}/docs/viewer.js"></script></body>
</html>
"""


def pages(package: str) -> tuple[Route, ...]:
    """Return the routes of the document in ``package``."""

    async def get_document(_held: object, request: Request) -> Response:
        return file_response(request, _read(package, "openapi.json"), "application/json", {})

    return (
        Route("GET", "/openapi.json", get_document),
        Route("GET", "/docs", _get_page),
        Route("GET", "/docs/viewer.js", _get_viewer),
    )


async def _get_page(_held: object, request: Request) -> Response:
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
    body = PAGE.format(root=request.root_path).encode()
    return file_response(request, body, "text/html", headers)


async def _get_viewer(_held: object, request: Request) -> Response:
    headers = {"Content-Encoding": "gzip"}
    return file_response(request, _read("saldo.serve.http", VIEWER), "text/javascript", headers)


@functools.cache
def _read(package: str, name: str) -> bytes:
    return (resources.files(package) / name).read_bytes()
