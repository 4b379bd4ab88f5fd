"""The bulk requests that record a statement's lines, one after the other.

Every line has its own idempotency key, so a request can always be sent again: after a lost
response, a restart of the recorder, or an interrupted import. A key is made of what the bank says
about a line in every file that shows it, so files may overlap: docs/how-to/import-statements.md.
The running balance of a CSV file takes no part: many banks print it on the last line of a day only,
or post a line to an earlier day later on.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
import msgspec

from saldo.bank_import.errors import RecordingError
from saldo.bank_import.statement import BankStatement, StatementLine
from saldo.domain.money import format_minor

# The recorder takes 10,000 lines in 8 MiB a request; the longest line has less than 5 KiB. Small
# requests let the progress be seen, and what would refuse all of them (a token, the currency).
CHUNK_LINES_MAX = 1_000

# About half a minute: a restart of the recorder, or other imports that have all of its places.
ATTEMPTS_MAX = 10
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 5.0
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
ERRORS_SHOWN = 10

KEY_REUSED = "urn:saldo:problem:idempotency-key-reused"
LINES_REFUSED = "urn:saldo:problem:lines-refused"

# One for each account, whatever the file: an opening balance stands for all that was before, so a
# second one would count the same past again.
OPENING_KEY = "import:opening-balance"

# Part of what is hashed: another way of telling lines apart must not meet the keys of this one.
KEY_VERSION = "1"
KEY_DIGEST_BYTES = 20


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How many lines were recorded so far, how many were there before, and the balance then.

    ``reworded`` are lines that are there with another description or metadata. ``saldo_minor`` is
    Saldo's balance at the end of the day of the closing balance; ``uncompared`` says why it is
    unknown.
    """

    recorded: int = 0
    already_there: int = 0
    reworded: list[int] = field(default_factory=list)
    position: int = 0
    saldo_minor: int | None = None
    uncompared: str | None = None

    @property
    def done(self) -> int:
        """Return how many lines the account now holds."""
        return self.recorded + self.already_there + len(self.reworded)

    def count(self, content: bytes) -> None:
        """Count the lines of the recorder's response."""
        transactions = msgspec.json.decode(content)["transactions"]
        replayed = sum(each.get("replayed", False) for each in transactions)
        self.already_there += replayed
        self.recorded += len(transactions) - replayed
        self.position = max([self.position, *(each["position"] for each in transactions)])


class _Fault(msgspec.Struct):
    message: str = ""
    line: int | None = None
    type: str = ""
    field: str = ""


