"""Routes of record_transaction, and the one table from its errors to statuses."""

from __future__ import annotations

from saldo.domain import errors
from saldo.record import reading, recording
from saldo.record.errors import (
    AccountNotFound,
    LinesRefused,
    OutcomeUnknown,
    StoreBusy,
    StoreUnavailable,
    TransactionNotFound,
)
from saldo.record.metrics import RecordMetrics
from saldo.record.recorder import open_recorder
from saldo.serve.http import auth, openapi
from saldo.serve.http.problems import COMMON_RULES, Invalid, Rule
from saldo.serve.http.router import Route, Router
from saldo.serve.server import FunctionApp

RULES: dict[type[Exception], Rule] = {
    **auth.RULES,
    **COMMON_RULES,
    errors.TooManyDigits: COMMON_RULES[Invalid],
    errors.AmountOutOfRange: COMMON_RULES[Invalid],
    AccountNotFound: Rule(404, "account-not-found", "There is no such account"),
    TransactionNotFound: Rule(404, "transaction-not-found", "There is no such transaction"),
    errors.AlreadyReversed: Rule(
        409, "already-reversed", "The transaction has already been reversed"
    ),
    errors.PositionConflict: Rule(412, "position-conflict", "The account has moved on"),
    errors.BalanceOutOfRange: Rule(422, "balance-out-of-range", "The balance would be too large"),
    errors.CurrencyMismatch: Rule(422, "currency-mismatch", "The account holds another currency"),
    errors.IdempotencyKeyReused: Rule(
        422, "idempotency-key-reused", "The key was used for another request"
    ),
    errors.InsufficientFunds: Rule(
        422, "insufficient-funds", "The balance does not allow this expense"
    ),
    errors.NotReversible: Rule(422, "not-reversible", "The transaction cannot be reversed"),
    LinesRefused: Rule(422, "lines-refused", "Nothing was recorded: lines were refused"),
    StoreBusy: Rule(503, "store-busy", "The event store is busy", retry_after_s=1),
    StoreUnavailable: Rule(503, "store-unavailable", "Nothing was recorded", retry_after_s=2),
    OutcomeUnknown: Rule(503, "outcome-unknown", "It may have been recorded", retry_after_s=2),
}

app = FunctionApp(
    metrics=RecordMetrics(),
    open_held=open_recorder,
    router=Router(
        root_path="/transaction-service",
        pages=openapi.pages("saldo.record"),
        rules=RULES,
        routes=(
            Route("POST", "/transactions", recording.post_transactions),
            Route("GET", "/transactions/{}", reading.get_transaction),
            Route("POST", "/transactions/{}/reversal", recording.post_reversal),
            Route("DELETE", "/transactions/{}/private", reading.delete_private),
            Route("PUT", "/accounts/{}/limit", recording.put_limit),
            Route("GET", "/accounts/{}/limit", reading.get_limit),
            Route("GET", "/accounts/{}/events", reading.get_events, reading.EVENTS_QUERY),
            # A PingSource, a Broker and a Sequence post to the root.
            Route("POST", "/", recording.post_transactions),
        ),
    ),
)
