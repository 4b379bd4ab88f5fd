"""The sending of imported lines, with a recorder in memory that keeps the contract.

With the real functions: tests/integration/operate/test_bank_import.py.
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from saldo.bank_import import sender
from saldo.bank_import.errors import RecordingError
from saldo.bank_import.sender import (
    CHUNK_LINES_MAX,
    Outcome,
    Outgoing,
    outgoing_lines,
    record_lines,
)
from saldo.bank_import.statement import (
    BankStatement,
    StatementLine,
    tidy_description,
    tidy_reference,
)
from tests.support.statement_files import BankLine, as_mt940, as_ofx, numbered, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

URL = "http://recorder"
ERRORS_NAMED_MAX = 100


class Recorder:
    """Bulk by the contract: all or nothing, keys by line, every refused line named up to a bound.

    ``before`` may answer a request itself, or raise, by its number from 1; ``after`` may take an
    answer away once the lines are recorded.
    """

    def __init__(self) -> None:
        self.by_key: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self.balance_minor: int | None = None
        self.before: Callable[[int], httpx.Response | None] = lambda _: None
        self.after: Callable[[int], None] = lambda _: None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        answer = self.before(number := self.requests)
        if answer is not None:
            return answer
        lines = [json.loads(line) for line in request.content.split(b"\n")]
        refused = [
            {"line": place, "type": sender.KEY_REUSED, "message": "used"}
            for place, line in enumerate(lines, start=1)
            if self.by_key.get(line["idempotencyKey"], line) != line
        ]
        if refused and len(lines) == 1:
            return problem(422, sender.KEY_REUSED, [])
        if refused:
            return problem(422, sender.LINES_REFUSED, refused)
        answered: list[dict[str, Any]] = []
        for line in lines:
            key = line["idempotencyKey"]
            replayed = {"replayed": True} if key in self.by_key else {}
            self.by_key[key] = line
            answered.append({"position": len(self.by_key), **replayed})
        self.after(number)
        return httpx.Response(201, json={"transactions": answered})


def problem(status: int, kind: str, errors: Sequence[dict[str, Any]]) -> httpx.Response:
    members = {"type": kind, "title": "refused", "errors": errors[:ERRORS_NAMED_MAX]}
    return httpx.Response(status, json={**members, "errorCount": len(errors)})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "BACKOFF_FIRST_S", 0.0)
    monkeypatch.setattr(sender, "BACKOFF_MAX_S", 0.0)


def send(recorder: Recorder, lines: Sequence[Outgoing]) -> Outcome:
    outcome = Outcome()
    with httpx.Client(base_url=URL, transport=httpx.MockTransport(recorder)) as client:
        record_lines(client, lines, outcome, lambda: None)
    return outcome


def bank_lines(count: int, description: str = "coffee") -> list[BankLine]:
    first = date(2026, 1, 1)
    return numbered(
        [BankLine(first + timedelta(days=n // 50), n + 1, description) for n in range(count)]
    )


def sent(lines: Sequence[BankLine]) -> list[Outgoing]:
    return outgoing_lines(read(as_ofx(lines)), "wesley", with_opening_balance=False)


def test_a_second_import_records_nothing() -> None:
    recorder = Recorder()
    lines = sent(bank_lines(7_000))

    first = send(recorder, lines)
    second = send(recorder, lines)

    assert (first.recorded, first.already_there, first.position) == (7_000, 0, 7_000)
    assert (second.recorded, second.already_there) == (0, 7_000)


def test_a_lost_response_is_requested_again() -> None:
    recorder = Recorder()

    def lose(number: int) -> None:
        if number in {1, 3}:
            message = "connection reset"
            raise httpx.ReadError(message)

    recorder.after = lose
    outcome = send(recorder, sent(bank_lines(6_000)))

    assert outcome.done == len(recorder.by_key) == 6_000


@pytest.mark.parametrize("status", [503, 502, 429])
def test_a_busy_recorder_is_retried(status: int) -> None:
    recorder = Recorder()
    recorder.before = lambda number: (
        httpx.Response(status, headers={"Retry-After": "1"}) if number < 4 else None
    )

    outcome = send(recorder, sent(bank_lines(10)))

    assert (outcome.recorded, recorder.requests) == (10, 4)


def test_import_fails_after_bounded_retries_without_a_recorder() -> None:
    recorder = Recorder()

    def refuse(_: int) -> httpx.Response | None:
        message = "refused"
        raise httpx.ConnectError(message)

    recorder.before = refuse
    with pytest.raises(RecordingError, match="does not respond"):
        send(recorder, sent(bank_lines(10)))

    assert recorder.requests == sender.ATTEMPTS_MAX


def test_an_interrupted_import_resumes_where_it_ended() -> None:
    recorder = Recorder()
    lines = sent(bank_lines(12_000))
    recorder.before = lambda number: httpx.Response(500) if number > 2 else None
    with pytest.raises(RecordingError, match="500"):
        send(recorder, lines)
    before = len(recorder.by_key)
    recorder.before = lambda _: None

    outcome = send(recorder, lines)

    assert 0 < before < 12_000
    assert (outcome.already_there, outcome.recorded) == (before, 12_000 - before)


@pytest.mark.parametrize("changed", [1, 7, 2_500])
def test_reworded_lines_stay_and_the_others_are_recorded(changed: int) -> None:
    """Their reference, day and amount are the same; only a hundred are named an answer."""
    recorder = Recorder()
    old = bank_lines(3_000)
    send(recorder, sent(old[:changed]))
    new = bank_lines(3_000, "Coffee, Main Street")

    outcome = send(recorder, sent(new))

    assert len(outcome.reworded) == changed
    assert (outcome.recorded, outcome.already_there) == (3_000 - changed, 0)
    assert len(recorder.by_key) == 3_000


def test_a_refused_line_is_named_by_its_line_in_the_file() -> None:
    recorder = Recorder()
    fault = {"line": 3, "type": "urn:saldo:problem:insufficient-funds", "message": "too little"}
    recorder.before = lambda _: problem(422, sender.LINES_REFUSED, [fault])
    lines = sent(bank_lines(5))

    with pytest.raises(RecordingError, match=f"line {lines[2].number}: too little"):
        send(recorder, lines)


def test_a_refused_token_costs_one_small_request() -> None:
    recorder = Recorder()
    recorder.before = lambda _: problem(401, "urn:saldo:problem:unauthenticated", [])

    with pytest.raises(RecordingError, match="401"):
        send(recorder, sent(bank_lines(12_000)))

    assert recorder.requests == 1


def test_lines_are_sent_in_order() -> None:
    """An expense never arrives before the income of an earlier line that covers it."""
    recorder = Recorder()
    lines = sent(bank_lines(CHUNK_LINES_MAX * 2 + 1))

    outcome = send(recorder, lines)

    assert (outcome.recorded, recorder.requests) == (len(lines), 3)
    assert list(recorder.by_key.values()) == [json.loads(line.body) for line in lines]


def test_an_opening_balance_is_recorded_once_per_account() -> None:
    recorder = Recorder()
    january = read(as_mt940(bank_lines(3), opening_minor=100_000))
    february = read(as_mt940(bank_lines(5)[3:], opening_minor=100_006))

    for _ in range(2):
        send(recorder, outgoing_lines(january, "wesley", with_opening_balance=True))
    with pytest.raises(RecordingError, match="without --with-opening-balance"):
        send(recorder, outgoing_lines(february, "wesley", with_opening_balance=True))

    assert len(recorder.by_key) == 4
    assert next(iter(recorder.by_key.values()))["value"] == "1000"


def test_opening_balance_is_sent_only_on_request() -> None:
    statement = read(as_mt940(bank_lines(3), opening_minor=100_000))

    lines = outgoing_lines(statement, "wesley", with_opening_balance=False)

    assert [line.number for line in lines] == [line.number for line in statement.lines]


def test_requests_do_not_depend_on_the_file() -> None:
    """The same transaction of another file must be the same request."""
    lines = bank_lines(4)
    of_two_files = [sent(lines[:3])[2].body, sent(lines[2:])[0].body]

    assert of_two_files[0] == of_two_files[1]
    assert json.loads(of_two_files[0]).keys() == {
        "accountId",
        "type",
        "value",
        "currency",
        "occurredAt",
        "description",
        "metadata",
        "idempotencyKey",
    }


def test_a_request_of_the_longest_lines_has_under_8_mib() -> None:
    """The recorder takes no more."""
    text = "\N{GRINNING FACE}" * 500
    line = StatementLine(
        number=1,
        occurred_on=date(2026, 1, 1),
        amount_minor=1,
        description=tidy_description(text),
        reference=tidy_reference(text),
    )
    statement = BankStatement(currency="BRL", lines=[line] * CHUNK_LINES_MAX)

    lines = outgoing_lines(statement, "a" * 128, with_opening_balance=False)

    assert sum(len(each.body) + 1 for each in lines) < 8 * 1024 * 1024
