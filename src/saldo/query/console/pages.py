"""The console: one page and its files, without a build step.

The policy lets the page load these files only, and talk to this function and the recorder only.
"""

from __future__ import annotations

import functools
import html
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.responses import Response

from saldo.serve.http.problems import NOT_FOUND, Problem
from saldo.serve.http.request import file_response

if TYPE_CHECKING:
    from saldo.query.reader import Reader
    from saldo.serve.http.request import Request

PAGE = "index.html"
RECORD_URL_PLACE = b"{{record-url}}"
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'{recorder}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


async def get_page(reader: Reader, request: Request) -> Response:
    """Respond to ``GET /console``."""
    if request.path.endswith("/"):
        # The page names its files relative to itself.
        return Response(status_code=308, headers={"Location": "../console"})
    record_url = reader.settings.console_record_url
    recorder = ""
    if record_url is not None:
        parts = urlsplit(record_url)
        recorder = f" {parts.scheme}://{parts.netloc}"
    headers = {
        "Content-Security-Policy": POLICY.format(recorder=recorder),
        "Referrer-Policy": "no-referrer",
    }
    body = _files()[PAGE].replace(RECORD_URL_PLACE, html.escape(record_url or "").encode())
    return file_response(request, body, "text/html", headers)


async def get_file(_reader: Reader, request: Request, name: str) -> Response:
    """Respond to ``GET /console/{}``."""
    if name == PAGE or name not in _files():
        raise Problem(NOT_FOUND, "There is no such file of the console here.")
    return file_response(request, _files()[name], KINDS[name.rpartition(".")[2]], {})


@functools.cache
def _files() -> dict[str, bytes]:
    """Return the console's files by their names."""
    folder = resources.files("saldo.query") / "console"
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.name.rpartition(".")[2] in KINDS
    }
