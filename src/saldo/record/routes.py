"""Routes of record_transaction, and the one table from its errors to statuses."""

from __future__ import annotations

from saldo.domain import errors
from saldo.record import handlers
from saldo.record.errors import (
    AccountNotFound,
    LinesRefused,
    OutcomeUnknown,
    StoreBusy,
    StoreUnavailable,
    TransactionNotFound,
)
from saldo.record.recorder import open_recorder
from saldo.serve.http import auth, openapi
from saldo.serve.http.problems import COMMON_RULES, Invalid, Rule
from saldo.serve.http.router import Router, route
from saldo.serve.server import FunctionApp

RULES: dict[type[Exception], Rule] = {
    **auth.RULES,
    **COMMON_RULES,
    errors.TooManyDigits: COMMON_RULES[Invalid],
    errors.AmountOutOfRange: COMMON_RULES[Invalid],
    AccountNotFound: Rule(status=404, name="account-not-found", title="There is no such account"),
    TransactionNotFound: Rule(
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
    LinesRefused: Rule(
        status=422,
        name="lines-refused",
        title="Nothing was recorded: lines were refused",
    ),
    StoreBusy: Rule(
        status=503, name="store-busy", title="The event store is busy", retry_after_s=1
    ),
    StoreUnavailable: Rule(
        status=503,
        name="store-unavailable",
        title="Nothing was recorded",
        retry_after_s=2,
    ),
    OutcomeUnknown: Rule(
        status=503,
        name="outcome-unknown",
        title="It may have been recorded",
        retry_after_s=2,
    ),
}

app = FunctionApp(
    name="record_transaction",
    open_held=open_recorder,
    router=Router(
        root_path="/transaction-service",
        pages=openapi.pages("saldo.record"),
        rules=RULES,
        routes=(
            route("POST", "/transactions", handlers.post_transactions),
            route("GET", "/transactions/{}", handlers.get_transaction),
            route("POST", "/transactions/{}/reversal", handlers.post_reversal),
            route("DELETE", "/transactions/{}/private", handlers.delete_private),
            route("PUT", "/accounts/{}/limit", handlers.put_limit),
            route("GET", "/accounts/{}/limit", handlers.get_limit),
            route("GET", "/accounts/{}/events", handlers.get_events, handlers.EVENTS_QUERY),
            # A PingSource, a Broker and a Sequence post to the root.
            route("POST", "/", handlers.post_transactions),
        ),
    ),
)
