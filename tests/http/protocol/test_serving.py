"""The servers of the functions: saldo.serve in production, and the functions-framework command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from local import processes, services
from saldo.serve.functions import BALANCE, FUNCTIONS, PROJECT, RECORD
from tests.support.live import etag_of
from tests.support.servers import HASH_SECRET, NO_KAFKA
from tests.support.sides import (
    Connection,
    check_event_store,
    connected,
    is_outbox_empty,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from local.processes import Child
    from saldo.serve.functions import Function
    from tests.conftest import Serve
    from tests.support.servers import Database, Kafka, Served

SALARY = {"accountId": "wesley", "description": "Salary", "type": "INCOME", "value": 1000}
HOLD = "SELECT FROM event_store.stream WHERE account_id = 'wesley' FOR UPDATE"
MEBIBYTE = 1024 * 1024
TIMEOUT_S = 120.0


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client:
        yield client


async def said(connection: Connection, statement: str) -> Any:
    return await connection.fetchval(statement)


# --- the framework's own command --------------------------------------------------------------


@pytest.fixture
def framework(database: Database, tmp_path: Path) -> Iterator[Callable[[Function], str]]:
    """Yield a function that serves by the `functions-framework` command and returns a URL."""
    started: list[Child] = []

    def start(function: Function) -> str:
        port = processes.free_port()
        env = services.environ(
            function.role, database.dsn, hash_secret=HASH_SECRET, bootstrap_servers=NO_KAFKA
        )
        child = processes.start(
            function.name,
            [str(Path(sys.executable).with_name("functions-framework"))]
            + ["--target", function.name, "--source", f"functions/{function.name}/main.py"]
            + ["--host", "127.0.0.1", "--port", str(port)],
            log=tmp_path / f"{function.name}.log",
            cwd=services.ROOT,
            env=env,
        )
        started.append(child)
        wait_for_port(child, port)
        return f"http://127.0.0.1:{port}"

    try:
        yield start
    finally:
        for child in started:
            child.stop(TIMEOUT_S)


def wait_for_port(child: Child, port: int) -> None:
    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    processes.wait_until(child.ended, listens, name=child.name, timeout_s=TIMEOUT_S)


async def test_record_transaction_works_under_functions_framework(
    framework: Callable[[Function], str], superuser: Connection
) -> None:
    async with client_of(framework(RECORD)) as client:
        answer = await client.post("/transactions", json=SALARY)
        assert answer.status_code == 201
        assert (await client.get(answer.headers["location"])).json()["value"] == 1000
    assert await check_event_store(superuser) == 1


async def test_get_balance_works_under_functions_framework(
    framework: Callable[[Function], str],
) -> None:
    async with client_of(framework(BALANCE)) as client:
        answer = await client.get("/balances?accountId=wesley")
    assert (answer.status_code, answer.json()["type"]) == (
        404,
        "urn:saldo:problem:account-not-found",
    )


async def test_project_balance_works_under_functions_framework(
    framework: Callable[[Function], str], superuser: Connection
) -> None:
    async with client_of(framework(PROJECT)) as client:
        answer = await client.post("/", headers=event("dev.knative.sources.ping"), content=b"{}")
    assert (answer.status_code, answer.text) == (200, "OK")
    assert await said(superuser, "SELECT count(*) FROM read_model.balance") == 0


def event(kind: str, **attributes: str) -> dict[str, str]:
    """Return the headers of a CloudEvent in binary mode."""
    said_of_it = {"specversion": "1.0", "id": "1", "source": "/s", "type": kind} | attributes
    return {"content-type": "application/json"} | {f"ce-{n}": v for n, v in said_of_it.items()}


# --- the start --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
async def test_probes_succeed_while_kafka_is_down(function: Function, serve: Serve) -> None:
    async with client_of(serve(function).url) as client:
        for path in ("/readyz", "/livez"):
            answer = await client.get(path)
            assert (answer.status_code, answer.text) == (200, "ok\n")


@pytest.mark.parametrize("name", ["EVENT_STORE_URL", "HASH_SECRET", "AUTH", "KAFKA_SECURITY"])
def test_a_missing_setting_is_named_at_start(name: str, database: Database) -> None:
    env = services.environ(
        RECORD.role, database.dsn, hash_secret=HASH_SECRET, bootstrap_servers=NO_KAFKA
    )
    del env[name]
    done = subprocess.run(
        [sys.executable, "-m", "saldo.serve", "--function", RECORD.name, "--port", "1"],
        cwd=services.ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"saldo: {name} is missing")
    assert len(done.stderr.splitlines()) == 1


# --- what is taken ----------------------------------------------------------------------------


async def test_body_over_the_limit_is_refused(serve: Serve, superuser: Connection) -> None:
    """One mebibyte, eight for many transactions; however its length was announced."""
    record = serve(RECORD)
    one = json.dumps(SALARY).encode()
    kind = {"content-type": "application/json"}
    many = {"content-type": "application/x-ndjson"}

    async def chunks(length: int) -> AsyncIterator[bytes]:
        for _ in range(length // 65_536 + 1):
            yield b" " * 65_536

    async with client_of(record.url) as client:
        answers = {
            "one at the bound": await client.post(
                "/transactions", headers=kind, content=one.ljust(MEBIBYTE)
            ),
            "one beyond": await client.post(
                "/transactions", headers=kind, content=one.ljust(MEBIBYTE + 1)
            ),
            "many within their own bound": await client.post(
                "/transactions", headers=kind, content=(b"[" + one + b"]").ljust(2 * MEBIBYTE)
            ),
            "many beyond": await client.post(
                "/transactions", headers=many, content=one.ljust(8 * MEBIBYTE + 1)
            ),
            "chunks beyond": await client.post(
                "/transactions", headers=many, content=chunks(9 * MEBIBYTE)
            ),
            "gzip": await client.post(
                "/transactions", headers=kind | {"content-encoding": "gzip"}, content=one
            ),
            "text": await client.post(
                "/transactions", headers={"content-type": "text/plain"}, content=one
            ),
            "no type": await client.post("/transactions", content=one),
        }
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "one at the bound": 201,
        "one beyond": 413,
        "many within their own bound": 201,
        "many beyond": 413,
        "chunks beyond": 413,
        "gzip": 415,
        "text": 415,
        "no type": 415,
    }
    refused = [answer for answer in answers.values() if answer.status_code != 201]
    assert {a.headers["content-type"] for a in refused} == {"application/problem+json"}
    assert await check_event_store(superuser) == 2


WRONG_BODIES = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"5", 400),
    (b"\xff\xfe", 400),
    (b'{"accountId":"a","type":"INCOME","value":NaN}', 400),
    (b'{"accountId":"a","type":"INCOME","value":Infinity}', 400),
    (b'{"accountId":"a","type":"INCOME","value":-1}', 400),
    (b'{"accountId":"a","type":"INCOME","value":0}', 400),
    (b'{"accountId":"a","type":"INCOME","value":0.001}', 400),
    (b'{"accountId":"a","type":"INCOME","value":1e9999999}', 400),
    (b'{"accountId":"a","type":"INCOME","value":92233720368547758.08}', 400),
    (b'{"accountId":"a","type":"INCOME","value":1,"value":2}', 400),
    (b'{"accountId":"a","type":"INCOME"}', 400),
    (b'{"accountId":"-","type":"INCOME","value":1}', 400),
    (b'{"accountId":"a","type":"GIFT","value":1}', 400),
    (b'{"accountId":"a","type":"INCOME","value":1,"description":"\\u0000"}', 400),
    (b'{"accountId":"a","type":"INCOME","value":1,"description":"\\ud800"}', 400),
    (b'{"accountId":"a","type":"INCOME","value":1,"description":"' + b"x" * 501 + b'"}', 400),
    (b"[" * 100_000, 400),
    (b'{"accountId":"a","type":"INCOME","value":1' + b"0" * 5000 + b"}", 400),
]


async def test_invalid_requests_record_and_break_nothing(
    serve: Serve, superuser: Connection
) -> None:
    record = serve(RECORD)
    async with client_of(record.url) as client:
        for body, status in WRONG_BODIES:
            answer = await client.post(
                "/transactions", headers={"content-type": "application/json"}, content=body
            )
            assert (body[:60], answer.status_code) == (body[:60], status)
            problem = answer.json()
            assert problem["type"].startswith("urn:saldo:problem:")
            assert problem["detail"]
        # A balance past the integer: refused when it is decided, and not recorded.
        most = SALARY | {"value": "92233720368547758.07", "accountId": "rich"}
        assert (await client.post("/transactions", json=most)).status_code == 201
        over = await client.post("/transactions", json=SALARY | {"accountId": "rich", "value": 1})
        assert (over.status_code, over.json()["type"]) == (
            422,
            "urn:saldo:problem:balance-out-of-range",
        )
    assert await check_event_store(superuser) == 1
    assert "Traceback" not in record.log()


async def test_error_names_the_limit_that_the_currency_cannot_hold(
    serve: Serve,
) -> None:
    async with client_of(serve(RECORD).url) as client:
        for wrong in (0.001, 1e30):
            answer = await client.put("/accounts/a/limit", json={"overdraftLimit": wrong})
            assert answer.status_code == 400
            assert [error["field"] for error in answer.json()["errors"]] == ["overdraftLimit"]


STRUCTURED = {
    "specversion": "1.0",
    "id": "1",
    "source": "/s",
    "type": "saldo.transaction.requested",
    "datacontenttype": "application/json",
    "data": {"accountId": "ce", "type": "INCOME", "value": 1},
}


async def test_malformed_cloud_event_fails_no_concurrent_request(
    serve: Serve, superuser: Connection
) -> None:
    """A trace that is no text would break the statement that writes the whole batch."""
    record = serve(RECORD)
    wrong_members: dict[str, list[object]] = {
        "traceparent": [5, "x\0", None, {}, "é"],
        "id": ["\ud800", "", None, 5, {}, "x" * 5000],
        "source": ["\ud800", 5, "\0"],
        "data": [None, 5, [], "x"],
    }
    bodies: list[object] = [[], "x", 5, None, {}]
    for name, members in wrong_members.items():
        bodies += [STRUCTURED | {name: member} for member in members]
    async with client_of(record.url) as client:
        for number, body in enumerate(bodies):
            both = await asyncio.gather(
                client.post(
                    "/",
                    headers={"content-type": "application/cloudevents+json"},
                    content=json.dumps(body),
                ),
                client.post("/transactions", json=SALARY | {"accountId": f"a{number}"}),
            )
            assert both[1].status_code == 201
            assert (body, both[0].status_code) in [(body, 201), (body, 400)]
    await check_event_store(superuser)
    assert "Traceback" not in record.log()


async def test_one_key_for_an_object_and_a_list_is_two_requests(
    serve: Serve, superuser: Connection
) -> None:
    async with client_of(serve(RECORD).url) as client:
        key = {"idempotency-key": "k"}
        first = await client.post("/transactions", json=SALARY, headers=key)
        listed = await client.post("/transactions", json=[SALARY], headers=key)
    assert (first.status_code, listed.status_code) == (201, 422)
    assert await check_event_store(superuser) == 1


async def test_recording_succeeds_while_kafka_is_down(serve: Serve, superuser: Connection) -> None:
    """It is down: recording goes on as if it were not, and the outbox keeps all."""
    async with client_of(serve(RECORD).url) as client:
        # Kafka's client gives a record up after 8 s: ten in turn that waited for it would take 80.
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(10):
                answers = await asyncio.gather(
                    *(client.post("/transactions", json=SALARY) for _ in range(8))
                )
                assert {answer.status_code for answer in answers} == {201}
    assert await said(superuser, "SELECT count(*) FROM event_store.outbox") == 80
    assert await check_event_store(superuser) == 80


# --- the end ----------------------------------------------------------------------------------


async def wait_for_waiting(superuser: Connection, count: int = 1) -> None:
    async def waits() -> bool:
        await superuser.execute("SELECT pg_stat_clear_snapshot()")
        found = await superuser.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
        return bool(found >= count)

    await until(waits)


async def ended(served: Served) -> int:
    """Wait for the end of the process and return its exit status."""

    async def has_ended() -> bool:
        return served.child.ended() is not None

    async with asyncio.timeout(TIMEOUT_S):
        await until(has_ended)
    status = served.child.ended()
    assert status is not None
    return status


async def test_a_request_in_flight_finishes_before_shutdown(
    serve: Serve, kafka: Kafka, topic: str, superuser: Connection
) -> None:
    record = serve(RECORD, KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers, KAFKA_TOPIC=topic)
    async with client_of(record.url) as client, client_of(record.url) as late:
        await client.post("/transactions", json=SALARY)
        async with superuser.transaction():
            await superuser.execute(HOLD)
            posting = asyncio.create_task(client.post("/transactions", json=SALARY))
            await wait_for_waiting(superuser)
            record.child.process.send_signal(signal.SIGTERM)

            async def refuses() -> bool:
                try:
                    await late.get("/readyz")
                except httpx.TransportError:
                    return True
                return False

            await until(refuses)
            assert not posting.done()
        assert (await posting).status_code == 201
    # Once all is closed, the server ends by the signal itself, as a shell wants to see it.
    assert await ended(record) in {0, -signal.SIGTERM}
    assert await check_event_store(superuser) == 2
    # What was recorded was sent before the end, too.
    assert await is_outbox_empty(superuser)


async def test_an_event_stream_does_not_delay_shutdown(serve: Serve, superuser: Connection) -> None:
    """A stream outlasts the shutdown timeout, so the signal ends it."""
    record, balance = serve(RECORD), serve(BALANCE)
    async with client_of(record.url) as client:
        await client.post("/transactions", json=SALARY)
    async with (
        client_of(balance.url) as client,
        client.stream("GET", "/balances/stream?accountId=wesley") as stream,
    ):
        lines = stream.aiter_lines()
        assert (await anext(lines)).startswith("retry:")
        balance.child.process.send_signal(signal.SIGTERM)
        assert await ended(balance) in {0, -signal.SIGTERM}
    # What uvicorn says when it was not patient enough.
    assert "timeout graceful shutdown exceeded" not in balance.log()
    assert await said(superuser, "SELECT count(*) FROM event_store.stream") == 1


async def test_a_disconnected_client_cancels_no_other_request(
    serve: Serve, superuser: Connection
) -> None:
    """Both wait for the same account, in one batch; the one that left is recorded all the same."""
    record = serve(RECORD)
    body = json.dumps(SALARY).encode()
    async with client_of(record.url) as client:
        await client.post("/transactions", json=SALARY)
        async with superuser.transaction():
            await superuser.execute(HOLD)
            first = asyncio.create_task(client.post("/transactions", json=SALARY))
            await wait_for_waiting(superuser)
            _, leaving = await asyncio.open_connection("127.0.0.1", record.port)
            leaving.write(
                b"POST /transactions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + b"Content-Length: %d\r\n\r\n" % len(body)
                + body
            )
            stays = asyncio.create_task(client.post("/transactions", json=SALARY))
            await leaving.drain()
            leaving.close()
            await leaving.wait_closed()
        assert (await first).status_code == 201
        assert (await stays).status_code == 201

        async def whole() -> bool:
            return bool(await said(superuser, "SELECT count(*) FROM event_store.event") >= 3)

        await until(whole)
    assert await check_event_store(superuser) in {3, 4}


# --- deliveries -------------------------------------------------------------------------------


def delivered(position: int = 1, at: str = "2026-11-24T06:00:00Z", **more: str) -> dict[str, str]:
    return event(
        "saldo.transaction.recorded", subject="wesley", sequence=str(position), time=at, **more
    )


async def test_delivery_status_tells_kafka_source_what_to_do(
    serve: Serve, database: Database
) -> None:
    record, project = serve(RECORD), serve(PROJECT)
    async with client_of(record.url) as client:
        recorded = (await client.post("/transactions", json=SALARY)).json()
    now, long_ago = recorded["recordedAt"], "2020-01-01T00:00:00Z"
    dead = {"knativeerrordest": "http://x", "knativeerrorcode": "422"}
    cases = [
        (delivered(1, now), b'{"event":{}}', 200),
        (delivered(1, now), b'{"event":{}}', 200),
        (delivered(2, now), b"{}", 503),
        (delivered(2, long_ago), b"{}", 422),
        (delivered(2, "x"), b"{}", 422),
        (event("another.type"), b"{}", 400),
        (event("saldo.transaction.recorded"), b"{}", 400),
        (delivered(1, now) | {"content-length": str(2 * MEBIBYTE)}, b" " * 2 * MEBIBYTE, 413),
        (delivered(7, long_ago, **dead), b'{"event":{"a":1},"private":{"b":2}}', 200),
        (event("a.stranger", **dead), b"no json {", 200),
    ]
    async with client_of(project.url) as client:
        for headers, body, status in cases:
            answer = await client.post("/", headers=headers, content=body)
            assert (headers, answer.status_code) == (headers, status)
        assert (await client.get("/")).status_code == 405
    async with connected(database.dsn()) as superuser:
        rows = await superuser.fetch(
            "SELECT account_id, data FROM read_model.dead_letter ORDER BY 1"
        )
        assert await said(superuser, "SELECT position FROM read_model.balance") == 1
    assert [tuple(row) for row in rows] == [("", None), ("wesley", '{"a":1}')]


async def test_a_projector_that_starts_late_catches_up(serve: Serve) -> None:
    """No record is delivered at all."""
    async with client_of(serve(RECORD).url) as client:
        for account in "abc":
            await client.post("/transactions", json=SALARY | {"accountId": account})
    serve(PROJECT)
    async with client_of(serve(BALANCE).url) as client:
        for account in "abc":
            answer = await client.get(
                f"/balances?accountId={account}&minPosition=1", headers={"prefer": "wait=30"}
            )
            assert (answer.status_code, answer.json()["value"]) == (200, 1000)


async def test_a_balance_is_never_silently_older_than_requested(
    serve: Serve, superuser: Connection
) -> None:
    """Without a projector: what is not there yet is said, and how far it is behind."""
    async with client_of(serve(RECORD).url) as client:
        await client.post("/transactions", json=SALARY)
    async with client_of(serve(BALANCE).url) as client:
        behind = await client.get("/balances?accountId=wesley")
        assert (behind.status_code, behind.json()["type"]) == (
            503,
            "urn:saldo:problem:projection-behind",
        )
        assert behind.headers["retry-after"]
        await superuser.execute(
            "INSERT INTO read_model.balance (account_id, currency, balance_minor, position, hash,"
            " recorded_at) SELECT account_id, currency, balance_minor, position, hash, recorded_at"
            " FROM event_store.stream"
        )
        await superuser.execute("UPDATE event_store.stream SET position = 3")
        found = await client.get("/balances?accountId=wesley")
        assert (found.status_code, found.headers["saldo-behind"], found.headers["etag"]) == (
            200,
            "2",
            etag_of(found.json()),
        )
        assert found.json() | {"hash": "", "recordedAt": ""} == {
            "id": found.json()["id"],
            "accountId": "wesley",
            "value": 1000,
            "valueText": "1000",
            "currency": "BRL",
            "position": 1,
            "hash": "",
            "recordedAt": "",
        }
        held = await client.get(
            "/balances?accountId=wesley", headers={"if-none-match": found.headers["etag"]}
        )
        assert held.status_code == 304
        for wait in ({}, {"prefer": "wait=1"}):
            late = await client.get("/balances?accountId=wesley&minPosition=2", headers=wait)
            assert (late.status_code, late.json()["wanted"]) == (503, 2)
        several = await client.get("/balances?accountId=wesley&accountId=nobody")
        assert several.json()["balances"][1] == {"accountId": "nobody", "status": "unknown"}
