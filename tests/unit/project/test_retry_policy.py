"""The projector's table from error to status, compared with KafkaSource's retry policy."""

from __future__ import annotations

import pytest

from local.knative.delivery import is_retried
from saldo.project.errors import (
    BadDelivery,
    BeyondStore,
    GivenUp,
    ReadModelBusy,
    ReadModelUnavailable,
)
from saldo.project.routes import RULES, app
from saldo.serve.group_commit import QueueFull
from saldo.serve.http import auth
from saldo.serve.http.auth import Forbidden, IssuerUnavailable, Unauthenticated

POLICY: list[tuple[Exception, bool]] = [
    (BadDelivery("x"), False),
    (GivenUp(), False),
    (BeyondStore(), True),
    (ReadModelBusy(), True),
    (ReadModelUnavailable(), True),
    (QueueFull(), True),
    (Unauthenticated(), False),
    (Forbidden(), False),
    (IssuerUnavailable(), True),
]


@pytest.mark.parametrize(("error", "retried"), POLICY)
def test_kafka_source_retries_exactly_the_intended_errors(
    error: Exception,
    retried: bool,
) -> None:
    status = app.router.refusal(error).status_code
    assert is_retried(status) == retried
    assert status >= 400


def test_an_unexpected_error_is_retried() -> None:
    """It is 500; the error itself goes to the log, without its text."""
    assert app.router.refusal(ZeroDivisionError()).status_code == 500
    assert is_retried(500)


def test_every_error_of_the_table_is_tested() -> None:
    assert auth.RULES.items() <= RULES.items()
    assert set(RULES) == {type(error) for error, _ in POLICY}
