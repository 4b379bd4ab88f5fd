"""Transactions: record, retry, expected position, reversal, limit, bulk."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from saldo.serve.http.problems import TYPE_PREFIX
from tests.support.live import etag_of, fresh, problem_type

if TYPE_CHECKING:
    import httpx

    from tests.support.live import Live


def body_of(account_id: str, **more: Any) -> dict[str, Any]:
    return {"accountId": account_id, "type": "INCOME", "value": 10} | more


def record(live: Live, body: object, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return live.record.post("/transactions", json=body, headers=named)


def test_response_is_a_receipt_and_the_event_is_readable(live: Live) -> None:
    account_id = fresh()
    metadata = {"shop": "42", "naïve": "olá"}
    body = body_of(account_id, value=10.5, description="Café", metadata=metadata)
    answer = record(live, body)
    assert answer.status_code == 201
    assert answer.headers["etag"] == etag_of(answer.json())
    receipt = answer.json()
    assert receipt["balance"] == receipt["value"] == 10.5
    assert receipt["metadata"] == metadata
    found = live.record.get(answer.headers["location"]).json()
    assert found.items() >= receipt.items()
    assert json.loads(found["event"])["amountMinor"] == 1050
    assert found["reversedBy"] is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"value": -1}, "value"),
        ({"value": 0}, "value"),
        ({"value": None}, "value"),
        ({"value": "1e999999"}, "value"),
        ({"value": 10.001}, "value"),
        ({"value": True}, "value"),
        ({"type": "DEBIT"}, "type"),
        ({"accountId": "ção"}, "accountId"),
        ({"accountId": 5}, "accountId"),
        ({"currency": "XXQ"}, "currency"),
        ({"occurredAt": "yesterday"}, "occurredAt"),
        ({"description": "x" * 501}, "description"),
        ({"description": "a\u0000b"}, "description"),
        ({"metadata": {"k": 5}}, "metadata.k"),
        ({"metadata": {str(n): "" for n in range(21)}}, "metadata"),
        ({"amount": 5}, "amount"),
    ],
)
def test_wrong_field_is_named(live: Live, change: dict[str, Any], field: str) -> None:
    answer = record(live, body_of(fresh()) | change)
    assert answer.status_code == 400
    assert problem_type(answer) == "invalid-request"
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_all_wrong_fields_are_named_at_once(live: Live) -> None:
    answer = record(live, {"type": "x", "value": "y", "colour": "z"})
    fields = {error["field"] for error in answer.json()["errors"]}
    assert fields == {"accountId", "type", "value", "colour"}


@pytest.mark.parametrize(
    "text", ["", "{", '{"a":NaN}', '{"value":1,"value":2}', "[" * 5000, "\ufeff{}", "nul"]
)
def test_body_that_is_not_json_is_refused_with_the_reason(live: Live, text: str) -> None:
    headers = {"content-type": "application/json"}
    answer = live.record.post("/transactions", content=text.encode(), headers=headers)
    assert answer.status_code == 400
    assert problem_type(answer) == "malformed-json"


def test_money_is_exact(live: Live) -> None:
    account_id = fresh()
    text = f'{{"accountId":"{account_id}","type":"INCOME","value":90071992547409.93}}'
    headers = {"content-type": "application/json"}
    answer = live.record.post("/transactions", content=text, headers=headers)
    assert json.loads(answer.text, parse_float=Decimal)["value"] == Decimal("90071992547409.93")


# --- repeated ---------------------------------------------------------------------------------


def test_retry_gets_the_first_response(live: Live) -> None:
    account_id = fresh()
    first = record(live, body_of(account_id, value=1), Idempotency_Key="k")
    # The same request in other words, and the same key in its other form.
    again = record(live, body_of(account_id, value="1.00"), Idempotency_Key='"k"')
    assert again.status_code == 201
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"


def test_key_used_for_another_request_is_refused(live: Live) -> None:
    account_id = fresh()
    record(live, body_of(account_id), Idempotency_Key="k")
    answer = record(live, body_of(account_id, value=11), Idempotency_Key="k")
    assert answer.status_code == 422
    assert problem_type(answer) == "idempotency-key-reused"


@pytest.mark.parametrize("key", ["", '""', '"', '"a', '"a"b"', '"a\\"', '"\\a"', "x" * 256, "ä"])
def test_malformed_key_is_refused(live: Live, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    answer = live.record.post("/transactions", json=body_of(fresh()), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


def test_two_keys_are_refused(live: Live) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = live.record.post("/transactions", json=body_of(fresh()), headers=headers)
    assert answer.status_code == 400


def test_quote_and_backslash_are_escaped_in_a_key(live: Live) -> None:
    account_id = fresh()
    first = record(live, body_of(account_id), Idempotency_Key=r'"a\"b\\c"')
    again = record(live, body_of(account_id), Idempotency_Key=r'"a\"b\\c"')
    other = record(live, body_of(account_id), Idempotency_Key="abc")
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]


# --- expected position ------------------------------------------------------------------------


def test_expected_position_is_checked(live: Live) -> None:
    account_id = fresh()
    assert record(live, body_of(account_id), If_Match='"0"').status_code == 201
    answer = record(live, body_of(account_id), If_Match='"0"')
    assert answer.status_code == 412
    assert problem_type(answer) == "position-conflict"
    assert (answer.json()["expected"], answer.json()["actual"]) == (0, 1)


def test_any_etag_is_accepted_in_if_match(live: Live) -> None:
    """A receipt's, the limit's and the balance's are the same tag of the same state."""
    account_id = fresh()
    receipt = live.recorded(account_id)[-1]
    etag = etag_of(receipt)
    assert live.record.get(f"/accounts/{account_id}/limit").headers["etag"] == etag
    held = live.balance.get("/balances", params={"accountId": account_id})
    assert held.headers["etag"] == etag
    wrong_hash = f'"1-{"0" * 16}"'
    refused = record(live, body_of(account_id), If_Match=wrong_hash)
    assert (refused.status_code, problem_type(refused)) == (412, "position-conflict")
    assert f'"{refused.json()["actualTag"]}"' == etag
    first = record(live, body_of(account_id), If_Match=etag)
    assert first.status_code == 201
    path = f"/accounts/{account_id}/limit"
    headers = {"If-Match": first.headers["etag"]}
    assert live.record.put(path, json={"overdraftLimit": 5}, headers=headers).status_code == 200