class _Problem(msgspec.Struct, rename="camel"):
    type: str = ""
    title: str = ""
    detail: str = ""
    errors: list[_Fault] = msgspec.field(default_factory=list)
    error_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One line as it is sent, and the line of the file that it came from (0: the opening)."""

    number: int
    body: bytes


def idempotency_keys(lines: Sequence[StatementLine]) -> list[str]:
    """Return the key of each line, in their order. Give all lines of a file at once."""
    keys: list[str] = []
    seen: dict[str, int] = {}
    for line in lines:
        what = ("content", line.description)
        if line.reference is not None:
            what = ("reference", line.reference)
        known_by = "\0".join((*what, line.occurred_on.isoformat(), str(line.amount_minor)))
        seen[known_by] = seen.get(known_by, 0) + 1
        text = f"{KEY_VERSION}\0{known_by}\0{seen[known_by]}"
        digest = hashlib.blake2b(text.encode(), digest_size=KEY_DIGEST_BYTES).hexdigest()
        keys.append(f"import:{digest}")
    return keys


def outgoing_lines(
    statement: BankStatement, account_id: str, *, with_opening_balance: bool
) -> list[Outgoing]:
    """Return the NDJSON line of each transaction, the opening balance first where it is recorded.

    A line has neither the file's name nor its own number: the same transaction of another file must
    be the same request.
    """
    keyed = list(zip(idempotency_keys(statement.lines), statement.lines, strict=True))
    opening = statement.opening
    if with_opening_balance and opening is not None and opening.amount_minor:
        first = StatementLine(
            number=0,
            occurred_on=opening.on,
            amount_minor=opening.amount_minor,
            description="Opening balance",
            reference=None,
        )
        keyed.insert(0, (OPENING_KEY, first))
    return [_outgoing(line, key, statement.currency, account_id) for key, line in keyed]


def _outgoing(line: StatementLine, key: str, currency: str, account_id: str) -> Outgoing:
    members: dict[str, object] = {
        "accountId": account_id,
        "type": "INCOME" if line.amount_minor > 0 else "EXPENSE",
        # a string, since an encoder would write a JSON number from a float
        "value": format_minor(abs(line.amount_minor), currency),
        "currency": currency,
        # the bank's calendar day, so that a day of the statement is a day of effective time
        "occurredAt": f"{line.occurred_on.isoformat()}T00:00:00Z",
        "idempotencyKey": key,
    }
    if line.description:
        members["description"] = line.description
    if line.reference is not None:
        members["metadata"] = {"bankReference": line.reference}
    return Outgoing(number=line.number, body=msgspec.json.encode(members))


def record_lines(
    client: httpx.Client,
    lines: Sequence[Outgoing],
    outcome: Outcome,
    on_progress: Callable[[], None],
) -> None:
    """Send all lines to the recorder, in order, and count them in ``outcome``.

    Raise RecordingError. What was recorded before it stays: the same import goes on from there.
    """
    for start in range(0, len(lines), CHUNK_LINES_MAX):
        _send(client, lines[start : start + CHUNK_LINES_MAX], outcome)
        on_progress()


def _send(client: httpx.Client, chunk: Sequence[Outgoing], outcome: Outcome) -> None:
    """Send ``chunk`` until it is recorded; raise RecordingError."""
    response = _post(client, chunk)
    if response.status_code == httpx.codes.CREATED:
        outcome.count(response.content)
        return
    problem = _problem_of(response)
    reused = _reused_keys(problem, chunk)
    if not reused:
        raise RecordingError(_refusal(response, problem, chunk))
    if any(chunk[index].number == 0 for index in reused):
        raise RecordingError(
            "the account already has another opening balance from an earlier import: "
            "import without --with-opening-balance"
        )
    if problem.error_count > len(reused) < len(chunk):
        # Only the first of the refusals are named. In pieces of that size all of them are.
        for start in range(0, len(chunk), len(reused)):
            _send(client, chunk[start : start + len(reused)], outcome)
        return
    # The key holds the bank's reference, day and amount, so it is the same transaction, with
    # other words: it stays as it was recorded.
    outcome.reworded += [chunk[index].number for index in sorted(reused)]
    rest = [line for index, line in enumerate(chunk) if index not in reused]
    if rest:
        _send(client, rest, outcome)


def _post(client: httpx.Client, chunk: Sequence[Outgoing]) -> httpx.Response:
    """Return the recorder's response to the chunk, after ATTEMPTS_MAX tries at most."""
    content = b"\n".join(line.body for line in chunk)
    said, wait_s = "", 0.0
    for attempt in range(ATTEMPTS_MAX):
        time.sleep(wait_s)
        wait_s = min(BACKOFF_FIRST_S * 2**attempt, BACKOFF_MAX_S)
        try:
            response = client.post(
                "/transactions", content=content, headers={"Content-Type": "application/x-ndjson"}
            )
        except httpx.TransportError as error:
            said = f"{error.request.url} does not respond ({type(error).__name__})"
            continue
        if response.status_code not in RETRIED_STATUSES:
            return response
        said = f"{response.url} responds {response.status_code}: {_problem_of(response).title}"
        retry_after = response.headers.get("retry-after", "")
        if retry_after.isdecimal():
            wait_s = max(wait_s, min(float(retry_after), BACKOFF_MAX_S))
    raise RecordingError(f"{said}, {ATTEMPTS_MAX} times")


def _problem_of(response: httpx.Response) -> _Problem:
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(response.content, type=_Problem)
    return _Problem(title=response.reason_phrase)


def _reused_keys(problem: _Problem, chunk: Sequence[Outgoing]) -> set[int]:
    """Return the places in the chunk whose keys have other content; none for another problem."""
    if problem.type == KEY_REUSED and len(chunk) == 1:
        return {0}
    places = {
        fault.line - 1
        for fault in problem.errors
        if fault.type == KEY_REUSED and fault.line is not None and 1 <= fault.line <= len(chunk)
    }
    # what was refused for another reason is refused as a whole
    return places if problem.type == LINES_REFUSED and len(places) == len(problem.errors) else set()


def _refusal(response: httpx.Response, problem: _Problem, chunk: Sequence[Outgoing]) -> str:
    """Return what the recorder refused, by the lines of the file."""
    said = [f"the recorder refused: {problem.title or problem.type} ({response.status_code})"]
    for fault in problem.errors[:ERRORS_SHOWN]:
        where = ""
        if fault.line is not None and 1 <= fault.line <= len(chunk):
            number = chunk[fault.line - 1].number
            where = f"line {number}: " if number else "opening balance: "
        said.append(where + " ".join(filter(None, (fault.field, fault.message))))
    if not problem.errors and problem.detail:
        said.append(problem.detail)
    if problem.error_count > ERRORS_SHOWN:
        said.append(f"and {problem.error_count - ERRORS_SHOWN} more")
    return "; ".join(said)
