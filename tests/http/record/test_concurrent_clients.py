"""Concurrent clients of one account in two processes: the limit holds, and a key records once."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest

from saldo.serve.functions import RECORD
from tests.support.live import fresh
from tests.support.servers import REQUEST_TIMEOUT_S

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.support.servers import Database

CLIENTS_A_PROCESS = 32
KEYS_OPEN_MAX = 40
# Each key is sent about so often, by clients at the same time.
REQUESTS_A_KEY = 10
# Far more than the fight needs: it ends by what happened in it, never by the time.
REQUESTS_MAX = 60_000
LIMIT = 100
SCALE = 100  # centavos

EVENTS = """
SELECT position, balance_minor, key_hash, public_text FROM event_store.event
WHERE account_id = $1 ORDER BY position
"""


@dataclass(slots=True)
class Seen:
    """What the clients were answered."""

    recorded: dict[str, set[str]] = field(default_factory=dict)
    refusals: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    sent: int = 0

    def is_real_fight(self, keys: int) -> bool:
        """Return whether there were enough recorded keys, refusals and replays."""
        return (
            len(self.recorded) >= keys
            and len(self.refusals) >= keys / 2
            and self.statuses[201] >= 2 * len(self.recorded)
        )


def request_of(key: int) -> tuple[str, int]:
    """Return the request of a key: mostly expenses, so that the limit is always near."""
    chance = random.Random(key)
    return ("EXPENSE" if chance.random() < 0.6 else "INCOME"), chance.randint(1, 60)


async def hammer(url: str, account_id: str, number: int, keys: int, seen: Seen) -> None:
    """Run one client: it sends keys that others send at the same time, and some earlier ones."""
    chance = random.Random(number)
    timeout = REQUEST_TIMEOUT_S
    async with httpx.AsyncClient(base_url=url, timeout=timeout, verify=False) as client:  # noqa: S501
        while not seen.is_real_fight(keys) and seen.sent < REQUESTS_MAX:
            newest = seen.sent // REQUESTS_A_KEY
            seen.sent += 1
            back = KEYS_OPEN_MAX if chance.random() < 0.9 else newest + 1
            key = max(0, newest - chance.randrange(back))
            kind, value = request_of(key)
            answer = await client.post(
                "/transactions",
                json={"accountId": account_id, "type": kind, "value": value},
                headers={"Idempotency-Key": f"key-{key}"},
            )
            seen.statuses[answer.status_code] += 1
            told = answer.json()
            if answer.status_code == 201:
                assert told["value"] == value
                seen.recorded.setdefault(f"key-{key}", set()).add(told["id"])
            elif answer.status_code == 422:
                assert told["type"] == "urn:saldo:problem:insufficient-funds", told
                seen.refusals.append((value, told))
            else:
                assert answer.status_code == 503, answer.text


async def run(database: Database, serve: Serve, keys: int) -> None:
    account_id = fresh("hammered")
    processes = [serve(RECORD), serve(RECORD)]
    limit = {"overdraftLimit": LIMIT}
    async with httpx.AsyncClient(base_url=processes[0].url, timeout=REQUEST_TIMEOUT_S) as client:
        (await client.put(f"/accounts/{account_id}/limit", json=limit)).raise_for_status()
    seen = Seen()
    async with asyncio.TaskGroup() as clients:
        for number, process in enumerate(processes * CLIENTS_A_PROCESS):
            clients.create_task(hammer(process.url, account_id, number, keys, seen))
    assert seen.is_real_fight(keys), seen.statuses

    connection = await asyncpg.connect(database.dsn())
    try:
        events = await connection.fetch(EVENTS, account_id)
    finally:
        await connection.close()
    assert [e["position"] for e in events] == list(range(1, len(events) + 1))
    assert min(e["balance_minor"] for e in events) >= -LIMIT * SCALE
    stored = Counter(e["key_hash"] for e in events if e["key_hash"] is not None)
    assert set(stored.values()) == {1}
    assert len(stored) == len(events) - 1
    ids = {json.loads(e["public_text"])["id"] for e in events}
    assert all(len(answered) == 1 for answered in seen.recorded.values())
    assert {an_id for answered in seen.recorded.values() for an_id in answered} <= ids
    balances = {e["position"]: e["balance_minor"] for e in events}
    for value, told in seen.refusals:
        assert balances[told["position"]] == round(told["balance"] * SCALE)
        assert told["balance"] - value < -LIMIT == -told["limit"]


async def test_limit_and_keys_hold_across_two_processes(database: Database, serve: Serve) -> None:
    await run(database, serve, 100)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_limit_and_keys_hold_under_long_contention(database: Database, serve: Serve) -> None:
    await run(database, serve, 300)


async def test_retry_returns_the_response_lost_in_a_crash(database: Database, serve: Serve) -> None:
    """Killed between the commit and the answer, or as near to it as can be seen from outside."""
    account_id, headers = fresh(), {"Idempotency-Key": "k"}
    body = {"accountId": account_id, "type": "INCOME", "value": 1}
    doomed = serve(RECORD)
    connection = await asyncpg.connect(database.dsn())
    try:
        async with httpx.AsyncClient(base_url=doomed.url, timeout=REQUEST_TIMEOUT_S) as client:
            asked = asyncio.create_task(client.post("/transactions", json=body, headers=headers))
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                while not (events := await connection.fetch(EVENTS, account_id)):
                    pass  # it waits for the database
            doomed.child.kill()
            await asyncio.wait([asked])
            asked.exception()  # an answer or none: nobody has read it
        url = serve(RECORD).url
        async with httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
            again = await client.post("/transactions", json=body, headers=headers)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
        assert again.json()["id"] == json.loads(events[0]["public_text"])["id"]
        assert len(await connection.fetch(EVENTS, account_id)) == 1
    finally:
        await connection.close()
