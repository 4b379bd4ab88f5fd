"""Sending a statement's lines to the recorder, in bulk, so that nothing is recorded twice.

Every line carries an idempotency key of its own, so whatever happens to a request, sending its
lines again is safe: that is how lost answers, restarts and interrupted imports are survived.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from saldo.bank_import.keys import OPENING_KEY, idempotency_keys
from saldo.domain.money import format_minor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from saldo.bank_import.lines import BankStatement

# The recorder takes 10,000 lines in 8 MiB a request, and two such requests at a time. Smaller ones
# are no slower, hold less in memory on both sides, and let the progress be seen.
CHUNK_LINES_MAX = 5_000
CHUNK_BYTES_MAX = 6 * 1024 * 1024
# The first request is small and goes alone: what would refuse all of them (a token, the currency)
# is found out before much is sent.
FIRST_CHUNK_LINES_MAX = 200
REQUESTS_IN_FLIGHT_MAX = 2

# About half a minute: a restart of the recorder, or another import that has both of its places.
ATTEMPTS_MAX = 10
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 5.0
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
CREATED = 201

KEY_REUSED = "urn:saldo:problem:idempotency-key-reused"
LINES_REFUSED = "urn:saldo:problem:lines-refused"


class ImportFailed(Exception):  # noqa: N818 - an outcome that the user is told
    """The recorder refused lines or could not be reached; the message says which and what to do."""


class OpeningExists(ImportFailed):
    """The account has an opening balance from an earlier import, and it is another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One line as it is sent, and the line of the file that it came from (0: the opening)."""

    number: int
    body: bytes


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the lines so far."""

    recorded: int = 0
    already_there: int = 0
    # lines that are there with another description or metadata: the bank changed its words
    reworded: list[int] = field(default_factory=list)
    position: int = 0

    @property
    def done(self) -> int:
        """Lines that the account now holds."""
        return self.recorded + self.already_there + len(self.reworded)


class _Recorded(msgspec.Struct):
    position: int
    replayed: bool = False


class _BulkAnswer(msgspec.Struct):
    transactions: list[_Recorded]


class _Fault(msgspec.Struct):
    message: str = ""
    line: int | None = None
    type: str = ""
    field: str = ""


class _Problem(msgspec.Struct):
    type: str = ""
    title: str = ""
    detail: str = ""
    errors: list[_Fault] = msgspec.field(default_factory=list)
    errorCount: int = 0  # noqa: N815 - the wire's name


def outgoing_lines(
    statement: BankStatement, account_id: str, *, with_opening_balance: bool
) -> list[Outgoing]:
    """The NDJSON line of each transaction, the opening balance first where it is asked for.

    What is sent is a function of what the bank says of the transaction: no file name and no line
    number, which would make the same transaction of another file another request.
    """
    encode = msgspec.json.Encoder().encode
    lines: list[Outgoing] = []
    opening = statement.opening
    if with_opening_balance and opening is not None and opening.amount_minor:
        body = _body(
            account_id,
            opening.amount_minor,
            statement.currency,
            opening.on.isoformat(),
            OPENING_KEY,
        )
        body["description"] = "Opening balance"
        lines.append(Outgoing(number=0, body=encode(body)))
    for line, key in zip(statement.lines, idempotency_keys(statement.lines), strict=True):
        body = _body(
            account_id, line.amount_minor, statement.currency, line.occurred_on.isoformat(), key
        )
        if line.description:
            body["description"] = line.description
        if line.reference is not None:
            body["metadata"] = {"bankReference": line.reference}
        lines.append(Outgoing(number=line.number, body=encode(body)))
    return lines


def _body(account_id: str, amount_minor: int, currency: str, day: str, key: str) -> dict[str, Any]:
    return {
        "accountId": account_id,
        "type": "INCOME" if amount_minor > 0 else "EXPENSE",
        # a string, since an encoder would write a JSON number from a float
        "value": format_minor(abs(amount_minor), currency),
        "currency": currency,
        # the bank's calendar day, so that a day of the statement is a day of the effective time
        "occurredAt": f"{day}T00:00:00Z",
        "idempotencyKey": key,
    }


