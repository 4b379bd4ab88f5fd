"""The status of the whole system, as an operator requests it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx

from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support.live import DEADLINE_S, fresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Serve
    from tests.support.sides import Connection


def figures(url: str) -> dict[str, Any]:
    answer = httpx.get(f"{url}/system", timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def record(url: str, *account_ids: str) -> None:
    body = [{"accountId": each, "type": "INCOME", "value": 1} for each in account_ids]
    assert httpx.post(f"{url}/transactions", json=body, timeout=DEADLINE_S).status_code == 201


def figures_when(url: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the figures once the condition holds: a response is cached for about a second."""
    deadline = time.monotonic() + 3 * DEADLINE_S
    told = figures(url)
    while not holds(told):
        assert time.monotonic() < deadline, told
        told = figures(url)
    return told


async def test_figures_cover_both_sides(serve: Serve, superuser: Connection) -> None:
    reader, recorder = serve(BALANCE).url, serve(RECORD).url
    assert figures(reader)["events"] == 0
    record(recorder, "a", "a", "b")
    told = figures_when(reader, lambda told: told["events"] == 3)
    assert (told["accounts"], told["behind"]) == (2, 3)
    # Nothing is sent, as Kafka is down.
    assert told["outboxRows"] == 3
    assert told["eventsLast60s"] == 3
    # The projector's own sweep, at its start, catches up what no delivery brought.
    serve(PROJECT)
    level = figures_when(reader, lambda told: told["behind"] == 0)
    assert level["deadLetters"] == level["blockedAccounts"] == 0
    await superuser.execute(
        "INSERT INTO read_model.dead_letter (dead_letter_id, account_id, event_id, reason,"
        " attributes) VALUES (gen_random_uuid(), 'a', 'e', 'r', '{}')"
    )
    figures_when(reader, lambda told: told["deadLetters"] == 1)


async def test_concurrent_requests_share_one_read(serve: Serve) -> None:
    """Those who wait while it is read get the same answer."""
    url = f"{serve(BALANCE).url}/system"
    async with httpx.AsyncClient(timeout=3 * DEADLINE_S) as client:
        answers = await asyncio.gather(*(client.get(url) for _ in range(20)))
    assert len({answer.json()["measuredAt"] for answer in answers}) < 20


def test_unreadable_system_status_is_a_503(serve: Serve) -> None:
    reader = serve(BALANCE, EVENT_STORE_URL=f"postgresql:///{fresh('none')}?host=/nowhere")
    answer = httpx.get(f"{reader.url}/system", timeout=DEADLINE_S)
    assert (answer.status_code, answer.json()["type"]) == (
        503,
        "urn:saldo:problem:read-model-unavailable",
    )
