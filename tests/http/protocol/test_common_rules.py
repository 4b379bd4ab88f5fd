"""Rules of all routes: methods, headers, root paths, unknown parameters, CORS."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

import httpx
import pytest

from saldo.serve.http.router import METHODS
from tests.support.live import DEADLINE_S, ORIGIN, fresh, problem_type

if TYPE_CHECKING:
    from tests.support.live import Live


def test_unknown_path_is_a_problem(live: Live) -> None:
    for client in (live.record, live.balance):
        answer = client.get("/transfers")
        assert answer.status_code == 404
        assert problem_type(answer) == "not-found"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/transactions", "POST"),
        ("/transactions/1", "GET, HEAD"),
        ("/accounts/wesley/limit", "GET, HEAD, PUT"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
def test_wrong_method_gets_the_allowed_methods(live: Live, path: str, allowed: str) -> None:
    answer = live.record.request("PATCH", path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    assert problem_type(answer) == "method-not-allowed"


def test_unknown_method_is_a_problem(live: Live) -> None:
    for client in (live.record, live.balance, live.projector):
        answer = client.request("TRACE", "/")
        assert answer.status_code == 405
        assert answer.headers["allow"] == ", ".join(METHODS)
        assert problem_type(answer) == "method-not-allowed"


def test_line_break_in_a_path_is_refused(live: Live) -> None:
    answer = live.record.put("/accounts/two%0Alines/limit", json={"overdraftLimit": None})
    assert answer.status_code == 400
    assert [each["field"] for each in answer.json()["errors"]] == ["accountId"]
    answer = live.balance.get("/no%0Aplace")
    assert answer.status_code == 404
    assert problem_type(answer) == "not-found"


def test_head_has_the_headers_of_get_and_no_body(live: Live) -> None:
    account_id = fresh()
    [recorded] = live.recorded(account_id)
    for client, path in (
        (live.record, f"/transactions/{recorded['id']}"),
        # A stream that went on unseen would hold up the next request of its connection.
        (live.balance, f"/balances/stream?accountId={account_id}"),
        (live.balance, f"/balances?accountId={account_id}"),
    ):
        head = client.head(path)
        assert head.status_code == 200
        assert head.content == b""
        if "stream" in path:
            assert head.headers["content-type"].startswith("text/event-stream")
            continue
        got = client.get(path)
        unchanging = ("etag", "content-type", "content-length", "cache-control")
        assert [head.headers[n] for n in unchanging] == [got.headers[n] for n in unchanging]


@pytest.mark.parametrize(
    ("function", "method", "path"),
    [
        ("record_transaction", "POST", "/transactions"),
        ("record_transaction", "GET", "/transactions/019ab3f2-7b1e-7c3a-9d55-0f6a3c1b2d4e"),
        ("record_transaction", "GET", "/accounts/wesley/events"),
        ("record_transaction", "PUT", "/accounts/wesley/limit"),
        ("get_balance", "GET", "/balances"),
        ("get_balance", "GET", "/balance"),
        ("get_balance", "GET", "/transactions"),
        ("get_balance", "GET", "/accounts"),
        ("get_balance", "GET", "/balances/stream"),
        ("get_balance", "POST", "/"),
    ],
)
def test_unknown_query_parameter_is_refused(
    live: Live, function: str, method: str, path: str
) -> None:
    with live.client(function, live.issuer.token()) as client:
        answer = client.request(method, path, params={"acountId": "wesley"})
    assert answer.status_code == 400
    assert problem_type(answer) == "invalid-request"
    assert answer.json()["errors"][0]["field"] == "acountId"


def test_repeated_query_parameter_is_refused(live: Live) -> None:
    answer = live.balance.get("/transactions?accountId=a&accountId=b")
    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"field": "accountId", "message": "may be given once"}]


@pytest.mark.parametrize("text", ["0", "501", "-1", "1.5", "", "9" * 5000, "0" * 30 + "9" * 4500])
def test_limit_out_of_bounds_is_refused(live: Live, text: str) -> None:
    answer = live.balance.get("/accounts", params={"limit": text})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "limit"


def test_every_response_forbids_sniffing_and_sets_caching(live: Live) -> None:
    account_id = fresh()
    [recorded] = live.recorded(account_id)
    kept = live.balance.get("/balances", params={"accountId": account_id})
    assert kept.headers["cache-control"] == "private, no-cache"
    for answer in (
        live.record.get(f"/accounts/{account_id}/events"),
        live.record.get("/nothing"),
        live.record.post("/transactions", content=b"{"),
        live.balance.get("/accounts"),
        live.record.post(f"/transactions/{recorded['id']}/reversal"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_location_keeps_the_root_path_of_the_request(live: Live) -> None:
    body = {"accountId": fresh(), "type": "INCOME", "value": 1000}
    for prefix in ("", "/transaction-service"):
        answer = live.record.post(f"{prefix}/transactions", json=body)
        location = answer.headers["location"]
        assert location == f"{prefix}/transactions/{answer.json()['id']}"
        assert live.record.get(location).status_code == 200


def test_functions_serve_only_their_own_root_paths(live: Live) -> None:
    account_id = fresh()
    live.recorded(account_id)
    query = f"accountId={account_id}"
    for path in ("/balances", "/balance", "/balance-service/balances", "/balance-service/balance"):
        assert live.balance.get(f"{path}?{query}").json()["value"] == 10
    for path in ("/balance-services/balances", "/balance-servicebalances", "/Balances"):
        assert live.balance.get(f"{path}?{query}").status_code == 404


def test_body_over_the_limit_is_refused_with_or_without_length(live: Live) -> None:
    large = b'{"accountId":"' + b"x" * 1_048_576 + b'"}'
    headers = {"content-type": "application/json"}
    told = live.record.post("/transactions", content=large, headers=headers)
    assert told.status_code == 413
    assert told.json()["bytesMax"] == 1_048_576
    larger = b"[" + b" " * 8_388_608 + b"]"
    streamed = live.record.post("/transactions", content=iter([larger]), headers=headers)
    assert streamed.status_code == 413
    assert problem_type(streamed) == "body-too-large"
    assert streamed.json()["bytesMax"] == 8_388_608


def test_projector_bounds_a_body_without_a_length(live: Live) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "x"}
    answer = live.projector.post("/", content=iter([b" " * 600_000] * 2), headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_content_type_that_is_not_json_is_refused(live: Live, kind: str) -> None:
    account_id = fresh()
    for method, path in (("POST", "/transactions"), ("PUT", f"/accounts/{account_id}/limit")):
        answer = live.record.request(method, path, content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 415
        assert problem_type(answer) == "unsupported-media-type"


def test_compressed_body_is_refused(live: Live) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = live.record.post("/transactions", content=b"\x1f\x8b", headers=headers)
    assert answer.status_code == 415


# --- CORS -------------------------------------------------------------------------------------


def test_preflight_of_a_configured_origin_needs_no_token(live: Live) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    with live.client("record_transaction", None) as client:
        answer = client.options("/transactions", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-methods"] == ", ".join(METHODS)
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert {"authorization", "idempotency-key", "if-match"} <= set(allowed.split(", "))
    assert "Origin" in answer.headers["vary"].split(", ")


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://bank.example", f"{ORIGIN}:444", f"{ORIGIN}.evil.example"],
)
def test_other_origins_may_read_nothing(live: Live, origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = live.record.options("/transactions", headers=asked)
    answer = live.balance.get("/accounts", headers={"Origin": origin})
    for each in (preflight, answer):
        assert "access-control-allow-origin" not in each.headers
        assert "Origin" in each.headers["vary"].split(", ")
    assert preflight.status_code == 400


def test_configured_origin_may_read_responses_and_errors(live: Live) -> None:
    for path in ("/accounts", "/nothing"):
        answer = live.balance.get(path, headers={"Origin": ORIGIN})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"ETag", "Location", "Saldo-Behind", "Retry-After"} <= set(exposed)


def test_no_origin_is_allowed_by_default(plain_record_url: str) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{plain_record_url}/transactions", headers=headers, timeout=DEADLINE_S)
    assert answer.status_code == 405
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_garbage_on_the_wire_causes_no_server_error(live: Live) -> None:
    served = live.served["record_transaction"]
    for path in ("/%ff%fe", "/transactions/%00", "/accounts/%2e%2e/limit", "//", "/?%ff=%00"):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status in {400, 401, 404, 405}, (path, answer.status)
        assert json.loads(answer.read())["status"] == answer.status
        connection.close()
