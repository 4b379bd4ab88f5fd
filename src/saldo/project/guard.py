"""Who may deliver: checked on the ASGI scope, before the function, which sees no headers.

The same place refuses what the framework would take whole: a body that says it is too large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

from saldo.project.projector import PROJECTOR
from saldo.serve.http.auth import Forbidden, IssuerUnavailable, Unauthenticated
from saldo.serve.http.request import BODY_BYTES_MAX

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Scope


async def check_sender(scope: Scope) -> ASGIApp | None:
    """None when the request may pass, otherwise what answers it."""
    projector = await PROJECTOR.get()
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > BODY_BYTES_MAX:
        return PlainTextResponse(f"at most {BODY_BYTES_MAX} bytes", 413)
    if projector.authenticator is None:
        return None
    authorization = headers.get(b"authorization")
    try:
        await projector.authenticator.authenticate(
            authorization and authorization.decode("latin-1")
        )
    except Unauthenticated:
        return PlainTextResponse("a valid token of the source is needed", 401)
    except Forbidden:
        return PlainTextResponse("the sender is not one of the sources", 403)
    except IssuerUnavailable:
        return PlainTextResponse("tokens cannot be checked", 503)
    return None
