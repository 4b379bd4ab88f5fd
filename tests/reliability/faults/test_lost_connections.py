"""Regressions of lost connections that the matrix found, each reproduced for certain."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from local import postgres
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.integration.operate.test_rebuild import cloud_event
from tests.support.proxy import Proxy, Rule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from saldo.serve.functions import Function
    from tests.conftest import Serve
    from tests.support.servers import Database, Served

# Three functions start within one of these tests.

# The server's last word to a session that it ends: severity, SQLSTATE, message.
SHUT_DOWN = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
FATAL = b"E" + (len(SHUT_DOWN) + 4).to_bytes(4) + SHUT_DOWN
INCOME = {"accountId": "ana", "type": "INCOME", "value": 1}


@contextlib.asynccontextmanager
async def behind_proxy(
    serve: Serve, function: Function, database: Database, data_dir: Path
) -> AsyncIterator[tuple[Served, Proxy]]:
    """Yield a function that reaches its database through a proxy."""
    proxy = Proxy(postgres.socket_dir(data_dir) / f".s.PGSQL.{postgres.PORT}", postgres=True)
    await proxy.start()
    url = f"postgresql://{function.role}@127.0.0.1:{proxy.port}/{database.name}?sslmode=disable"
    try:
        yield serve(function, EVENT_STORE_URL=url, READ_MODEL_URL=url), proxy
    finally:
        await proxy.stop()


def say_fatal(proxy: Proxy) -> int:
    """Have every idle session told that it is over, and the connection left as it is."""
    for link in proxy.links:
        link.client.write(FATAL)
    return len(proxy.links)


async def test_a_session_ended_by_the_server_is_no_internal_error(
    serve: Serve, database: Database, postgres_data_dir: Path
) -> None:
    """The driver then refuses the next statement with its own error, before it is sent."""
    async with (
        behind_proxy(serve, RECORD, database, postgres_data_dir) as (record, to_store),
        behind_proxy(serve, PROJECT, database, postgres_data_dir) as (project, to_model),
        behind_proxy(serve, BALANCE, database, postgres_data_dir) as (balance, to_balances),
        aiohttp.ClientSession() as session,
    ):

        async def post() -> dict[str, object]:
            async with session.post(f"{record.url}/transactions", json=INCOME) as answer:
                assert answer.status == 201, await answer.text()
                recorded: dict[str, object] = await answer.json()
                return recorded

        async def deliver(recorded: dict[str, object]) -> int:
            headers, data = cloud_event(recorded)
            async with session.post(project.url, headers=headers, data=data) as answer:
                return answer.status

        async def read() -> int:
            params = {"accountId": "ana"}
            async with session.get(f"{balance.url}/balances", params=params) as answer:
                return answer.status

        assert await deliver(await post()) == 200
        assert await read() == 200
        assert say_fatal(to_store) > 0
        recorded = await post()
        assert say_fatal(to_model) > 0
        # The source delivers again what is answered with 503.
        assert {await deliver(recorded) for _ in range(20)} <= {200, 503}
        assert say_fatal(to_balances) > 0
        assert {await read() for _ in range(20)} <= {200, 503}
    for served in (record, project, balance):
        errors = [json.loads(line) for line in served.log().splitlines() if '"ERROR"' in line]
        assert errors == []


@pytest.mark.parametrize("action", ["cut-after", "cut-before"])
async def test_a_commit_cut_off_still_gets_its_outcome(
    serve: Serve, database: Database, postgres_data_dir: Path, action: str
) -> None:
    """The proxy itself: both cuts are real, and the recorder finds out which it was."""
    async with (
        behind_proxy(serve, RECORD, database, postgres_data_dir) as (record, proxy),
        aiohttp.ClientSession() as session,
    ):
        rule = Rule(begins="COMMIT", action=action, hits_max=1)  # type: ignore[arg-type]
        proxy.rules.append(rule)
        async with session.post(f"{record.url}/transactions", json=INCOME) as answer:
            body = await answer.json()
    assert (answer.status, body["position"], rule.hits) == (201, 1, 1)
