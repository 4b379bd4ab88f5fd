"""Requests as bytes: upgrades, packet boundaries, trailers, slow and endless senders."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from saldo.query.reader import STREAMS_A_CALLER_MAX
from saldo.record.recorder import ARRIVING_BYTES_MAX, BULK_REQUESTS_MAX
from saldo.record.requests import BULK_BYTES_MAX
from saldo.serve.__main__ import KEEP_ALIVE_S
from saldo.serve.functions import RECORD
from saldo.serve.http.connection import BODY_S, HEAD_BYTES_MAX, HEAD_S, HEADERS_MAX, PIPELINED_MAX
from tests.support.live import DEADLINE_S, fresh, problem_type
from tests.support.servers import REQUEST_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.conftest import Serve
    from tests.support.live import Live

MEBIBYTE = 1024 * 1024
UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)
JSON = b"Content-Type: application/json\r\n"
IN_CHUNKS = b"POST /transactions HTTP/1.1\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n"


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), REQUEST_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_response(stream: IO[bytes]) -> tuple[int, dict[str, str], bytes]:
    """Return the next response of a connection: status, headers and body."""
    status = int(stream.readline().split(b" ")[1])
    headers: dict[str, str] = {}
    while (line := stream.readline()) not in {b"\r\n", b""}:
        name, _, text = line.decode().partition(":")
        headers[name.lower()] = text.strip()
    return status, headers, stream.read(int(headers.get("content-length", "0")))


def request(
    line: str, body: bytes | None = None, *, chunked: bool = False, headers: bytes = b""
) -> bytes:
    """Return a request's bytes."""
    head = line.encode() + b" HTTP/1.1\r\nHost: saldo\r\n" + headers
    if body is None:
        return head + b"\r\n"
    if not chunked:
        return head + JSON + b"Content-Length: %d\r\n\r\n" % len(body) + body
    middle = len(body) // 2
    chunks = [body[:middle], body[middle:], b""]
    sent = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + JSON + b"Transfer-Encoding: chunked\r\n\r\n" + sent


def salary(account_id: str) -> bytes:
    return json.dumps(
        {"accountId": account_id, "description": "Salary", "type": "INCOME", "value": 1}
    ).encode()


def sent_in_two(
    port: int, requests: Sequence[tuple[bytes, int]]
) -> list[list[tuple[int, dict[str, str], bytes]]]:
    """Send each request in two packets cut at the given place; return both responses to each.

    All first packets go out before any second one, and the server responds to another connection
    in between: so it has seen each first packet by itself.
    """
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(port)) for _ in requests]
        for connection, (text, cut) in zip(connections, requests, strict=True):
            connection.sendall(text[:cut])
        httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=REQUEST_TIMEOUT_S)
        for connection, (text, cut) in zip(connections, requests, strict=True):
            connection.sendall(text[cut:])
        found = []
        for connection in connections:
            stream = stack.enter_context(connection.makefile("rb"))
            found.append([read_response(stream), read_response(stream)])
        return found


NOTHING = "/transactions/019ab3f2-7b1e-7c3a-9d55-0f6a3c1b2d4e"
SHAPES = {
    "POST": ("POST /transactions", False, 201),
    "POST in chunks": ("POST /transactions", True, 201),
    "GET": (f"GET {NOTHING}", False, 404),
    "DELETE in chunks": (f"DELETE {NOTHING}/private", True, 404),
}


@pytest.fixture(scope="module")
def port(plain_record_url: str) -> int:
    found = urlsplit(plain_record_url).port
    assert found is not None
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("upgrade", [UPGRADE, b"Connection: upgrade\r\nUpgrade: websocket\r\n"])
def test_upgrade_is_ignored_at_every_packet_boundary(port: int, upgrade: bytes, shape: str) -> None:
    """One response to it, and one to the next request on the connection."""
    line, chunked, expected = SHAPES[shape]
    accounts = [fresh() for _ in range(1_000)]
    texts = [
        request(line, salary(account), chunked=chunked, headers=upgrade) + request("GET /next")
        for account in accounts
    ]
    cuts = range(1, len(texts[0]))
    accounts = accounts[: len(cuts)]
    assert len(accounts) == len(cuts)
    found = sent_in_two(port, list(zip(texts, cuts, strict=False)))
    for account, cut, (own, following) in zip(accounts, cuts, found, strict=True):
        assert (cut, own[0], following[0]) == (cut, expected, 404)
        if expected == 201:
            recorded = json.loads(own[2])
            assert (recorded["accountId"], recorded["description"]) == (account, "Salary")
            assert recorded["position"] == 1