def test_retry_is_recognised_before_the_position_check(live: Live) -> None:
    account_id = fresh()
    for _ in range(2):
        answer = record(live, body_of(account_id), If_Match='"0"', Idempotency_Key="k")
        assert answer.status_code == 201


@pytest.mark.parametrize(
    "text", ["5", "*", 'W/"5"', '"5", "6"', '"x"', '""', '"5-blocked"', '"5-1a2b"']
)
def test_malformed_expected_position_is_refused(live: Live, text: str) -> None:
    answer = record(live, body_of(fresh()), If_Match=text)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "If-Match"


def test_expected_position_is_refused_where_unsupported(live: Live) -> None:
    recorded = live.post(fresh())
    headers = {"If-Match": '"1"'}
    erased = live.record.delete(f"/transactions/{recorded['id']}/private", headers=headers)
    bulk = live.record.post("/transactions", json=[body_of(fresh())], headers=headers)
    for answer in (erased, bulk):
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == "If-Match"


# --- read by id -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["x", "0" * 32, "019ab3f2-7b1e-7c3a-9d55-0f6a3c1b2d4e", "{}"])
def test_unknown_transaction_is_not_found(live: Live, text: str) -> None:
    for answer in (
        live.record.get(f"/transactions/{text}"),
        live.record.post(f"/transactions/{text}/reversal"),
        live.record.delete(f"/transactions/{text}/private"),
    ):
        assert answer.status_code == 404
        assert problem_type(answer) == "transaction-not-found"


