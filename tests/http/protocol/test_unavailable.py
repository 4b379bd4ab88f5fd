"""Responses with status 503: their problem, and when to retry."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import pytest

from local import postgres
from saldo.domain import errors
from saldo.query.errors import TooManyWaiters
from saldo.record import errors as record_errors
from saldo.serve.functions import BALANCE, RECORD
from saldo.serve.http.problems import INTERNAL, TYPE_PREFIX, problem_response
from saldo.serve.http.router import harden
from tests.support import servers
from tests.support.live import Live, fresh, problem_type
from tests.support.route_tables import apps
from tests.support.servers import REQUEST_TIMEOUT_S
from tests.support.sides import connected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from saldo.serve.functions import Function

NOWHERE = "postgresql://saldo@127.0.0.1:1/saldo"
DEADLINE_S = 120.0


@contextlib.contextmanager
def without(live: Live, function: Function, log: Path, setting: str) -> Iterator[str]:
    """Yield the URL of the function with one of its databases unreachable."""
    served = servers.start_function(function, live.database, log, {setting: NOWHERE})
    try:
        yield served.url
    finally:
        served.child.kill()


def test_recorder_without_database_says_nothing_was_recorded(live: Live, tmp_path: Path) -> None:
    with without(live, RECORD, tmp_path / "log", "EVENT_STORE_URL") as url:
        body = {"accountId": fresh(), "type": "INCOME", "value": 1}
        recorded = httpx.post(f"{url}/transactions", json=body, timeout=REQUEST_TIMEOUT_S)
        read = httpx.get(f"{url}/accounts/a/events", timeout=REQUEST_TIMEOUT_S)
        headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x"}
        headers["ce-type"] = "dev.knative.sources.ping"
        swept = httpx.post(url, headers=headers, json={}, timeout=REQUEST_TIMEOUT_S)
    for answer in (recorded, read, swept):
        assert answer.status_code == 503
        assert problem_type(answer) == "store-unavailable"
        assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("setting", ["READ_MODEL_URL", "EVENT_STORE_URL"])
def test_reader_without_a_database_is_unavailable(live: Live, tmp_path: Path, setting: str) -> None:
    with without(live, BALANCE, tmp_path / "log", setting) as url:
        answer = httpx.get(f"{url}/balances?accountId=a", timeout=REQUEST_TIMEOUT_S)
    assert answer.status_code == 503
    assert problem_type(answer) == "read-model-unavailable"
    assert answer.headers["retry-after"] == "2"


def test_database_that_refuses_to_write_is_unavailable(live: Live, tmp_path: Path) -> None:
    """A standby, or a primary that was made read-only: it once was an unknown outcome."""
    url = live.database.dsn(RECORD.role) + "&default_transaction_read_only=on"
    settings = {"EVENT_STORE_URL": url}
    served = servers.start_function(RECORD, live.database, tmp_path / "log", settings)
    try:
        body = {"accountId": fresh(), "type": "INCOME", "value": 1}
        answer = httpx.post(f"{served.url}/transactions", json=body, timeout=REQUEST_TIMEOUT_S)
    finally:
        served.child.kill()
    assert answer.status_code == 503
    assert problem_type(answer) == "store-unavailable"
    assert "read-only" in answer.json()["detail"]
    assert "SQLSTATE 25006" in served.log()


async def test_third_concurrent_large_request_is_refused(live: Live) -> None:
    account_id = fresh()
    lines = [{"accountId": account_id, "type": "INCOME", "value": 1}]

    def post(body: object) -> httpx.Response:
        return live.record.post("/transactions", json=body)

    assert post(lines).status_code == 201
    async with connected(live.database.dsn()) as superuser:
        async with superuser.transaction():
            statement = "SELECT FROM event_store.stream WHERE account_id = $1 FOR UPDATE"
            await superuser.execute(statement, account_id)
            sent = [asyncio.create_task(asyncio.to_thread(post, lines)) for _ in range(6)]
            # Two wait for the lock; whichever ends before them was sent away.
            done, _ = await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
            answer = done.pop().result()
            assert answer.status_code == 503
            assert problem_type(answer) == "too-busy"
            assert answer.headers["retry-after"] == "1"
        # They are recorded, or given up after the time that the store waits for a lock.
        assert {(await each).status_code for each in sent} <= {201, 503}
    # The places are free again once those requests have ended.
    assert post(lines).status_code == 201


WHICH = UUID("019ab3f2-7b1e-7c3a-9d55-0f6a3c1b2d4e")


@pytest.mark.parametrize(
    ("error", "name", "members"),
    [
        (record_errors.StoreBusy(), "store-busy", {}),
        (
            record_errors.OutcomeUnknown(transaction_id=WHICH),
            "outcome-unknown",
            {"transactionId": str(WHICH)},
        ),
        (TooManyWaiters(), "too-many-waiters", {}),
    ],
)
def test_unavailable_errors_have_their_problem(
    error: Exception, name: str, members: dict[str, str]
) -> None:
    answers = [problem_response(error, app.router.rules) for app in apps()]
    [answer] = [harden(each) for each in answers if each is not None]
    told = httpx.Response(answer.status_code, headers=answer.headers, content=bytes(answer.body))
    assert told.status_code == 503
    assert problem_type(told) == name
    assert told.headers["retry-after"] in {"1", "2"}
    assert told.headers["cache-control"] == "no-store"
    assert told.json().items() >= members.items()


def test_every_error_of_the_domain_has_a_rule() -> None:
    """A refusal without one would be a 500."""
    [recorder, _] = apps()
    refusals = set(errors.Refused.__subclasses__())
    assert len(refusals) >= 8
    assert refusals <= set(recorder.router.rules)


def test_unexpected_error_reveals_no_details(live: Live, tmp_path: Path) -> None:
    """A missing table is unexpected: the log names it, the response does not."""
    with servers.cloned_database(live.database.data_dir) as database:
        served = servers.start_function(RECORD, database, tmp_path / "log", {})
        try:
            postgres.run_sql(database.dsn(), "ALTER TABLE event_store.event RENAME TO gone")
            answer = httpx.get(f"{served.url}/accounts/a/events", timeout=REQUEST_TIMEOUT_S)
        finally:
            served.child.kill()
    assert answer.status_code == INTERNAL.status
    assert answer.json() == {
        "type": f"{TYPE_PREFIX}internal",
        "title": INTERNAL.title,
        "status": 500,
        "detail": "The error was logged.",
    }
    assert "record/stored_events.py" in served.log()
