"""get_balance: what an account holds, and how current the response is.

Its routes and their errors are in saldo.query.routes.
"""

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from saldo.query.routes import app


@functions_framework.aio.http
async def get_balance(request: Request) -> Response:
    """Respond to one request."""
    return await app.respond_to(request)
