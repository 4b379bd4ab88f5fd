"""An overload: ten times the load that one recorder sustains, on as many connections as needed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import resource
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from tests.reliability.faults.driver import p99_ms
from tests.reliability.faults.intents import minor
from tests.reliability.history.history import Attempt, Receipt
from tests.support.proxy import APPENDS, Rule

if TYPE_CHECKING:
    from tests.reliability.faults.replica import Replica
    from tests.reliability.faults.scene import Scene
    from tests.reliability.history.history import Outcome

SUSTAINED_CONNECTIONS = 32
SUSTAINED_S = 2.0
OVERLOAD_FACTOR = 10
# More than the recorder lets wait (2,000), or nothing would be refused.
CONNECTIONS = 3_500
ACCOUNTS = 200
ANSWER_TIMEOUT_S = 120.0
CONNECT_AT_A_TIME = 100
CONNECT_TIMEOUT_S = 120.0
# Files that this process and the recorder have open beside the connections.
OTHER_FILES = 500
SAMPLE_S = 0.2
FLOODS_MAX = 5
STALL_S = 5.0


@dataclass(slots=True, eq=False)
class Flood:
    """Connections that each send one request after another until they are told to stop."""

    port: int
    prefix: str
    attempts: list[Attempt] = field(default_factory=list)
    without_retry_after: int = 0
    sent: int = 0
    _keys: itertools.count[int] = field(default_factory=itertools.count)
    _stopping: bool = False
    _connected: int = 0
    _all: asyncio.Event = field(default_factory=asyncio.Event)
    _connecting: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(CONNECT_AT_A_TIME)
    )

    async def run(self, connections: int, seconds: float, requests_a_second: float | None) -> None:
        """Offer so many requests a second, or as many as are answered, for so long."""
        self._stopping, self._connected = False, 0
        self._all.clear()
        pause_s = 0.0 if requests_a_second is None else connections / requests_a_second
        tasks = [
            asyncio.create_task(self._work(number, connections, pause_s))
            for number in range(connections)
        ]
        await asyncio.wait_for(self._all.wait(), CONNECT_TIMEOUT_S)
        await asyncio.sleep(seconds)
        self._stopping = True
        await asyncio.gather(*tasks)

    async def _work(self, number: int, connections: int, pause_s: float) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with self._connecting:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            await self._all_connected(connections)
            try:
                due = time.monotonic()
                while not self._stopping:
                    await self._attempt(number, reader, writer)
                    due = max(due + pause_s, time.monotonic() - pause_s)
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
            finally:
                writer.transport.abort()

    async def _all_connected(self, connections: int) -> None:
        """Wait for the others, so that the flood comes at once."""
        self._connected += 1
        if self._connected == connections:
            self._all.set()
        await self._all.wait()

    async def _attempt(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        account_id = f"{self.prefix}-over-{number % ACCOUNTS}"
        key = f"over-{next(self._keys)}"
        body = json.dumps({"accountId": account_id, "type": "INCOME", "value": "1.00"})
        request = (
            f"POST /transactions HTTP/1.1\r\nHost: record\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        self.sent += 1
        invoked_s = time.monotonic()
        outcome: Outcome = "unknown"
        receipt, said, completed_s = None, "", None
        try:
            writer.write(request.encode())
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                content = json.loads(await reader.readexactly(length), parse_float=str)
            completed_s = time.monotonic()
            said = head.split(" ", 2)[1]
            assert said in {"201", "503"}, content
            if said == "201":
                outcome = "recorded"
                receipt = Receipt(
                    event_id=content["id"],
                    position=content["position"],
                    balance_minor=minor(content["balance"]),
                    hash=content["hash"],
                )
            elif said == "503" and not content["type"].endswith(":outcome-unknown"):
                outcome = "refused"
                self.without_retry_after += "retry-after: " not in head
        finally:
            self.attempts.append(
                Attempt(
                    client=-1 - number,
                    account_id=account_id,
                    key=key,
                    kind="INCOME",
                    amount_minor=100,
                    invoked_s=invoked_s,
                    completed_s=completed_s,
                    outcome=outcome,
                    receipt=receipt,
                    said=said,
                )
            )

    def answered(self, outcome: str) -> list[float]:
        """Return the durations of the responses with that outcome, in seconds."""
        return [
            each.completed_s - each.invoked_s
            for each in self.attempts
            if each.outcome == outcome and each.completed_s is not None
        ]


def possible_connections() -> int:
    """Return CONNECTIONS, or as many as this process may have open."""
    return min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES)


async def _largest_rss_mb(replica: Replica, until_done: asyncio.Task[None]) -> float:
    process = psutil.Process(replica.pid)
    largest = 0
    while not until_done.done():
        largest = max(largest, process.memory_info().rss)
        await asyncio.wait([until_done], timeout=SAMPLE_S)
    return largest / 1e6


async def overloaded(scene: Scene) -> None:
    """Offer ten times the load that one recorder has just sustained, then none."""
    replica = scene.choose(scene.rig.record)
    sustained = Flood(replica.port, scene.prefix)
    await sustained.run(SUSTAINED_CONNECTIONS, SUSTAINED_S, None)
    rate = len(sustained.answered("recorded")) / SUSTAINED_S
    before_mb = psutil.Process(replica.pid).memory_info().rss / 1e6

    flood = Flood(replica.port, scene.prefix, _keys=sustained._keys)
    seconds = 4.0 if scene.form == "quick" else 60.0
    scene.begin()
    started_s = time.monotonic()
    largest_mb = 0.0
    for attempt in range(FLOODS_MAX):
        # A slow client may never fill the queue. From the second flood on the store stands still
        # until the queue is full.
        stall = Rule(begins="COMMIT", alone=APPENDS, action="hold", hits_max=1_000)
        if attempt:
            replica.store.rules.append(stall)
        flooding = asyncio.create_task(
            flood.run(possible_connections(), seconds, rate * OVERLOAD_FACTOR)
        )
        await asyncio.wait([flooding], timeout=STALL_S if attempt else 0)
        replica.store.rules[:] = []
        stall.release.set()
        largest_mb = max(largest_mb, await _largest_rss_mb(replica, flooding))
        await flooding
        if flood.answered("refused"):
            break
    offered = flood.sent / (time.monotonic() - started_s)
    scene.hits = len(flood.answered("refused"))
    assert flood.without_retry_after == 0, "a refusal without Retry-After"
    scene.load.history.operations += sustained.attempts + flood.attempts
    scene.notes |= {
        "sustained_a_second": round(rate),
        "offered_a_second": round(offered),
        "recorded_a_second": round(len(flood.answered("recorded")) / seconds),
        "refused": scene.hits,
        "refusal_p50_ms": round(statistics.median(flood.answered("refused") or [0.0]) * 1_000, 1),
        "refusal_p99_ms": round(p99_ms(flood.answered("refused")), 1),
        "memory_before_mb": round(before_mb),
        "memory_largest_mb": round(largest_mb),
    }
    scene.heal()
