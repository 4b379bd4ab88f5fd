"""CloudEvents in requests and responses, in binary and structured mode."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent, from_http

from tests.support.live import SINK_SUBJECT, etag_of, fresh, problem_type

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.support.live import Live

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUESTED = "saldo.transaction.requested"
Mode = pytest.mark.parametrize("encode", [to_binary, to_structured])


def asked(data: object, **attributes: str) -> CloudEvent:
    whole = {"type": REQUESTED, "source": "/payroll", "id": fresh("id"), **attributes}
    return CloudEvent(whole, data)


def send(client: httpx.Client, event: CloudEvent, encode: Callable[..., Any]) -> httpx.Response:
    headers, body = encode(event)
    return client.post("/", content=body, headers={"content-type": "application/json"} | headers)


def answered(answer: httpx.Response) -> CloudEvent:
    return from_http(dict(answer.headers), answer.content)


@Mode
def test_request_is_recorded_and_its_event_returned(live: Live, encode: Callable[..., Any]) -> None:
    account_id = fresh()
    data = {"accountId": account_id, "type": "INCOME", "value": 10.5}
    answer = send(live.record, asked(data, traceparent=TRACEPARENT), encode)
    assert answer.status_code == 201
    event = answered(answer)
    assert event["type"] == "saldo.transaction.recorded"
    assert event["subject"] == event["partitionkey"] == account_id
    assert (event["sequence"], event["traceparent"]) == ("1", TRACEPARENT)
    assert event.data["event"]["amountMinor"] == 1050
    assert answer.headers["location"] == f"/transactions/{event['id']}"
    assert live.record.get(answer.headers["location"]).status_code == 200


@Mode
def test_repeated_event_is_recorded_once(live: Live, encode: Callable[..., Any]) -> None:
    event = asked({"accountId": fresh(), "type": "INCOME", "value": 1})
    first, again = (send(live.record, event, encode) for _ in range(2))
    assert again.headers["idempotency-replayed"] == "true"
    assert answered(first)["id"] == answered(again)["id"]


def test_keys_of_events_and_of_clients_never_collide(live: Live) -> None:
    """All of these once had the key `/pay roll 7`."""
    account_id = fresh()
    data = {"accountId": account_id, "type": "INCOME", "value": 1}
    for _ in range(2):
        for source, id_ in (("/pay roll", "7"), ("/pay", "roll 7")):
            event = asked(data, source=source, id=id_)
            assert send(live.record, event, to_structured).status_code == 201
        headers = {"Idempotency-Key": "/pay roll 7"}
        assert live.record.post("/transactions", json=data, headers=headers).status_code == 201
    assert live.record.get(f"/accounts/{account_id}/limit").json()["position"] == 3


def test_structured_money_is_never_a_float(live: Live) -> None:
    account_id = fresh()
    text = (
        '{"specversion":"1.0","id":"1","source":"/x","type":"saldo.transaction.requested",'
        f'"data":{{"accountId":"{account_id}","type":"INCOME","value":90071992547409.93}}}}'
    )
    headers = {"content-type": "application/cloudevents+json"}
    answer = live.record.post("/", content=text, headers=headers)
    assert answered(answer).data["event"]["amountMinor"] == 9007199254740993
    limit = live.record.get(f"/accounts/{account_id}/limit")
    assert json.loads(limit.text, parse_float=Decimal)["balance"] == Decimal("90071992547409.93")


def test_base64_data_are_decoded(live: Live) -> None:
    data = json.dumps({"accountId": fresh(), "type": "INCOME", "value": 1}).encode()
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": REQUESTED}
    event["data_base64"] = base64.b64encode(data).decode()
    headers = {"content-type": "application/cloudevents+json"}
    answer = live.record.post("/", content=json.dumps(event), headers=headers)
    assert answer.status_code == 201


def test_expected_position_is_checked_for_a_cloud_event(live: Live) -> None:
    headers, body = to_binary(asked({"accountId": fresh(), "type": "INCOME", "value": 1}))
    answer = live.record.post("/", content=body, headers=headers | {"If-Match": '"7"'})
    assert answer.status_code == 412


CHANGES: list[dict[str, Any]] = [
    {"specversion": "9.9"},
    {"specversion": []},
    {"specversion": 1.0},
    {"id": ""},
    {"id": 5},
    {"id": None},
    {"id": "\ud800"},
    {"id": "\u0000"},
    {"source": {}},
    {"source": "x" * 501},
    {"type": "other"},
    {"type": []},
    {"data": None},
    {"data": "text"},
    {"data_base64": "%"},
    {"data_base64": 5},
    # Beside `data`: one of two transactions would be chosen.
    {"data_base64": "eyJhY2NvdW50SWQiOiJhIiwidHlwZSI6IklOQ09NRSIsInZhbHVlIjoxfQ=="},
    {"traceparent": 5},
    {"traceparent": "00-\r\nX: y"},
    {"time": "yesterday"},
    {"extension": {"nested": True}},
]
GOOD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/x",
    "type": REQUESTED,
    "data": {},
}


@pytest.mark.parametrize("function", ["record_transaction", "get_balance"])
@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "1",
        "null",
        '"x"',
        "{}",
        "{",
        *(json.dumps(GOOD | change) for change in CHANGES),
    ],
)
def test_malformed_structured_event_is_refused(live: Live, function: str, content: str) -> None:
    with live.client(function, live.issuer.token()) as client:
        headers = {"content-type": "application/cloudevents+json"}
        answer = client.post("/", content=content, headers=headers)
    assert answer.status_code == 400
    assert problem_type(answer) in {"malformed-json", "invalid-request"}


def test_malformed_trace_context_is_ignored(live: Live) -> None:
    """It once reached the database as a number, and failed the batch that it was in."""
    data = {"accountId": fresh(), "type": "INCOME", "value": 1}
    event = GOOD | {"data": data, "traceparent": 5, "id": fresh("id")}
    headers = {"content-type": "application/cloudevents+json"}
    answer = live.record.post("/", content=json.dumps(event), headers=headers)
    assert answer.status_code == 201
    assert "traceparent" not in answer.json()


@pytest.mark.parametrize("missing", ["ce-id", "ce-source", "ce-type"])
def test_binary_event_without_an_attribute_is_refused(live: Live, missing: str) -> None:
    headers, body = to_binary(asked({"accountId": fresh(), "type": "INCOME", "value": 1}))
    del headers[missing]
    answer = live.record.post("/", content=body, headers=headers)
    assert answer.status_code == 400


def test_binary_event_without_json_data_is_refused(live: Live) -> None:
    headers, body = to_binary(asked({}))
    headers["content-type"] = "application/xml"
    assert live.record.post("/", content=body, headers=headers).status_code == 415


def test_batch_of_events_is_refused(live: Live) -> None:
    headers = {"content-type": "application/cloudevents-batch+json"}
    assert live.record.post("/", content="[]", headers=headers).status_code == 415


def test_ping_sweeps_the_outbox_only_for_its_source(live: Live) -> None:
    event = asked({}, type="dev.knative.sources.ping")
    headers, body = to_binary(event)
    for token, status in (
        (live.issuer.token(sub=SINK_SUBJECT), 204),
        (live.issuer.token(), 403),
        (None, 401),
    ):
        with live.client("record_transaction", token) as client:
            answer = client.post("/", content=body, headers=headers)
        assert answer.status_code == status


# --- get_balance ------------------------------------------------------------------------------


@Mode
@pytest.mark.parametrize("kind", ["saldo.balance.requested", "dev.knative.sources.ping"])
def test_balance_is_returned_in_the_mode_of_the_request(
    live: Live, encode: Callable[..., Any], kind: str
) -> None:
    account_id = fresh()
    live.recorded(account_id, 12)
    event = asked({"accountId": account_id}, type=kind, traceparent=TRACEPARENT)
    answer = send(live.balance, event, encode)
    assert answer.status_code == 200
    told = answered(answer)
    assert (told["type"], told["source"], told["subject"]) == (
        "saldo.balance",
        "/saldo/balances",
        account_id,
    )
    assert (told["sequence"], told["traceparent"]) == ("1", TRACEPARENT)
    assert told.data == live.balance.get("/balances", params={"accountId": account_id}).json()
    assert told["id"] == f"{account_id}/" + etag_of(told.data).strip('"')


@pytest.mark.parametrize("data", [{}, [], {"accountId": 5}, {"accountId": "a", "x": 1}])
def test_malformed_balance_request_is_refused(live: Live, data: object) -> None:
    answer = send(live.balance, asked(data, type="saldo.balance.requested"), to_binary)
    assert answer.status_code == 400


def test_unknown_account_is_not_found(live: Live) -> None:
    event = asked({"accountId": fresh()}, type="saldo.balance.requested")
    answer = send(live.balance, event, to_structured)
    assert answer.status_code == 404
    assert problem_type(answer) == "account-not-found"
