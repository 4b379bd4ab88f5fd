"""record_transaction: POST a transaction, and it is committed when the 201 arrives.

The routes and the one table from error to status of this function; the work is in saldo.record.
"""

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from saldo.domain import errors
from saldo.record import batch, intent
from saldo.record import postgres as event_store
from saldo.record import routes as handler
from saldo.serve.http import auth, problems
from saldo.serve.http import json_reader as json_body
from saldo.serve.http.problems import Rule
from saldo.serve.http.request import Edge, route
from saldo.serve.server import ANSWERERS

BAD_REQUEST = Rule(status=400, name="invalid-request", title="The request is not valid")
RULES = {
    json_body.Malformed: Rule(status=400, name="malformed-json", title="The body is not JSON"),
    problems.Invalid: BAD_REQUEST,
    errors.TooManyDigits: BAD_REQUEST,
    errors.AmountOutOfRange: BAD_REQUEST,
    auth.Unauthenticated: Rule(
        status=401,
        name="unauthenticated",
        title="A valid bearer token is needed",
        headers={"WWW-Authenticate": "Bearer"},
    ),
    auth.Forbidden: Rule(status=403, name="forbidden", title="The token does not allow this"),
    handler.AccountNotFound: Rule(
        status=404, name="account-not-found", title="There is no such account"
    ),
    handler.TransactionNotFound: Rule(
        status=404, name="transaction-not-found", title="There is no such transaction"
    ),
    errors.AlreadyReversed: Rule(
        status=409,
        name="already-reversed",
        title="The transaction has already been reversed",
    ),
    errors.PositionConflict: Rule(
        status=412, name="position-conflict", title="The account has moved on"
    ),
    errors.BalanceOutOfRange: Rule(
        status=422, name="balance-out-of-range", title="The balance would be too large"
    ),
    errors.CurrencyMismatch: Rule(
        status=422, name="currency-mismatch", title="The account holds another currency"
    ),
    errors.IdempotencyKeyReused: Rule(
        status=422,
        name="idempotency-key-reused",
        title="The key was used for another request",
    ),
    errors.InsufficientFunds: Rule(
        status=422,
        name="insufficient-funds",
        title="The balance does not allow this expense",
    ),
    errors.NotReversible: Rule(
        status=422, name="not-reversible", title="The transaction cannot be reversed"
    ),
    intent.LinesRefused: Rule(
        status=422,
        name="lines-refused",
        title="Nothing was recorded: lines were refused",
    ),
    problems.TooBusy: Rule(
        status=503,
        name="too-busy",
        title="Too many requests wait here",
        retry_after_s=1,
    ),
    event_store.StoreBusy: Rule(
        status=503, name="store-busy", title="The event store is busy", retry_after_s=1
    ),
    event_store.StoreUnavailable: Rule(
        status=503,
        name="store-unavailable",
        title="Nothing was recorded",
        retry_after_s=2,
    ),
    batch.OutcomeUnknown: Rule(
        status=503,
        name="outcome-unknown",
        title="It may have been recorded",
        retry_after_s=2,
    ),
    auth.IssuerUnavailable: Rule(
        status=503,
        name="issuer-unavailable",
        title="Tokens cannot be checked",
        retry_after_s=5,
    ),
}
EDGE = Edge(
    function="record_transaction",
    package="saldo.record",
    root_path="/transaction-service",
    routes=(
        route("POST", "/transactions", handler.post_transactions),
        route("GET", "/transactions/{}", handler.get_transaction),
        route("POST", "/transactions/{}/reversal", handler.post_reversal),
        route("DELETE", "/transactions/{}/private", handler.delete_private),
        route("PUT", "/accounts/{}/limit", handler.put_limit),
        route("GET", "/accounts/{}/limit", handler.get_limit),
        route("GET", "/accounts/{}/events", handler.get_events, handler.EVENTS_QUERY),
        # A PingSource, a Broker and a Sequence post to the root.
        route("POST", "/", handler.post_transactions),
    ),
    rules=RULES,
)
ANSWERERS.append(EDGE.answerer)


@functions_framework.aio.http
async def record_transaction(request: Request) -> Response:
    """Answer one request."""
    return await EDGE.answer(request)
