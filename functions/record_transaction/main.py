"""record_transaction: POST a transaction, and it is committed when the 201 arrives.

Its routes and their errors are in saldo.record.routes.
"""

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from saldo.record.routes import app


@functions_framework.aio.http
async def record_transaction(request: Request) -> Response:
    """Respond to one request."""
    return await app.respond_to(request)
