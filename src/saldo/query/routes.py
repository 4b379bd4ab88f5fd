"""Routes of get_balance, and the one table from its errors to statuses."""

from __future__ import annotations

from saldo.query import errors, handlers
from saldo.query.console import pages
from saldo.query.metrics import QueryMetrics
from saldo.query.reader import open_reader
from saldo.serve.http import auth, openapi
from saldo.serve.http.problems import COMMON_RULES, Rule
from saldo.serve.http.router import Route, Router
from saldo.serve.server import FunctionApp

RULES: dict[type[Exception], Rule] = {
    **auth.RULES,
    **COMMON_RULES,
    errors.AccountNotFound: Rule(404, "account-not-found", "There is no such account"),
    errors.PositionNotFound: Rule(404, "position-not-found", "The account has no such position"),
    errors.ProjectionBehind: Rule(
        503, "projection-behind", "The balance is not there yet", retry_after_s=1
    ),
    errors.ReadModelUnavailable: Rule(
        503, "read-model-unavailable", "Balances cannot be read", retry_after_s=2
    ),
    errors.TooManyWaiters: Rule(
        503, "too-many-waiters", "Too many readers wait here", retry_after_s=1
    ),
}

app = FunctionApp(
    metrics=QueryMetrics(),
    open_held=open_reader,
    router=Router(
        root_path="/balance-service",
        rules=RULES,
        routes=(
            Route("GET", "/balances", handlers.get_balances, handlers.BALANCES_QUERY),
            Route("GET", "/balance", handlers.get_balances, handlers.BALANCES_QUERY),
            Route("GET", "/transactions", handlers.get_statement, handlers.STATEMENT_QUERY),
            Route("GET", "/balances/daily", handlers.get_daily, handlers.DAILY_QUERY),
            Route("GET", "/system", handlers.get_system),
            Route("GET", "/accounts", handlers.get_accounts, handlers.PAGE_QUERY),
            Route("GET", "/balances/stream", handlers.get_stream, handlers.STREAM_QUERY),
            Route("POST", "/", handlers.post_cloud_event),
        ),
        pages=(
            *openapi.pages("saldo.query"),
            Route("GET", "/console", pages.get_page),
            Route("GET", "/console/{}", pages.get_file),
        ),
    ),
)