def test_unchanged_event_is_not_sent_again(live: Live) -> None:
    path = f"/transactions/{live.post(fresh(), description='x')['id']}"
    etag = live.record.get(path).headers["etag"]
    held = {"If-None-Match": etag}
    unchanged = live.record.get(path, headers=held)
    assert unchanged.status_code == 304
    assert unchanged.content == b""
    assert unchanged.headers["etag"] == etag
    live.record.post(f"{path}/reversal")
    reversed_now = live.record.get(path, headers=held)
    assert reversed_now.status_code == 200
    live.record.delete(f"{path}/private")
    held = {"If-None-Match": reversed_now.headers["etag"]}
    assert live.record.get(path, headers=held).status_code == 200


def test_events_hold_a_valid_hash_chain(live: Live) -> None:
    account_id = fresh()
    receipts = [live.post(account_id) for _ in range(3)]
    page = live.record.get(f"/accounts/{account_id}/events", params={"after": 1}).json()
    assert page["previousHash"] == receipts[0]["hash"]
    assert [event["hash"] for event in page["events"]] == [r["hash"] for r in receipts[1:]]
    beyond = live.record.get(f"/accounts/{account_id}/events", params={"after": 9})
    assert beyond.json() == {"previousHash": None, "events": []}


def test_unknown_account_has_neither_events_nor_a_limit(live: Live) -> None:
    unknown = fresh()
    for path in ("events", "events?after=7", "limit"):
        answer = live.record.get(f"/accounts/{unknown}/{path}")
        assert answer.status_code == 404
        assert problem_type(answer) == "account-not-found"


# --- correction -------------------------------------------------------------------------------


def test_reversal_is_recorded_once_and_linked_both_ways(live: Live) -> None:
    original = live.post(fresh(), value=30)
    path = f"/transactions/{original['id']}"
    answer = live.record.post(f"{path}/reversal", json={"description": "Returned"})
    assert answer.status_code == 201
    reversal = answer.json()
    assert (reversal["type"], reversal["value"], reversal["balance"]) == ("EXPENSE", 30, 0)
    assert reversal["reverses"] == original["id"]
    assert live.record.get(path).json()["reversedBy"] == reversal["id"]
    again = live.record.post(f"{path}/reversal")
    assert again.status_code == 409
    assert problem_type(again) == "already-reversed"
    assert again.json()["reversedBy"] == reversal["id"]


def test_limit_counts_income_dated_in_the_future(live: Live) -> None:
    """It looks at the order of recording, never at `occurredAt`."""
    account_id = fresh()
    live.record.put(f"/accounts/{account_id}/limit", json={"overdraftLimit": 0})
    live.post(account_id, value=100, occurredAt="2190-01-01T00:00:00Z")
    receipt = live.post(account_id, "EXPENSE", 100)
    live.deliver(receipt)
    params = {"accountId": account_id, "effectiveAt": receipt["recordedAt"]}
    assert live.balance.get("/balances", params=params).json()["value"] == -100


def test_reversal_takes_effect_at_its_own_time(live: Live) -> None:
    """At that of the original, no day keeps the mistake. The default is the time of recording."""
    account_id = fresh()
    then = "2026-11-02T12:00:00.000000Z"
    originals = [live.post(account_id, value=30, occurredAt=then) for _ in range(2)]
    paths = [f"/transactions/{each['id']}/reversal" for each in originals]
    at_once, back = (
        live.record.post(path, json=body)
        for path, body in zip(paths, ({}, {"occurredAt": then}), strict=True)
    )
    assert at_once.json()["occurredAt"] == at_once.json()["recordedAt"]
    assert back.json()["occurredAt"] == then
    live.deliver(back.json())
    params = {"accountId": account_id, "effectiveAt": then}
    assert live.balance.get("/balances", params=params).json()["value"] == 30
    repeated = live.record.post(paths[1], json={"occurredAt": "tomorrow"})
    assert problem_type(repeated) == "invalid-request"


def test_retried_reversal_gets_the_first_response(live: Live) -> None:
    path = f"/transactions/{live.post(fresh())['id']}/reversal"
    first, again = (live.record.post(path, headers={"Idempotency-Key": "r"}) for _ in range(2))
    assert again.status_code == 201
    assert again.json() == first.json()


