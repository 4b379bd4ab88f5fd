"""The bulk requests that record a statement's lines.

Every line has its own idempotency key, so a request can always be sent again: after a lost
response, a restart of the recorder, or an interrupted import.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import msgspec

from saldo.bank_import.errors import OpeningExistsError, RecordingError
from saldo.bank_import.requests import chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from saldo.bank_import.requests import Outgoing

REQUESTS_IN_FLIGHT_MAX = 2

# About half a minute: a restart of the recorder, or another import that has both of its places.
ATTEMPTS_MAX = 10
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 5.0
CONNECT_TIMEOUT_S = 5.0
RESPONSE_TIMEOUT_S = 60.0
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
CREATED = 201
ERRORS_SHOWN = 10

KEY_REUSED = "urn:saldo:problem:idempotency-key-reused"
LINES_REFUSED = "urn:saldo:problem:lines-refused"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How many lines were recorded so far, and how many were there before."""

    recorded: int = 0
    already_there: int = 0
    # lines that are there with another description or metadata: the bank changed its words
    reworded: list[int] = field(default_factory=list)
    position: int = 0

    @property
    def done(self) -> int:
        """Return how many lines the account now holds."""
        return self.recorded + self.already_there + len(self.reworded)


class _Recorded(msgspec.Struct):
    position: int
    replayed: bool = False


class _BulkResponse(msgspec.Struct):
    transactions: list[_Recorded]


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


async def record_lines(
    client: httpx.AsyncClient,
    url: str,
    lines: Sequence[Outgoing],
    outcome: Outcome,
    on_progress: Callable[[Outcome], None],
) -> None:
    """Send all lines to the recorder at ``url`` and count them in ``outcome``.

    Raise RecordingError. What was recorded before it stays: the same import goes on from there.
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
    """Sends chunks to one recorder and counts their lines."""

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
        """Send ``chunk`` until it is recorded; raise RecordingError.

        A refusal counts only after ``before`` is recorded: its income may cover this expense.
        """
        response = await self._post(chunk)
        if response.status_code != CREATED and before is not None:
            await asyncio.wait([before])
            response = await self._post(chunk)
        if response.status_code == CREATED:
            self._count(msgspec.json.decode(response.content, type=_BulkResponse))
            return
        problem = _problem_of(response)
        reused = _reused_keys(problem, chunk)
        if reused is None:
            raise RecordingError(_refusal(response, problem, chunk))
        if any(chunk[index].number == 0 for index in reused):
            raise OpeningExistsError
        if problem.error_count > len(reused) < len(chunk):
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

    def _count(self, answer: _BulkResponse) -> None:
        replayed = sum(1 for each in answer.transactions if each.replayed)
        self._outcome.already_there += replayed
        self._outcome.recorded += len(answer.transactions) - replayed
        last = max((each.position for each in answer.transactions), default=0)
        self._outcome.position = max(self._outcome.position, last)
        self._on_progress(self._outcome)

    async def _post(self, chunk: Sequence[Outgoing]) -> httpx.Response:
        """Return the recorder's response to the chunk, after ATTEMPTS_MAX tries at most."""
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
        raise RecordingError(f"{said}, {ATTEMPTS_MAX} times")


def new_client(token: str | None) -> httpx.AsyncClient:
    """Return a client for one import, with the bearer token if there is one."""
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=httpx.Timeout(RESPONSE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
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
    """Return the places in the chunk whose keys have other content; None for any other problem."""
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
    more = problem.error_count - ERRORS_SHOWN
    if more > 0:
        said.append(f"and {more} more")
    return "; ".join(said)
