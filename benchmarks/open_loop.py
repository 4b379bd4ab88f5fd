"""The open-loop load generator: requests are due at a fixed rate, even while earlier ones run.

    python -m benchmarks.open_loop --record PORT --balance PORT --rate N --seconds N ...

A closed loop (wrk's) sends less while responses are slow, and so leaves out the requests that
would have waited (coordinated omission). Here a latency counts from the moment when the request was
due. Some of the transactions are followed: from their 201 to a response with a balance that has
them. It reports its own delay in sending.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import uvloop

from benchmarks.wrk import PATIENCE_S, NoFigure
from local import services
from local.knative.delivery import parse_target
from local.knative.sink_client import NoAnswer, SinkClient
from saldo.serve.functions import BALANCE, RECORD

if TYPE_CHECKING:
    from benchmarks.stack import Stack
    from local.knative.delivery import Answer

ANSWER_TIMEOUT_S = 30.0
WAIT_S = 20
IN_FLIGHT_MAX = 2_000
RATE_MAX = 20_000.0
SECONDS_MAX = 3_600.0
CREATED, OK = 201, 200
# The generator kept up when all but one in a hundred requests left within this of their moment.
LATE_P99_MS_MAX = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    """What one run counted; milliseconds. ``late`` is of the generator itself."""

    requests: int
    seconds: float
    failed: int
    post_p50_ms: float
    post_p99_ms: float
    lag_p50_ms: float
    lag_p99_ms: float
    followed: int
    late_p99_ms: float

    @property
    def kept_up(self) -> bool:
        """Whether the generator sent when the requests were due."""
        return self.late_p99_ms <= LATE_P99_MS_MAX


def run_open_loop(  # noqa: PLR0913 - each is one of the generator's options
    stack: Stack,
    *,
    rate: float,
    seconds: float,
    accounts: int,
    label: str,
    followed: float,
) -> OpenLoad:
    """Run the generator on the load's core; NoFigure when a request failed."""
    ports = stack.ports
    command = stack.placement.words(sys.executable, "-m", "benchmarks.open_loop")
    command += ["--record", str(ports[RECORD.name])]
    command += ["--balance", str(ports[BALANCE.name])]
    command += ["--rate", f"{rate:.1f}", "--seconds", f"{seconds:.1f}", "--label", label]
    command += ["--accounts", str(accounts), "--followed", f"{followed:.2f}"]
    done = subprocess.run(
        command,
        cwd=services.ROOT,
        input=stack.token(),  # not an argument, which every user of the machine could read
        capture_output=True,
        text=True,
        timeout=seconds + PATIENCE_S,
        check=False,
    )
    if done.returncode != 0:
        raise NoFigure(f"the open-loop generator failed: {done.stderr.strip()[-300:]}")
    load = OpenLoad(**json.loads(done.stdout))
    if load.failed or not load.followed:
        raise NoFigure(f"open loop: not every request was answered well: {load}")
    return load


class Generator:
    """Sends what is due, and notes what came of it."""

    def __init__(self, options: argparse.Namespace, token: str) -> None:
        self._options = options
        self._token = token
        self._record = SinkClient(parse_target(f"http://127.0.0.1:{options.record}/"))
        self._balance = SinkClient(parse_target(f"http://127.0.0.1:{options.balance}/"))
        self._chance = random.Random(20261124)  # noqa: S311 - accounts, not secrets
        self._posts: list[float] = []
        self._lags: list[float] = []
        self._late: list[float] = []
        self._failed = 0

    async def run(self) -> OpenLoad:
        """Send at the rate for the time, and wait for all answers."""
        rate = min(self._options.rate, RATE_MAX)
        count = int(rate * min(self._options.seconds, SECONDS_MAX))
        began = time.perf_counter()
        tasks: set[asyncio.Task[None]] = set()
        for number in range(count):
            due = began + number / rate
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if len(tasks) >= IN_FLIGHT_MAX:
                self._failed += 1
                continue
            task = asyncio.create_task(self._one(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(tasks)
        seconds = time.perf_counter() - began
        await self._record.close()
        await self._balance.close()
        return OpenLoad(
            requests=len(self._posts),
            seconds=seconds,
            failed=self._failed,
            post_p50_ms=percentile_ms(self._posts, 50),
            post_p99_ms=percentile_ms(self._posts, 99),
            lag_p50_ms=percentile_ms(self._lags, 50),
            lag_p99_ms=percentile_ms(self._lags, 99),
            followed=len(self._lags),
            late_p99_ms=percentile_ms(self._late, 99),
        )

    async def _one(self, number: int, due: float) -> None:
        account = f"bench-{self._chance.randint(1, self._options.accounts)}"
        body = json.dumps(
            {
                "accountId": account,
                "description": "Coffee beans",
                "type": "INCOME",
                "value": 10.5,
            }
        ).encode()
        head = (
            f"POST /transactions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._token}"
            f'\r\nContent-Type: application/json\r\nIdempotency-Key: "{self._options.label}-'
            f'{number}"\r\nContent-Length: {len(body)}\r\n\r\n'
        ).encode()
        follow = self._chance.random() < self._options.followed
        self._late.append(time.perf_counter() - due)
        try:
            answer = expect(CREATED, await self._record.post(head, body, ANSWER_TIMEOUT_S))
            recorded = time.perf_counter()
            self._posts.append(recorded - due)
            if follow:
                headers = {name.lower(): text for name, text in answer.headers}
                position = headers["etag"].strip('"')
                await self._follow(account, position)
                self._lags.append(time.perf_counter() - recorded)
        except NoAnswer as error:
            self._failed += 1
            print(error, file=sys.stderr)

    async def _follow(self, account: str, position: str) -> None:
        head = (
            f"GET /balances?accountId={account}&minPosition={position} HTTP/1.1\r\n"
            f"Host: 127.0.0.1\r\nAuthorization: Bearer {self._token}\r\nPrefer: wait={WAIT_S}\r\n"
            "\r\n"
        ).encode()
        expect(OK, await self._balance.post(head, None, ANSWER_TIMEOUT_S))


def expect(status: int, answer: Answer) -> Answer:
    """Return ``answer`` if it has that status; raise NoAnswer otherwise."""
    if answer.status != status:
        raise NoAnswer(f"{answer.status} {answer.body[:200]!r}")
    return answer


def percentile_ms(seconds: list[float], percent: int) -> float:
    """Return a percentile in milliseconds; 0 without samples."""
    if len(seconds) < 2:  # noqa: PLR2004 - quantiles need two
        return seconds[0] * 1e3 if seconds else 0.0
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1e3


def main() -> None:
    """Generate the load; prints what was counted as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=int, required=True)
    parser.add_argument("--balance", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--accounts", type=int, required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--followed", type=float, required=True)
    options = parser.parse_args()
    load = uvloop.run(Generator(options, sys.stdin.read().strip()).run())
    print(json.dumps(asdict(load)))


if __name__ == "__main__":
    main()