def test_body_of_an_upgrade_is_never_read_as_a_request(port: int) -> None:
    account = fresh()
    hidden = request("POST /transactions", salary(account))
    for line in ("GET /next", "POST /transactions", "DELETE /next"):
        for chunked in (False, True):
            text = request(line, hidden, chunked=chunked, headers=UPGRADE)
            for cut in (1, text.index(b"\r\n\r\n") + 4, len(text) - 1):
                with connect(port) as connection, connection.makefile("rb") as stream:
                    connection.sendall(text[:cut])
                    connection.sendall(text[cut:])
                    assert read_response(stream)[0] in {400, 404, 405}
                    connection.shutdown(socket.SHUT_WR)
                    assert stream.read() == b""
    events = httpx.get(
        f"http://127.0.0.1:{port}/accounts/{account}/events", timeout=REQUEST_TIMEOUT_S
    )
    assert events.status_code == 404


def test_several_upgrades_may_follow_one_another(port: int) -> None:
    accounts = [fresh() for _ in range(5)]
    with connect(port) as connection, connection.makefile("rb") as stream:
        connection.sendall(
            b"".join(
                request("POST /transactions", salary(account), headers=UPGRADE)
                for account in accounts
            )
        )
        found = [json.loads(read_response(stream)[2])["accountId"] for _ in accounts]
    assert found == accounts


def test_jdk_client_records_with_its_default_settings(port: int) -> None:
    """It asks for an upgrade to HTTP/2 on each first request of a connection."""
    java = shutil.which("java")
    modules = (
        ""
        if java is None
        else subprocess.run(
            [java, "--list-modules"], capture_output=True, text=True, check=False
        ).stdout
    )
    if java is None or "jdk.compiler" not in modules:
        pytest.skip("no JDK with a compiler is here")
    accounts = [fresh() for _ in range(4)]
    source = Path(__file__).with_name("JdkClient.java")
    url = f"http://127.0.0.1:{port}/transactions"
    bodies = [salary(account).decode() for account in accounts]
    done = subprocess.run(
        [java, str(source), url, *bodies],
        capture_output=True,
        text=True,
        timeout=REQUEST_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:3] for line in lines] == ["201"] * 4
    recorded = [json.loads(line[4:]) for line in lines]
    assert [(each["accountId"], each["description"]) for each in recorded] == [
        (account, "Salary") for account in accounts
    ]


def test_trailers_are_not_headers_of_the_request(port: int) -> None:
    body = salary(fresh())
    text = request("POST /transactions", body, chunked=True)
    assert text.endswith(b"0\r\n\r\n")
    text = text[:-2] + b"Idempotency-Key: k\r\nContent-Encoding: gzip\r\n\r\n"
    positions = []
    for _ in range(2):
        with connect(port) as connection, connection.makefile("rb") as stream:
            connection.sendall(text)
            status, headers, content = read_response(stream)
        assert (status, "idempotency-replayed" in headers) == (201, False)
        positions.append(json.loads(content)["position"])
    assert positions == [1, 2]


def test_pipelined_requests_of_a_connection_are_bounded(port: int) -> None:
    """They would all be held in memory; a client may send on once it has its responses."""
    with connect(port) as connection, connection.makefile("rb") as stream:
        connection.sendall(request("GET /next") * (PIPELINED_MAX + 1))
        assert [read_response(stream)[0] for _ in range(PIPELINED_MAX + 1)] == [404] * 101
        with contextlib.suppress(ConnectionError):
            connection.sendall(request("GET /next") * 2_000)
            assert len(stream.read().split(b"HTTP/1.1 404")) <= PIPELINED_MAX + 2


def test_response_is_sent_before_later_bytes_are_refused(port: int) -> None:
    """The transaction is recorded: a client that is not told so may record it again."""
    for following in (b"GARBAGE\0\r\n", request("GET /next") * (2 * PIPELINED_MAX)):
        with connect(port) as connection, connection.makefile("rb") as stream:
            account = fresh()
            connection.sendall(request("POST /transactions", salary(account)) + following)
            status, _, content = read_response(stream)
            assert (status, json.loads(content)["accountId"]) == (201, account)
            with contextlib.suppress(ConnectionError):
                assert stream.read() == b""


@pytest.mark.parametrize("packets", [1, 3])
def test_trailers_are_bounded_at_every_packet_boundary(port: int, packets: int) -> None:
    text = request("POST /transactions", salary(fresh()), chunked=True)[:-2]
    text += b"".join(b"X-%d: 1\r\n" % number for number in range(HEADERS_MAX + 50)) + b"\r\n"
    size = len(text) // packets + 1
    with connect(port) as connection, connection.makefile("rb") as stream:
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(text), size):
                connection.sendall(text[start : start + size])
        assert read_response(stream)[0] == 431


