"""The original's clients work unchanged: its requests, its files, the fields that it reads."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from local.services import BALANCE, PROJECT, RECORD, ROOT

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack

CALLS = json.loads(
    (Path(__file__).parents[1] / "fixtures/original_clients.json").read_text(encoding="utf-8")
)
DEADLINE_S = 30.0
# "Within 100 ms of the 201", on a machine that is busy with other tests.
SOON_S = 2.0


@pytest.mark.timeout(180)
def test_the_originals_requests_are_answered_as_it_answered_them(light_stack: Stack) -> None:
    record, balance, project = (light_stack.serve(f) for f in (RECORD, BALANCE, PROJECT))
    light_stack.deliver(project)
    urls = {"record": record.url, "balance": balance.url}
    with httpx.Client(timeout=DEADLINE_S) as client:
        for call in CALLS:
            url = urls[call["service"]] + call["path"]
            if call["service"] == "record":
                body = (ROOT / "loadtests" / call["file"]).read_bytes()
                answer = client.post(
                    url, content=body, headers={"content-type": "application/json"}
                )
                assert answer.status_code == call["status"]
                assert answer.headers["location"].startswith(call["location"])
                found = client.get(record.url + answer.headers["location"])
                assert found.status_code == 200
            else:
                check_balance(call, wait_for(client, url, call["value"]))
        check_soon(client, record.url, balance.url)


def wait_for(client: httpx.Client, url: str, value: int) -> httpx.Response:
    """The answer, once it holds the value: the original's client asks until it does."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        answer = client.get(url)
        if answer.status_code == 200 and answer.json()["value"] == value:
            return answer
        assert time.monotonic() < deadline, answer.text


def check_balance(call: dict[str, Any], answer: httpx.Response) -> None:
    assert answer.status_code == call["status"]
    body = answer.json()
    assert set(call["fields"]) <= set(body)
    assert body["accountId"] == call["account"]
    assert isinstance(body["id"], str)
    # A JSON number, not a text that looks like one.
    assert type(body["value"]) is int
    assert body["value"] == call["value"]


def check_soon(client: httpx.Client, record_url: str, balance_url: str) -> None:
    """Read one's own write: by the delivery, long before any sweep."""
    transaction = {"accountId": "soon", "description": "x", "type": "INCOME", "value": 1}
    client.post(f"{record_url}/transactions", json=transaction)
    wait_for(client, f"{balance_url}/balances?accountId=soon", 1)
    times = []
    for number in range(2, 7):
        client.post(f"{record_url}/transactions", json=transaction)
        began = time.monotonic()
        wait_for(client, f"{balance_url}/balances?accountId=soon", number)
        times.append(time.monotonic() - began)
    assert min(times) < SOON_S
