"""Reads after a restore of the event store, when a position may hold another event."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from saldo.serve.functions import BALANCE, RECORD
from tests.support.live import problem_type
from tests.support.sides import CUT, Reader, reader_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Serve
    from tests.support.servers import Database
    from tests.support.sides import Connection

ACCOUNT = "ana"
ONE = {"accountId": ACCOUNT}
TIMEOUT_S = 120.0
KEPT, LOST = 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A store that went back to position 2, under a read model that still knows position 3."""

    record: httpx.AsyncClient
    balance: httpx.AsyncClient
    reader: Reader
    kept_tag: str
    lost_tag: str

    async def post(self, value: int, **headers: str) -> httpx.Response:
        """Record an income."""
        body = ONE | {"type": "INCOME", "value": value}
        return await self.record.post("/transactions", json=body, headers=headers)

    async def get(
        self, params: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Read the balance."""
        return await self.balance.get("/balances", params=ONE | (params or {}), headers=headers)

    async def project(self) -> None:
        """Catch the read model up, as a delivery or a sweep does."""
        await self.reader.catch_up(ACCOUNT)

    async def first_event(self, last_event_id: str | None) -> list[str]:
        """Return the lines of the first event of a stream resumed after ``last_event_id``."""
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        path = "/balances/stream"
        async with self.balance.stream("GET", path, params=ONE, headers=headers) as stream:
            assert stream.status_code == 200
            found: list[str] = []
            async for line in stream.aiter_lines():
                if line.startswith(("id:", "data:")):
                    found.append(line)
                if len(found) == 2:
                    return found
        raise AssertionError("the stream ended without an event")


def tag_of(answer: httpx.Response) -> str:
    """Return the ETag without its quotes."""
    return answer.headers["etag"].strip('"')


@pytest.fixture
async def restored(
    serve: Serve, database: Database, superuser: Connection
) -> AsyncIterator[Restored]:
    async with (
        httpx.AsyncClient(base_url=serve(RECORD).url, timeout=TIMEOUT_S) as record,
        httpx.AsyncClient(base_url=serve(BALANCE).url, timeout=TIMEOUT_S) as balance,
        reader_on(database.dsn("saldo_project")) as reader,
    ):
        tags = []
        for value in (1, 2, 4):
            body = ONE | {"type": "INCOME", "value": value}
            answer = await record.post("/transactions", json=body)
            tags.append(answer.headers["etag"])
        await reader.catch_up(ACCOUNT)
        assert (await balance.get("/balances", params=ONE)).headers["etag"] == tags[-1]
        await superuser.execute(CUT, ACCOUNT, KEPT)
        yield Restored(
            record=record,
            balance=balance,
            reader=reader,
            kept_tag=tags[KEPT - 1],
            lost_tag=tags[LOST - 1],
        )


LOOKS: tuple[dict[str, str], ...] = (
    {},
    {"minPosition": "3"},
    {"minPosition": "1"},
    {"position": "3"},
    {"asOf": "2199-01-01T00:00:00Z"},
    {"effectiveAt": "2199-01-01T00:00:00Z"},
)


@pytest.mark.parametrize("further", [0, 1, 3])
async def test_balance_of_lost_events_is_never_shown(restored: Restored, further: int) -> None:
    for value in range(further):
        assert (await restored.post(100 + value)).status_code == 201
    for look in LOOKS:
        for held in (None, restored.lost_tag, '"3"'):
            headers = {} if held is None else {"If-None-Match": held}
            answer = await restored.get(look, headers)
            assert (answer.status_code, problem_type(answer)) == (503, "projection-behind"), look


async def test_statement_and_list_do_not_show_lost_events(restored: Restored) -> None:
    for path in ("/transactions", "/balances/daily"):
        answer = await restored.balance.get(path, params=ONE)
        assert (answer.status_code, problem_type(answer)) == (503, "projection-behind")
    several = await restored.balance.get(f"/balances?accountId={ACCOUNT}&accountId=bia")
    assert several.json()["balances"] == [
        {"accountId": ACCOUNT, "status": "projection-behind"},
        {"accountId": "bia", "status": "unknown"},
    ]
    assert several.headers["saldo-behind"] == "2"


async def test_account_that_the_restore_removed_is_unknown(
    restored: Restored, superuser: Connection
) -> None:
    await superuser.execute("DELETE FROM event_store.event")
    await superuser.execute("DELETE FROM event_store.stream")
    answer = await restored.get()
    assert (answer.status_code, problem_type(answer)) == (404, "account-not-found")


@pytest.mark.parametrize("held", ["lost", '"3"', 'W/"3"'])
async def test_etag_of_a_lost_event_never_gives_304(restored: Restored, held: str) -> None:
    new = await restored.post(8)
    await restored.project()
    tag = restored.lost_tag if held == "lost" else held
    answer = await restored.get(headers={"If-None-Match": tag})
    assert (answer.status_code, answer.json()["value"]) == (200, 11)
    assert answer.headers["etag"] == new.headers["etag"] != restored.lost_tag
    again = await restored.get(headers={"If-None-Match": new.headers["etag"]})
    assert again.status_code == 304


async def test_etag_of_a_lost_event_does_not_match(restored: Restored) -> None:
    new = await restored.post(8)
    assert new.headers["etag"].startswith('"3-')
    refused = await restored.post(16, **{"If-Match": restored.lost_tag})
    assert (refused.status_code, problem_type(refused)) == (412, "position-conflict")
    told = refused.json()
    assert (told["expected"], told["actual"]) == (3, 3)
    assert told["actualTag"] == tag_of(new)
    assert (await restored.post(16, **{"If-Match": new.headers["etag"]})).status_code == 201
    # A bare position still says no more than it does.
    assert (await restored.post(32, **{"If-Match": '"4"'})).status_code == 201


async def test_own_lost_write_is_not_found(restored: Restored) -> None:
    new = await restored.post(8)
    await restored.project()
    lost = await restored.get({"minPosition": restored.lost_tag.strip('"')})
    assert (lost.status_code, problem_type(lost)) == (404, "position-not-found")
    for tag in (restored.kept_tag.strip('"'), tag_of(new), "3"):
        found = await restored.get({"minPosition": tag})
        assert (found.status_code, found.json()["value"]) == (200, 11)


async def test_wait_continues_while_lost_events_are_shown(restored: Restored) -> None:
    await restored.post(8)
    waiting = asyncio.create_task(restored.get({"minPosition": "3"}, {"Prefer": "wait=30"}))
    # Its first look is over, and it waits.
    plain = await restored.get()
    assert plain.status_code == 503
    await restored.project()
    answer = await waiting
    assert (answer.status_code, answer.json()["value"]) == (200, 11)
    assert answer.headers["saldo-behind"] == "0"


@pytest.mark.parametrize("last", ["lost", "3", "2", None])
async def test_stream_sends_the_state_after_a_restore(restored: Restored, last: str | None) -> None:
    new = await restored.post(8)
    await restored.project()
    last_event_id = restored.lost_tag.strip('"') if last == "lost" else last
    [event_id, data] = await restored.first_event(last_event_id)
    assert event_id == f"id: {tag_of(new)}"
    assert '"value":11' in data


async def test_stream_is_silent_until_lost_events_are_gone(restored: Restored) -> None:
    waiting = asyncio.create_task(restored.first_event(None))
    assert (await restored.get()).status_code == 503
    await restored.project()
    [event_id, data] = await waiting
    assert event_id == "id: " + restored.kept_tag.strip('"')
    assert '"value":3' in data
