"""Present and past balances, statements, accounts and streams."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from tests.support.live import etag_of, fresh, problem_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.support.live import Live


def balance(live: Live, account_id: str, **query: object) -> httpx.Response:
    params = {"accountId": account_id, **{k: str(v) for k, v in query.items()}}
    return live.balance.get("/balances", params=params)


def test_balance_is_one_object_with_its_position(live: Live) -> None:
    account_id = fresh()
    receipt = live.recorded(account_id, 1000, 5)[-1]
    answer = balance(live, account_id)
    assert answer.status_code == 200
    assert answer.headers["etag"] == etag_of(receipt)
    assert answer.headers["saldo-behind"] == "0"
    told = answer.json()
    assert (told["value"], told["position"], told["hash"]) == (1005, 2, receipt["hash"])


@pytest.mark.parametrize("held", ["{}", "W/{}", '"9", {}', "*"])
def test_unchanged_balance_is_not_sent_again(live: Live, held: str) -> None:
    account_id = fresh()
    etag = etag_of(live.recorded(account_id)[-1])
    params = {"accountId": account_id}
    headers = {"If-None-Match": held.format(etag)}
    answer = live.balance.get("/balances", params=params, headers=headers)
    assert answer.status_code == 304
    assert answer.content == b""
    assert (answer.headers["etag"], answer.headers["saldo-behind"]) == (etag, "0")


@pytest.mark.parametrize("held", ['"1"', 'W/"1"', '"0"', f'"1-{"0" * 16}"'])
def test_balance_is_sent_when_the_client_holds_another(live: Live, held: str) -> None:
    """A bare position is never held: after a restore it may be another event."""
    account_id = fresh()
    live.recorded(account_id)
    params = {"accountId": account_id}
    answer = live.balance.get("/balances", params=params, headers={"If-None-Match": held})
    assert answer.status_code == 200


def test_lagging_balance_says_by_how_much(live: Live) -> None:
    account_id = fresh()
    live.recorded(account_id)
    # The projector's own sweep may come in between, which is as good an answer.
    for _ in range(3):
        live.post(account_id)
    answer = balance(live, account_id)
    assert answer.json()["position"] + int(answer.headers["saldo-behind"]) == 4


def test_unprojected_account_is_not_reported_as_unknown(live: Live) -> None:
    account_id = fresh()
    live.post(account_id)
    answer = balance(live, account_id)
    if answer.status_code != 200:  # the projector's own sweep may have come in between
        assert answer.status_code == 503
        assert problem_type(answer) == "projection-behind"
        assert answer.headers["retry-after"] == "1"


def test_unknown_account_is_not_found(live: Live) -> None:
    unknown = fresh()
    for path in ("/balances", "/transactions", "/balances/stream"):
        answer = live.balance.get(path, params={"accountId": unknown})
        assert answer.status_code == 404
        assert problem_type(answer) == "account-not-found"


def test_several_accounts_are_returned_with_unknown_ones(live: Live) -> None:
    known, unknown = fresh(), fresh()
    live.recorded(known, 7)
    answer = live.balance.get(f"/balances?accountId={known}&accountId={unknown}")
    first, second = answer.json()["balances"]
    assert (first["value"], first["behind"]) == (7, 0)
    assert second == {"accountId": unknown, "status": "unknown"}


@pytest.mark.parametrize("count", [0, 101])
def test_no_or_too_many_accounts_are_refused(live: Live, count: int) -> None:
    answer = live.balance.get("/balances", params=[("accountId", "a")] * count)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "accountId"


@pytest.mark.parametrize(
    "query",
    [
        "accountId=a&asOf=yesterday",
        "accountId=a&asOf=2026-11-24",
        "accountId=a&position=0",
        "accountId=a&position=x",
        "accountId=a&effectiveAt=1",
        "accountId=a&minPosition=-1",
        "accountId=a&minPosition=1-1a2b",
        "accountId=a&minPosition=",
        "accountId=a&position=1&asOf=2026-11-24T06:00:00Z",
        "accountId=a&accountId=b&position=1",
        "accountId=-",
        "accountId=",
    ],
)
def test_malformed_query_is_refused(live: Live, query: str) -> None:
    live_account = fresh()
    live.recorded(live_account)
    answer = live.balance.get(f"/balances?{query.replace('=a', f'={live_account}', 1)}")
    assert answer.status_code == 400
    assert problem_type(answer) == "invalid-request"


def test_balance_of_the_past_by_position_and_recorded_time(live: Live) -> None:
    account_id = fresh()
    receipts = live.recorded(account_id, 1, 2, 4)
    assert balance(live, account_id, position=2).json()["value"] == 3
    moment = receipts[1]["recordedAt"]
    told = balance(live, account_id, asOf=moment).json()
    assert (told["value"], told["asOf"], told["final"]) == (3, moment, True)
    before = balance(live, account_id, asOf="2020-01-01T00:00:00Z").json()
    assert (before["value"], before["position"], before["recordedAt"]) == (0, 0, None)
    now = balance(live, account_id, asOf="2199-01-01T00:00:00Z").json()
    assert (now["value"], now["final"]) == (7, False)
    beyond = balance(live, account_id, position=9)
    assert beyond.status_code == 404
    assert problem_type(beyond) == "position-not-found"


def test_balance_as_of_the_last_events_own_moment_is_not_final(live: Live) -> None:
    """Another event can be recorded at the same moment."""
    account_id = fresh()
    moment = live.recorded(account_id, 1, 2)[-1]["recordedAt"]
    told = balance(live, account_id, asOf=moment).json()
    assert (told["value"], told["final"]) == (3, False)
    live.recorded(account_id, 4)
    told = balance(live, account_id, asOf=moment).json()
    assert (told["value"], told["final"]) == (3, True)


def test_balance_by_occurred_time(live: Live) -> None:
    account_id = fresh()
    live.post(account_id, value=1, occurredAt="2026-01-01T12:00:00Z")
    live.deliver(live.post(account_id, value=2, occurredAt="2026-01-01T13:00:00+00:00"))
    for moment, value in (
        ("2025-12-31T23:59:59Z", 0),
        ("2026-01-01T12:00:00Z", 1),
        ("2026-01-01T12:59:59.999999Z", 1),
        ("2026-01-02T00:00:00Z", 3),
    ):
        assert balance(live, account_id, effectiveAt=moment).json()["value"] == value


def test_own_write_is_read_or_the_status_is_503(live: Live) -> None:
    account_id = fresh()
    live.recorded(account_id)
    assert balance(live, account_id, minPosition=1).json()["position"] == 1
    answer = balance(live, account_id, minPosition=2)
    assert answer.status_code == 503
    assert problem_type(answer) == "projection-behind"
    assert (answer.json()["position"], answer.json()["wanted"]) == (1, 2)
    receipt = live.post(account_id)
    live.deliver(receipt)
    params = {"accountId": account_id, "minPosition": "2"}
    waited = live.balance.get("/balances", params=params, headers={"Prefer": "wait=5"})
    assert waited.json()["position"] == 2
    late = live.balance.get(
        "/balances", params=params | {"minPosition": "3"}, headers={"Prefer": "wait=1"}
    )
    assert late.status_code == 503


def test_applied_wait_is_reported(live: Live) -> None:
    """RFC 7240: in any case and spacing; one that is too long is shortened."""
    account_id = fresh()
    live.recorded(account_id)
    for asked, position, status, applied in (
        ("wait=1000", 1, 200, "wait=30"),
        ("Wait=2", 1, 200, "wait=2"),
        ("respond-async, wait = 1", 2, 503, "wait=1"),
        ("wait=soon", 2, 503, None),
    ):
        params = {"accountId": account_id, "minPosition": str(position)}
        answer = live.balance.get("/balances", params=params, headers={"Prefer": asked})
        assert answer.status_code == status
        assert answer.headers.get("preference-applied") == applied
    headers = {
        "Prefer": "wait=7",
        "If-None-Match": live.balance.get("/balances", params={"accountId": account_id}).headers[
            "etag"
        ],
    }
    params = {"accountId": account_id, "minPosition": "1"}
    held = live.balance.get("/balances", params=params, headers=headers)
    assert (held.status_code, held.headers["preference-applied"]) == (304, "wait=7")


def values_of(content: object) -> Iterator[tuple[object, object]]:
    """Yield the text of every number named `value` in a body, with its `valueText`."""
    if isinstance(content, dict):
        if "value" in content:
            yield content["value"], content.get("valueText")
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from values_of(each)


def test_every_number_has_its_exact_text(live: Live) -> None:
    """JavaScript reads 90071992547409.93 as 90071992547409.94."""
    account_id = fresh()
    posted = [
        live.record.post(
            "/transactions", json={"accountId": account_id, "type": kind, "value": value}
        )
        for kind, value in (("INCOME", "90071992547409.93"), ("INCOME", "5"), ("EXPENSE", "5"))
    ]
    lines = [{"accountId": account_id, "type": "INCOME", "value": "0.07"}]
    posted.append(live.record.post("/transactions", json=lines))
    live.deliver(posted[-1].json()["transactions"][0])
    asked = {"accountId": account_id}
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "saldo.balance.requested"}
    bodies = [answer.text for answer in posted] + [
        live.record.get(posted[0].headers["location"]).text,
        *(
            live.balance.get("/balances", params=asked | more).text
            for more in (
                {},
                {"position": "1"},
                {"asOf": "2200-01-01T00:00:00Z"},
                {"asOf": "1950-01-01T00:00:00Z"},
                {"effectiveAt": "2200-01-01T00:00:00Z"},
            )
        ),
        live.balance.get("/balances", params={"accountId": [account_id, fresh()]}).text,
        live.balance.get("/transactions", params=asked).text,
        live.balance.get("/accounts", params={"limit": "500"}).text,
        live.balance.post(
            "/",
            content=json.dumps(event | {"data": asked}),
            headers={"content-type": "application/cloudevents+json"},
        ).text,
    ]
    with live.balance.stream("GET", "/balances/stream", params=asked) as stream:
        bodies.append(next(line for line in stream.iter_lines() if line.startswith("data:"))[5:])
    for body in bodies:
        found = list(values_of(json.loads(body, parse_float=str, parse_int=str)))
        assert found
        assert [text for value, text in found if value != text] == []
    assert '"valueText":"90071992547409.93"' in bodies[0]


# --- statement --------------------------------------------------------------------------------


def test_statement_has_the_balance_after_each_line_newest_first(live: Live) -> None:
    account_id = fresh()
    live.post(account_id, value=10, description="Salary", metadata={"k": "v"})
    live.record.put(f"/accounts/{account_id}/limit", json={"overdraftLimit": None})
    live.deliver(live.post(account_id, "EXPENSE", 4))
    answer = live.balance.get("/transactions", params={"accountId": account_id})
    lines = answer.json()["transactions"]
    assert [(x["position"], x["balance"], x["type"]) for x in lines] == [
        (3, 6, "EXPENSE"),
        (1, 10, "INCOME"),
    ]
    assert (lines[1]["description"], lines[1]["metadata"]) == ("Salary", {"k": "v"})
    assert answer.json()["next"] is None


def test_pages_are_stable_under_concurrent_writes(live: Live) -> None:
    account_id = fresh()
    live.recorded(account_id, *range(1, 8))
    params = {"accountId": account_id, "limit": "3"}
    seen = []
    for _ in range(3):
        page = live.balance.get("/transactions", params=params).json()
        seen += [line["position"] for line in page["transactions"]]
        live.deliver(live.post(account_id))  # between any two pages
        params["cursor"] = page["next"]
    assert seen == [7, 6, 5, 4, 3, 2, 1]
    assert page["next"] is None


def test_statement_is_filtered(live: Live) -> None:
    account_id = fresh()
    live.post(account_id, value=1, description="Café da manhã", occurredAt="2026-01-01T00:00:00Z")
    live.deliver(live.post(account_id, "EXPENSE", 2, occurredAt="2026-02-01T00:00:00Z"))
    for query, positions in (
        ({"type": "EXPENSE"}, [2]),
        ({"text": "CAFÉ"}, [1]),
        ({"text": "%"}, []),
        ({"from": "2026-01-15T00:00:00Z"}, [2]),
        ({"before": "2026-02-01T00:00:00Z"}, [1]),
    ):
        answer = live.balance.get("/transactions", params={"accountId": account_id, **query})
        assert [line["position"] for line in answer.json()["transactions"]] == positions


@pytest.mark.parametrize(
    "query",
    [
        {"type": "DEBIT"},
        {"from": "1"},
        {"before": "x"},
        {"text": "x" * 101},
        {"text": "\0"},
        {"limit": "0"},
        {"cursor": "x"},
    ],
)
def test_malformed_filter_is_refused(live: Live, query: dict[str, str]) -> None:
    answer = live.balance.get("/transactions", params={"accountId": "a", **query})
    assert answer.status_code in {400, 404}
    account_id = fresh()
    live.recorded(account_id)
    answer = live.balance.get("/transactions", params={"accountId": account_id, **query})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == next(iter(query))


@pytest.mark.parametrize(
    "after", ["\ud800", "\0", "", {}, None, True, -1, 2**63, 1.5, "x" * 200, []]
)
def test_forged_cursor_is_refused(live: Live, after: object) -> None:
    content = json.dumps(["accounts", "", after]).encode()
    cursor = base64.urlsafe_b64encode(content).decode().rstrip("=")
    answer = live.balance.get("/accounts", params={"cursor": cursor})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "cursor"


def test_cursor_of_another_query_is_refused(live: Live) -> None:
    account_id = fresh()
    live.recorded(account_id, 1, 2)
    params = {"accountId": account_id, "limit": "1"}
    cursor = live.balance.get("/transactions", params=params).json()["next"]
    other = live.balance.get("/transactions", params=params | {"type": "INCOME", "cursor": cursor})
    assert other.status_code == 400


def test_accounts_are_listed_in_pages(live: Live) -> None:
    accounts = sorted(fresh("listed") for _ in range(3))
    for account_id in accounts:
        live.recorded(account_id)
    token = live.issuer.token(saldo_accounts=accounts)
    with live.client("get_balance", token) as client:
        first = client.get("/accounts", params={"limit": "2"}).json()
        last = client.get("/accounts", params={"limit": "2", "cursor": first["next"]}).json()
    assert [a["accountId"] for a in first["accounts"] + last["accounts"]] == accounts
    assert last["next"] is None


# --- stream -----------------------------------------------------------------------------------


def test_stream_sends_the_balance_and_its_changes(live: Live) -> None:
    account_id = fresh()
    live.recorded(account_id, 5)
    params = {"accountId": account_id}
    with live.balance.stream("GET", "/balances/stream", params=params) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        first = next(line for line in lines if line.startswith("data:"))
        live.deliver(live.post(account_id, value=6))
        second = next(line for line in lines if line.startswith("data:"))
    assert [json.loads(line[5:])["value"] for line in (first, second)] == [5, 11]


@pytest.mark.parametrize("last", ["first", "1", "2", "nonsense"])
def test_stream_is_resumed_after_the_last_event(live: Live, last: str) -> None:
    """What is no tag of the present state gets the present state."""
    account_id = fresh()
    first, second = live.recorded(account_id, 5, 6)
    headers = {"Last-Event-ID": etag_of(first).strip('"') if last == "first" else last}
    params = {"accountId": account_id}
    with live.balance.stream("GET", "/balances/stream", params=params, headers=headers) as stream:
        ids = next(line for line in stream.iter_lines() if line.startswith("id:"))
    assert ids == "id: " + etag_of(second).strip('"')


def test_stream_repeats_nothing_that_the_client_has_seen(live: Live) -> None:
    account_id = fresh()
    [seen] = live.recorded(account_id, 5)
    headers = {"Last-Event-ID": etag_of(seen).strip('"')}
    params = {"accountId": account_id}
    with live.balance.stream("GET", "/balances/stream", params=params, headers=headers) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:")
        further = live.post(account_id, value=6)
        live.deliver(further)
        ids = next(line for line in lines if line.startswith("id:"))
    assert ids == "id: " + etag_of(further).strip('"')