def test_garbage_between_requests_is_bounded(port: int) -> None:
    with connect(port) as connection, connection.makefile("rb") as stream:
        connection.sendall(request("GET /next") + b"\r\n" * 10 + request("GET /next"))
        assert [read_response(stream)[0] for _ in range(2)] == [404, 404]
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"\r\n" * HEAD_BYTES_MAX)
            assert read_response(stream)[0] == 431


def test_body_of_many_members_is_refused_at_once(live: Live) -> None:
    members = b"{" + b",".join(b'"%d":1' % number for number in range(80_000)) + b"}"
    headers = {"content-type": "application/json"}
    for body in (members, b'{"a":1' + b',"a":1' * 80_000 + b"}"):
        for content in (body, b"[" + body + b"]"):
            answer = live.record.post("/transactions", content=content, headers=headers)
            assert answer.status_code == 400
            assert problem_type(answer) == "malformed-json"
            assert "more than 100 members" in answer.json()["detail"]


# --- heads ------------------------------------------------------------------------------------


def head(count: int, size: int) -> bytes:
    """Return a request head of ``count`` further headers and ``size`` bytes in all."""
    padding = size - len("Host" + "saldo" + "/next") - 8 * count
    lines = [b"n%07d: \r\n" % number for number in range(count - 1)]
    last = b"n%07d: " % count + b"x" * padding + b"\r\n"
    return request("GET /next", headers=b"".join(lines) + last)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (head(HEADERS_MAX - 1, HEAD_BYTES_MAX), 404),
        (head(HEADERS_MAX, 2_000), 431),
        (head(2, HEAD_BYTES_MAX + 1), 431),
        (request("GET /" + "x" * HEAD_BYTES_MAX), 431),
        (request("POST /transactions", b"{}", headers=UPGRADE + b"n: x\r\n" * HEADERS_MAX), 431),
        (request("CONNECT saldo:80"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (IN_CHUNKS + b"z\r\n", 400),
    ],
    ids=[
        "at the bounds",
        "too many",
        "too long",
        "long path",
        "upgrade",
        "connect",
        "TLS",
        "chunk",
    ],
)
def test_headers_are_bounded_in_number_and_bytes(port: int, text: bytes, status: int) -> None:
    with connect(port) as connection, connection.makefile("rb") as stream:
        connection.sendall(text)
        answered, headers, body = read_response(stream)
        assert answered == status
        if status == 404:
            return
        problem = json.loads(body)
        assert (problem["status"], headers["content-type"]) == (status, "application/problem+json")
        assert (headers["connection"], stream.read()) == ("close", b"")


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"GET / HTTP/1.1\r\n", b"n: x\r\n" * 10_000),
        (b"GET / HTTP/1.1\r\nn: ", b"x" * 60_000),
        (b"GET /", b"x" * 60_000),
        (
            IN_CHUNKS + b"0\r\nn: ",
            b"x" * 60_000,
        ),
        (IN_CHUNKS + b"1;", b"x" * 60_000),
    ],
    ids=["headers", "one header", "a path", "a trailer", "a chunk's extension"],
)
def test_endless_request_head_uses_no_memory(serve: Serve, start: bytes, again: bytes) -> None:
    record = serve(RECORD)
    process = psutil.Process(record.child.pid)
    before = process.memory_info().rss
    sent = 0
    with connect(record.port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(start)
        while sent < 30 * MEBIBYTE:
            connection.sendall(again)
            sent += len(again)
    assert sent < 30 * MEBIBYTE, "the server closes the connection long before"
    assert process.memory_info().rss - before < 16 * MEBIBYTE


def test_slow_request_is_refused_at_its_deadline(port: int) -> None:
    """A byte now and then keeps neither a head nor a body alive."""
    starts = {
        "head": b"GET /next HTTP/1.1\r\nHost: saldo\r\nn: ",
        "second head": request("GET /next") + b"GET /next HTTP/1.1\r\nn: ",
        "body": request("POST /transactions", b" " * 1_000)[:-1_000],
        "chunks": IN_CHUNKS,
    }
    drips = {"chunks": b"1\r\n \r\n"}
    ended: dict[str, tuple[int, float]] = {}

    def drip(name: str, start: bytes) -> None:
        with connect(port) as connection, connection.makefile("rb") as stream:
            connection.sendall(start)
            if name == "second head":
                read_response(stream)
            began = time.monotonic()
            stop = threading.Event()

            def send() -> None:
                with contextlib.suppress(OSError):
                    while not stop.wait(0.5):  # short: the pace of the sender
                        connection.sendall(drips.get(name, b"x"))

            sender = threading.Thread(target=send)
            sender.start()
            status = read_response(stream)[0]
            ended[name] = status, time.monotonic() - began
            stop.set()
            sender.join(REQUEST_TIMEOUT_S)

    threads = [threading.Thread(target=drip, args=each) for each in starts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * REQUEST_TIMEOUT_S)
    assert {name: status for name, (status, _) in ended.items()} == dict.fromkeys(starts, 408)
    for name, (_, took_s) in ended.items():
        least_s = BODY_S if name in {"body", "chunks"} else HEAD_S
        assert took_s >= least_s - 1, name


@pytest.mark.slow  # for as long as the bound
@pytest.mark.timeout(900)
def test_idle_connection_is_closed_at_its_deadline(port: int) -> None:
    """From the start, and after a response: whether nothing comes or line ends that are none."""
    starts = {
        "nothing": b"",
        "line ends": b"\r\n" * 3,
        "a response": request("GET /next"),
    }
    closed: dict[str, float] = {}

    def wait(name: str, start: bytes) -> None:
        with connect(port) as connection, connection.makefile("rb") as stream:
            connection.settimeout(KEEP_ALIVE_S + REQUEST_TIMEOUT_S)
            connection.sendall(start)
            if name == "a response":
                read_response(stream)
            began = time.monotonic()
            assert stream.read() == b""
            closed[name] = time.monotonic() - began

    threads = [threading.Thread(target=wait, args=each) for each in starts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(KEEP_ALIVE_S + 2 * REQUEST_TIMEOUT_S)
    assert closed.keys() == starts.keys()
    for name, took_s in closed.items():
        assert took_s >= KEEP_ALIVE_S - 1, name


# --- places -----------------------------------------------------------------------------------


def half_sent(live: Live, size: int) -> bytes:
    """Return the head of a bulk request and a megabyte of its body."""
    head = (
        "POST /transactions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {live.issuer.token()}\r\nContent-Length: {size}\r\n\r\n["
    )
    return head.encode() + b" " * 1_100_000


def test_half_sent_bulk_requests_take_no_slot(live: Live) -> None:
    port = live.served["record_transaction"].port
    lines = [{"accountId": fresh(), "type": "INCOME", "value": 1}]
    with contextlib.ExitStack() as held:
        for _ in range(2 * BULK_REQUESTS_MAX):
            held.enter_context(connect(port)).sendall(half_sent(live, 8_000_000))
        for _ in range(5):
            assert live.record.post("/transactions", json=lines).status_code == 201


@contextlib.contextmanager
def arriving(live: Live, count: int) -> Iterator[None]:
    """Send so many bulk requests of the largest size, without their last bytes."""
    port = live.served["record_transaction"].port
    with contextlib.ExitStack() as held:
        for _ in range(count):
            connection = held.enter_context(connect(port))
            connection.sendall(half_sent(live, BULK_BYTES_MAX))
            with contextlib.suppress(ConnectionError):
                connection.sendall(b" " * (BULK_BYTES_MAX - 1_100_000 - 2))
        yield


def test_incomplete_bodies_are_bounded_together(live: Live) -> None:
    large = b"[" + b" " * MEBIBYTE + b'{"accountId":"a","type":"INCOME","value":1}]'
    headers = {"content-type": "application/json"}
    with arriving(live, ARRIVING_BYTES_MAX // BULK_BYTES_MAX + 2):
        deadline = time.monotonic() + DEADLINE_S
        # The server may not have read all of them yet.
        while (
            answer := live.record.post("/transactions", content=large, headers=headers)
        ).is_success:
            assert time.monotonic() < deadline
        assert answer.status_code == 503
        assert problem_type(answer) == "too-busy"
        body = {"accountId": fresh(), "type": "INCOME", "value": 1}
        assert live.record.post("/transactions", json=body).status_code == 201
    deadline = time.monotonic() + DEADLINE_S
    while live.record.post("/transactions", content=large, headers=headers).status_code != 201:
        assert time.monotonic() < deadline


def test_event_streams_are_bounded_per_caller(live: Live) -> None:
    account_id = fresh()
    live.recorded(account_id)
    path = f"/balances/stream?accountId={account_id}"
    with (
        live.client("get_balance", live.issuer.token(sub="greedy")) as greedy,
        live.client("get_balance", live.issuer.token(sub="modest")) as modest,
    ):
        with contextlib.ExitStack() as held:
            for _ in range(STREAMS_A_CALLER_MAX):
                assert held.enter_context(greedy.stream("GET", path)).status_code == 200
            # Of which HEAD is none: it ends at once.
            assert modest.head(path).status_code == 200
            answer = greedy.get(path)
            assert answer.status_code == 503
            assert problem_type(answer) == "too-many-waiters"
            assert "50 event streams" in answer.json()["detail"]
            with modest.stream("GET", path) as stream:
                assert stream.status_code == 200
        deadline = time.monotonic() + DEADLINE_S
        status = 503
        while status != 200:
            with greedy.stream("GET", path) as stream:
                status = stream.status_code
            assert time.monotonic() < deadline
