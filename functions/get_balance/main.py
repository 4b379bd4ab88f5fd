"""get_balance: what an account holds, and how current the answer is.

The routes and the one table from error to status of this function; the work is in saldo.query.
"""

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from saldo.query import balances
from saldo.query import position_watch as watch
from saldo.query import routes as handler
from saldo.query.console.pages import pages as console
from saldo.serve.http import auth, problems
from saldo.serve.http import json_reader as json_body
from saldo.serve.http.problems import Rule
from saldo.serve.http.request import Edge, route
from saldo.serve.server import ANSWERERS

RULES = {
    json_body.Malformed: Rule(status=400, name="malformed-json", title="The body is not JSON"),
    problems.Invalid: Rule(status=400, name="invalid-request", title="The request is not valid"),
    auth.Unauthenticated: Rule(
        status=401,
        name="unauthenticated",
        title="A valid bearer token is needed",
        headers={"WWW-Authenticate": "Bearer"},
    ),
    auth.Forbidden: Rule(status=403, name="forbidden", title="The token does not allow this"),
    balances.AccountNotFound: Rule(
        status=404, name="account-not-found", title="There is no such account"
    ),
    balances.PositionNotFound: Rule(
        status=404, name="position-not-found", title="The account has no such position"
    ),
    balances.ProjectionBehind: Rule(
        status=503,
        name="projection-behind",
        title="The balance is not there yet",
        retry_after_s=1,
    ),
    balances.ReadModelUnavailable: Rule(
        status=503,
        name="read-model-unavailable",
        title="Balances cannot be read",
        retry_after_s=2,
    ),
    problems.TooBusy: Rule(
        status=503,
        name="too-busy",
        title="Too many requests wait here",
        retry_after_s=1,
    ),
    watch.TooManyWaiters: Rule(
        status=503,
        name="too-many-waiters",
        title="Too many readers wait here",
        retry_after_s=1,
    ),
    auth.IssuerUnavailable: Rule(
        status=503,
        name="issuer-unavailable",
        title="Tokens cannot be checked",
        retry_after_s=5,
    ),
}
EDGE = Edge(
    function="get_balance",
    package="saldo.query",
    root_path="/balance-service",
    routes=(
        route("GET", "/balances", handler.get_balances, handler.BALANCES_QUERY),
        route("GET", "/balance", handler.get_balances, handler.BALANCES_QUERY),
        route("GET", "/transactions", handler.get_statement, handler.STATEMENT_QUERY),
        route("GET", "/balances/daily", handler.get_daily, handler.DAILY_QUERY),
        route("GET", "/system", handler.get_system),
        route("GET", "/accounts", handler.get_accounts, handler.ACCOUNTS_QUERY),
        route("GET", "/balances/stream", handler.get_stream, handler.STREAM_QUERY),
        route("POST", "/", handler.post_cloud_event),
    ),
    rules=RULES,
    pages=(
        route("GET", "/console", console.get_page),
        route("GET", "/console/{}", console.get_file),
    ),
)
ANSWERERS.append(EDGE.answerer)


@functions_framework.aio.http
async def get_balance(request: Request) -> Response:
    """Answer one request."""
    return await EDGE.answer(request)
