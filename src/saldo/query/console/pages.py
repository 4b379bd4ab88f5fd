"""The console: one page and its files, served as they lie in the package.

No build step, no foreign host: the page loads these files and nothing else, and talks to this
function and to the recorder. The policy below has the browser hold it to that.
"""

from __future__ import annotations

import functools
import hashlib
import html
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.responses import Response

from saldo.serve.http.problems import NOT_FOUND, Problem
from saldo.serve.http.request import is_held

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from saldo.query.reader import Reader
    from saldo.serve.http.request import Request

PAGE = "index.html"
RECORD_URL_PLACE = "{{record-url}}"
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'{recorder}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file as it is served."""

    body: bytes
    kind: str
    etag: str


async def get_page(reader: Reader, request: Request) -> Response:
    """``GET /console``."""
    if request.scope["path"].endswith("/"):
        # The page names its files relative to itself.
        return Response(status_code=308, headers={"Location": "../console"})
    content = _content(PAGE, reader.settings.console_record_url or "")
    headers = {
        "Content-Security-Policy": _policy(reader.settings.console_record_url),
        "Referrer-Policy": "no-referrer",
    }
    return _answer(request, content, headers)


async def get_file(_reader: Reader, request: Request, name: str) -> Response:
    """``GET /console/{}``."""
    if name not in _file_names():
        raise Problem(NOT_FOUND, "There is no such file of the console here.")
    return _answer(request, _content(name, ""), {})


@functools.cache
def _file_names() -> frozenset[str]:
    """The console's files, but for the page itself."""
    names = {entry.name for entry in _folder().iterdir()}
    return frozenset(n for n in names if n.rpartition(".")[2] in KINDS and n != PAGE)


def _folder() -> Traversable:
    return resources.files("saldo.query") / "console"


@functools.cache
def _content(name: str, record_url: str) -> Content:
    text = (_folder() / name).read_text(encoding="utf-8")
    body = text.replace(RECORD_URL_PLACE, html.escape(record_url)).encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Content(body=body, kind=KINDS[name.rpartition(".")[2]], etag=etag)


@functools.cache
def _policy(record_url: str | None) -> str:
    if record_url is None:
        return POLICY.format(recorder="")
    parts = urlsplit(record_url)
    return POLICY.format(recorder=f" {parts.scheme}://{parts.netloc}")


def _answer(request: Request, content: Content, headers: dict[str, str]) -> Response:
    # Asked for anew each time, and mostly a 304: a new version is seen at once.
    headers |= {"ETag": content.etag, "Cache-Control": "no-cache"}
    if is_held(request, content.etag):
        return Response(status_code=304, headers=headers)
    return Response(content.body, 200, headers, content.kind)