def test_reversal_and_limit_cannot_be_reversed(live: Live) -> None:
    account_id = fresh()
    reversal = live.record.post(f"/transactions/{live.post(account_id)['id']}/reversal").json()
    answer = live.record.post(f"/transactions/{reversal['id']}/reversal")
    assert answer.status_code == 422
    assert problem_type(answer) == "not-reversible"
    limit = live.record.put(f"/accounts/{account_id}/limit", json={"overdraftLimit": 5}).json()
    answer = live.record.post(f"/transactions/{limit['id']}/reversal")
    assert answer.status_code == 404


# --- limits -----------------------------------------------------------------------------------


def test_refused_expense_names_balance_and_position(live: Live) -> None:
    account_id = fresh()
    set_limit = live.record.put(f"/accounts/{account_id}/limit", json={"overdraftLimit": 5.5})
    assert set_limit.status_code == 200
    assert set_limit.headers["etag"] == etag_of(set_limit.json())
    live.post(account_id, value=10)
    answer = record(live, body_of(account_id, type="EXPENSE", value=15.51))
    assert answer.status_code == 422
    assert problem_type(answer) == "insufficient-funds"
    told = answer.json()
    assert (told["balance"], told["limit"], told["currency"], told["position"]) == (
        10,
        5.5,
        "BRL",
        2,
    )
    assert record(live, body_of(account_id, type="EXPENSE", value=15.5)).status_code == 201


def test_limit_is_read_back_and_removed(live: Live) -> None:
    account_id = fresh()
    path = f"/accounts/{account_id}/limit"
    for limit in (0, "12.34", None):
        live.record.put(path, json={"overdraftLimit": limit})
        answer = live.record.get(path)
        expected = None if limit is None else float(limit)
        assert answer.json()["overdraftLimit"] == expected
    held = {"If-None-Match": answer.headers["etag"]}
    assert live.record.get(path, headers=held).status_code == 304


@pytest.mark.parametrize(
    "body", [{}, [], {"overdraftLimit": -1}, {"overdraftLimit": 1, "x": 2}, {"overdraftLimit": {}}]
)
def test_malformed_limit_is_refused(live: Live, body: object) -> None:
    answer = live.record.put(f"/accounts/{fresh()}/limit", json=body)
    assert answer.status_code == 400


def test_malformed_account_id_is_refused(live: Live) -> None:
    for path in ("events", "limit"):
        assert live.record.get(f"/accounts/-x/{path}").status_code == 400


def test_other_currency_is_refused(live: Live) -> None:
    account_id = fresh()
    live.post(account_id, currency="JPY", value=5)
    answer = record(live, body_of(account_id, currency="BRL"))
    assert answer.status_code == 422
    assert problem_type(answer) == "currency-mismatch"
    assert (answer.json()["stated"], answer.json()["held"]) == ("BRL", "JPY")
    digits = record(live, body_of(account_id, value=1.5))
    assert digits.status_code == 400
    assert digits.json()["errors"][0]["field"] == "value"


def test_balance_beyond_the_ledgers_integer_is_refused(live: Live) -> None:
    account_id = fresh()
    live.post(account_id, value="92233720368547758.07")
    answer = record(live, body_of(account_id, value="0.01"))
    assert answer.status_code == 422
    assert problem_type(answer) == "balance-out-of-range"
    larger = record(live, body_of(fresh(), value="92233720368547758.08"))
    assert larger.status_code == 400


# --- many -------------------------------------------------------------------------------------


def test_array_and_lines_are_recorded_in_order(live: Live) -> None:
    account_id = fresh()
    bodies = [body_of(account_id, value=n) for n in (1, 2, 3)]
    array = record(live, bodies)
    assert array.status_code == 201
    assert [t["position"] for t in array.json()["transactions"]] == [1, 2, 3]
    text = "\n\n".join(json.dumps(body) for body in bodies) + "\n"
    headers = {"content-type": "application/x-ndjson"}
    lines = live.record.post("/transactions", content=text, headers=headers)
    assert [t["balance"] for t in lines.json()["transactions"]] == [7, 9, 12]


