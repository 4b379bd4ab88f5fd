"""Clients of the original system: their requests, files and fields still work."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from local import postgres
from local.services import ROOT
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support.sides import NOTHING_IS_SWEPT

if TYPE_CHECKING:
    from tests.support.stack import Stack

CALLS = json.loads(
    (Path(__file__).parents[2] / "fixtures/original_clients.json").read_text(encoding="utf-8")
)
DEADLINE_S = 120.0


def test_original_clients_get_the_original_responses(light_stack: Stack) -> None:
    # Every balance that is read was projected by its delivery, then: no sweep finds anything.
    postgres.run_sql(light_stack.database.dsn(), NOTHING_IS_SWEPT)
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


def wait_for(client: httpx.Client, url: str, value: int) -> httpx.Response:
    """Poll as the original client does, and return the response that holds the value."""
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