def chunks_of(lines: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """The lines in requests that keep the bounds, the first of them small."""
    chunk: list[Outgoing] = []
    size = 0
    lines_max = FIRST_CHUNK_LINES_MAX
    for line in lines:
        if chunk and (len(chunk) == lines_max or size + len(line.body) + 1 > CHUNK_BYTES_MAX):
            yield chunk
            chunk, size, lines_max = [], 0, CHUNK_LINES_MAX
        chunk.append(line)
        size += len(line.body) + 1
    if chunk:
        yield chunk


async def record_lines(
    client: httpx.AsyncClient,
    url: str,
    lines: Sequence[Outgoing],
    outcome: Outcome,
    on_progress: Callable[[Outcome], None],
) -> None:
    """Send all lines to the recorder at ``url``; ``outcome`` grows as they are answered.

    Raises ImportFailed. Chunks that were answered before stay recorded: the same import, run again,
    goes on where this one ended.
    """
    sender = _Sender(client, f"{url}/transactions", outcome, on_progress)
    waiting = deque(chunks_of(lines))
    if waiting:
        await sender.send(waiting.popleft())
    in_flight: deque[asyncio.Task[None]] = deque()
    try:
        while waiting or in_flight:
            while waiting and len(in_flight) < REQUESTS_IN_FLIGHT_MAX:
                before = in_flight[-1] if in_flight else None
                in_flight.append(asyncio.create_task(sender.send(waiting.popleft(), before)))
            await in_flight.popleft()
    finally:
        for task in in_flight:
            task.cancel()
        await asyncio.gather(*in_flight, return_exceptions=True)


class _Sender:
    """Sends chunks to one recorder and adds up what became of them."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        outcome: Outcome,
        on_progress: Callable[[Outcome], None],
    ) -> None:
        self._client = client
        self._url = url
        self._outcome = outcome
        self._on_progress = on_progress

    async def send(self, chunk: list[Outgoing], before: asyncio.Task[None] | None = None) -> None:
        """Send ``chunk`` until it is recorded; raises ImportFailed.

        A refusal may be due to ``before`` not being recorded yet (an expense that its income would
        cover), so it counts only once that is done.
        """
        response = await self._post(chunk)
        if response.status_code != CREATED and before is not None:
            await asyncio.wait([before])
            response = await self._post(chunk)
        if response.status_code == CREATED:
            self._count(msgspec.json.decode(response.content, type=_BulkAnswer))
            return
        problem = _problem_of(response)
        reused = _reused_keys(problem, chunk)
        if reused is None:
            raise ImportFailed(_refusal(response, problem, chunk))
        if any(chunk[index].number == 0 for index in reused):
            raise OpeningExists(
                "the account already has another opening balance from an earlier import: "
                "import without --with-opening-balance"
            )
        if problem.errorCount > len(reused) < len(chunk):
            # Only the first of the refusals are named. In pieces of that size all of them are.
            for start in range(0, len(chunk), len(reused)):
                await self.send(chunk[start : start + len(reused)])
            return
        # The key holds the bank's reference, day and amount, so it is the same transaction, with
        # other words: it stays as it was recorded.
        self._outcome.reworded += [chunk[index].number for index in sorted(reused)]
        self._on_progress(self._outcome)
        rest = [line for index, line in enumerate(chunk) if index not in reused]
        if rest:
            await self.send(rest)

    def _count(self, answer: _BulkAnswer) -> None:
        replayed = sum(1 for each in answer.transactions if each.replayed)
        self._outcome.already_there += replayed
        self._outcome.recorded += len(answer.transactions) - replayed
        last = max((each.position for each in answer.transactions), default=0)
        self._outcome.position = max(self._outcome.position, last)
        self._on_progress(self._outcome)

    async def _post(self, chunk: Sequence[Outgoing]) -> httpx.Response:
        """The recorder's last word on the chunk, after bounded tries; raises ImportFailed."""
        content = b"\n".join(line.body for line in chunk)
        backoff_s = BACKOFF_FIRST_S
        said = ""
        for attempt in range(ATTEMPTS_MAX):
            wait_s = backoff_s
            try:
                response = await self._client.post(
                    self._url, content=content, headers={"Content-Type": "application/x-ndjson"}
                )
            except httpx.TransportError as error:
                said = f"{self._url} does not answer ({type(error).__name__})"
            else:
                if response.status_code not in RETRIED_STATUSES:
                    return response
                said = f"{self._url} answers {response.status_code}: {_problem_of(response).title}"
                wait_s = max(wait_s, _retry_after_s(response))
            if attempt + 1 < ATTEMPTS_MAX:
                await asyncio.sleep(wait_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
        raise ImportFailed(f"{said}, {ATTEMPTS_MAX} times")


def new_client(token: str | None) -> httpx.AsyncClient:
    """A client for one import, with the bearer token if there is one."""
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        limits=httpx.Limits(max_connections=REQUESTS_IN_FLIGHT_MAX),
    )


def _retry_after_s(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), BACKOFF_MAX_S) if text.isdecimal() else 0.0


def _problem_of(response: httpx.Response) -> _Problem:
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(response.content, type=_Problem)
    return _Problem(title=response.reason_phrase)


def _reused_keys(problem: _Problem, chunk: Sequence[Outgoing]) -> set[int] | None:
    """The places in the chunk whose keys have other content; None when anything else is wrong."""
    if problem.type == KEY_REUSED and len(chunk) == 1:
        return {0}
    if problem.type != LINES_REFUSED or not problem.errors:
        return None
    places: set[int] = set()
    for fault in problem.errors:
        if fault.type != KEY_REUSED or fault.line is None or not 1 <= fault.line <= len(chunk):
            return None
        places.add(fault.line - 1)
    return places


def _refusal(response: httpx.Response, problem: _Problem, chunk: Sequence[Outgoing]) -> str:
    """What the recorder refused, by the lines of the file."""
    said = [f"the recorder refused: {problem.title or problem.type} ({response.status_code})"]
    for fault in problem.errors[:10]:
        where = ""
        if fault.line is not None and 1 <= fault.line <= len(chunk):
            number = chunk[fault.line - 1].number
            where = f"line {number}: " if number else "opening balance: "
        said.append(where + " ".join(filter(None, (fault.field, fault.message))))
    if not problem.errors and problem.detail:
        said.append(problem.detail)
    more = problem.errorCount - 10
    if more > 0:
        said.append(f"and {more} more")
    return "; ".join(said)