def test_bad_lines_are_named_by_number_and_nothing_is_recorded(live: Live) -> None:
    account_id = fresh()
    good = json.dumps(body_of(account_id))
    text = f'{good}\n\n{{"type":"INCOME"}}\n{{\n{good}'
    headers = {"content-type": "application/x-ndjson"}
    malformed = live.record.post("/transactions", content=text, headers=headers)
    assert malformed.status_code == 400
    assert [error["line"] for error in malformed.json()["errors"]] == [3]
    invalid = record(live, [json.loads(good), {"type": "INCOME"}, 5])
    assert [(e["line"], e["field"]) for e in invalid.json()["errors"]] == [
        (2, "accountId"),
        (2, "value"),
        (3, "body"),
    ]
    assert live.record.get(f"/accounts/{account_id}/events").status_code == 404


def test_refused_lines_are_named_by_number_with_their_reasons(live: Live) -> None:
    limited, yen = fresh(), fresh()
    live.record.put(f"/accounts/{limited}/limit", json={"overdraftLimit": 0})
    live.post(yen, currency="JPY")
    lines = [
        body_of(limited, value=5),
        body_of(limited, type="EXPENSE", value=6),
        body_of(yen, currency="BRL"),
        body_of(yen, value=1.5),
    ]
    answer = record(live, lines)
    assert answer.status_code == 422
    assert problem_type(answer) == "lines-refused"
    told = answer.json()["errors"]
    assert [(e["line"], e["type"].removeprefix(TYPE_PREFIX)) for e in told] == [
        (2, "insufficient-funds"),
        (3, "currency-mismatch"),
        (4, "invalid-request"),
    ]
    assert (told[0]["balance"], told[0]["position"]) == (5, 2)
    assert told[2]["field"] == "value"
    assert live.record.get(f"/accounts/{limited}/limit").json()["position"] == 1


def test_refused_bulk_of_one_names_its_line(live: Live) -> None:
    account_id = fresh()
    live.record.put(f"/accounts/{account_id}/limit", json={"overdraftLimit": 0})
    answer = record(live, [body_of(account_id, type="EXPENSE")])
    assert answer.status_code == 422
    assert problem_type(answer) == "lines-refused"
    assert answer.json()["errors"][0]["line"] == 1


def test_one_key_covers_a_whole_bulk(live: Live) -> None:
    bodies = [body_of(fresh()), body_of(fresh())]
    first = record(live, bodies, Idempotency_Key="b")
    again = record(live, bodies, Idempotency_Key="b")
    assert again.status_code == 201
    assert again.headers["idempotency-replayed"] == "true"
    ids = [[t["id"] for t in answer.json()["transactions"]] for answer in (first, again)]
    assert ids[0] == ids[1]
    for other in (bodies[:1], bodies[::-1], [*bodies, body_of(fresh())]):
        refused = record(live, other, Idempotency_Key="b")
        assert refused.status_code == 422
        assert problem_type(refused) == "idempotency-key-reused"


def test_lines_may_have_their_own_keys(live: Live) -> None:
    account_id = fresh()
    keyed = body_of(account_id, idempotencyKey="l1")
    first = record(live, [keyed, keyed, body_of(account_id, value=2)]).json()["transactions"]
    assert [t["position"] for t in first] == [1, 1, 2]
    assert [t.get("replayed") for t in first] == [None, True, None]
    # The same key on a single transaction is the same intent.
    single = record(live, body_of(account_id), Idempotency_Key="l1")
    assert single.json()["id"] == first[0]["id"]
    reused = record(live, [body_of(account_id, idempotencyKey="l1", value=9)])
    assert problem_type(reused) == "lines-refused"
    told = reused.json()["errors"][0]
    assert told["type"] == f"{TYPE_PREFIX}idempotency-key-reused"
    both = record(live, [keyed], Idempotency_Key="x")
    assert both.status_code == 400


@pytest.mark.parametrize("count", [0, 10_001])
def test_empty_or_too_large_bulk_is_refused(live: Live, count: int) -> None:
    answer = record(live, [{}] * count)
    assert answer.status_code == 400


def test_largest_bulk_is_recorded(live: Live) -> None:
    account_id = fresh()
    answer = record(live, [body_of(account_id, value=1)] * 10_000)
    assert answer.status_code == 201
    assert answer.json()["transactions"][-1]["balance"] == 10_000
