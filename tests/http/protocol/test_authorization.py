"""Authorization: no route gives access to another account.

The cases are compared with the route tables of the functions: a route without a case fails.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from saldo.serve.functions import RECORD
from tests.support import servers
from tests.support.live import SINK_SUBJECT, fresh, problem_type
from tests.support.route_tables import apps
from tests.support.servers import REQUEST_TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.live import Live

RECORDER, READER = "record_transaction", "get_balance"
WRITE, READ, ADMIN = "transactions:write", "balances:read", "accounts:admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to reach an account: ``{account}`` and ``{id}`` are filled in."""

    function: str
    method: str
    route: str
    scope: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    granted: int = 200
    # What another's token gets: 403 where the account is named, 404 where it would have to be told.
    foreign: int = 403

    def ask(self, client: httpx.Client, account: str, transaction_id: str) -> httpx.Response:
        """Do it for that account and transaction of it."""

        def filled(text: str) -> str:
            return text.replace("{account}", account).replace("{id}", transaction_id)

        content = None if self.body is None else filled(json.dumps(self.body))
        headers = {"content-type": "application/json"} if content else {}
        path = filled(self.path)
        return client.request(self.method, path, content=content, headers=headers | self.headers)


INCOME = {"accountId": "{account}", "type": "INCOME", "value": 1}
REQUESTED = {
    "specversion": "1.0",
    "id": "{id}-asked",
    "source": "/x",
    "type": "saldo.transaction.requested",
    "data": INCOME,
}
STRUCTURED = {"content-type": "application/cloudevents+json"}
NDJSON = {"content-type": "application/x-ndjson"}


def recorder(method: str, route: str, scope: str, **more: Any) -> Case:
    return Case(function=RECORDER, method=method, route=route, scope=scope, **more)


def reader(method: str, route: str, **more: Any) -> Case:
    return Case(function=READER, method=method, route=route, scope=READ, **more)


CASES = {
    "single": recorder(
        "POST", "/transactions", WRITE, path="/transactions", body=INCOME, granted=201
    ),
    "array": recorder(
        "POST", "/transactions", WRITE, path="/transactions", body=[INCOME], granted=201
    ),
    "bulk with one foreign line": recorder(
        "POST",
        "/transactions",
        WRITE,
        path="/transactions",
        body=[INCOME | {"accountId": "mine"}, INCOME],
        granted=201,
    ),
    "ndjson": recorder(
        "POST",
        "/transactions",
        WRITE,
        path="/transactions",
        body=INCOME,
        headers=NDJSON,
        granted=201,
    ),
    "cloud event": recorder(
        "POST", "/", WRITE, path="/", body=REQUESTED, headers=STRUCTURED, granted=201
    ),
    "root": recorder("POST", "/", WRITE, path="/", body=INCOME, granted=201),
    "transaction": recorder(
        "GET", "/transactions/{}", READ, path="/transactions/{id}", foreign=404
    ),
    "reversal": recorder(
        "POST",
        "/transactions/{}/reversal",
        WRITE,
        path="/transactions/{id}/reversal",
        granted=201,
        foreign=404,
    ),
    "erasure": recorder(
        "DELETE",
        "/transactions/{}/private",
        ADMIN,
        path="/transactions/{id}/private",
        granted=204,
        foreign=404,
    ),
    "set limit": recorder(
        "PUT",
        "/accounts/{}/limit",
        ADMIN,
        path="/accounts/{account}/limit",
        body={"overdraftLimit": None},
    ),
    "limit": recorder("GET", "/accounts/{}/limit", READ, path="/accounts/{account}/limit"),
    "events": recorder("GET", "/accounts/{}/events", READ, path="/accounts/{account}/events"),
    "balance": reader("GET", "/balances", path="/balances?accountId={account}"),
    "balance by its other name": reader("GET", "/balance", path="/balance?accountId={account}"),
    "balances with one foreign": reader(
        "GET", "/balances", path="/balances?accountId=mine&accountId={account}"
    ),
    "balance of the past": reader(
        "GET", "/balances", path="/balances?accountId={account}&position=1"
    ),
    "statement": reader("GET", "/transactions", path="/transactions?accountId={account}"),
    "daily": reader("GET", "/balances/daily", path="/balances/daily?accountId={account}"),
    "stream": reader("GET", "/balances/stream", path="/balances/stream?accountId={account}"),
    "balance asked by cloud event": reader(
        "POST",
        "/",
        path="/",
        body=REQUESTED | {"type": "saldo.balance.requested", "data": {"accountId": "{account}"}},
        headers=STRUCTURED,
    ),
}
# Routes without an account id: another test covers what they show of accounts.
WITHOUT_ACCOUNT = {(READER, "GET", "/accounts"), (READER, "GET", "/system")}
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_route_has_a_case() -> None:
    routes = {(app.name, route.method, route.path) for app in apps() for route in app.router.routes}
    assert routes == {(c.function, c.method, c.route) for c in CASES.values()} | WITHOUT_ACCOUNT


def ask(
    live: Live, case: Case, account: str, transaction_id: str, **claims: object
) -> httpx.Response:
    with live.client(case.function, live.issuer.token(**claims)) as client:
        if case.route.endswith("stream"):
            with client.stream("GET", case.path.replace("{account}", account)) as stream:
                if stream.status_code != 200:
                    stream.read()
                return stream
        return case.ask(client, account, transaction_id)


@EVERY_CASE
def test_token_reaches_its_own_account(live: Live, case: Case) -> None:
    account = fresh()
    live.recorded("mine")
    [recorded] = live.recorded(account)
    named = {"saldo_accounts": [account, "mine"]}
    answer = ask(live, case, account, recorded["id"], scope=case.scope, **named)
    assert answer.status_code == case.granted


@EVERY_CASE
def test_another_account_is_refused_alike_whether_it_exists(live: Live, case: Case) -> None:
    account = fresh()
    [recorded] = live.recorded(account, 50)
    before = live.record.get(f"/accounts/{account}/events").json()
    claims: dict[str, object] = {"saldo_accounts": ["mine"]}
    there = ask(live, case, account, recorded["id"], **claims)
    nowhere = ask(live, case, fresh(), "019ab3f2-7b1e-7c3a-9d55-0f6a3c1b2d4e", **claims)
    assert there.status_code == case.foreign
    assert (nowhere.status_code, nowhere.content) == (there.status_code, there.content)
    unchanging = {name: text for name, text in there.headers.items() if name != "date"}
    assert {name: nowhere.headers[name] for name in unchanging} == unchanging
    assert account not in there.text
    assert live.record.get(f"/accounts/{account}/events").json() == before


@EVERY_CASE
def test_token_without_the_claim_reaches_its_subject_only(live: Live, case: Case) -> None:
    account = fresh()
    [recorded] = live.recorded(account)
    answer = ask(live, case, account, recorded["id"], saldo_accounts=None, sub="mine")
    assert answer.status_code == case.foreign
    if "mine" not in case.path and "mine" not in json.dumps(case.body):
        own = ask(live, case, account, recorded["id"], saldo_accounts=None, sub=account)
        assert own.status_code == case.granted


@EVERY_CASE
def test_token_without_the_scope_is_refused(live: Live, case: Case) -> None:
    account = fresh()
    [recorded] = live.recorded(account)
    others = " ".join({WRITE, READ, ADMIN, "system:read"} - {case.scope})
    answer = ask(live, case, account, recorded["id"], scope=others)
    assert answer.status_code == 403
    assert problem_type(answer) == "forbidden"


@EVERY_CASE
@pytest.mark.parametrize("sent", [None, "x.y.z", "expired", "foreign audience"])
def test_request_without_a_valid_token_is_refused(live: Live, case: Case, sent: str | None) -> None:
    claims: dict[str, object] = {}
    if sent == "expired":
        claims = {"exp": 1}
    elif sent == "foreign audience":
        claims = {"aud": "other"}
    text = live.issuer.token(**claims) if claims else sent
    with live.client(case.function, text) as client:
        answer = case.ask(client, fresh(), "019ab3f2-7b1e-7c3a-9d55-0f6a3c1b2d4e")
    assert answer.status_code == 401
    assert problem_type(answer) == "unauthenticated"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_accounts_lists_only_those_of_the_token(live: Live) -> None:
    mine, other = fresh(), fresh()
    live.recorded(mine)
    live.recorded(other)
    for claims, shown in (
        ({"saldo_accounts": [mine]}, [mine]),
        ({"saldo_accounts": None, "sub": mine}, [mine]),
        ({"saldo_accounts": []}, []),
    ):
        with live.client(READER, live.issuer.token(**claims)) as client:
            accounts = client.get("/accounts").json()["accounts"]
        assert [account["accountId"] for account in accounts] == shown
    with live.client(READER, live.issuer.token(scope=WRITE)) as client:
        assert client.get("/accounts").status_code == 403


def test_system_status_needs_its_own_scope_only(live: Live) -> None:
    """It tells of no account, so a token for none may have it."""
    for token, status in (
        (live.issuer.token(scope="system:read", saldo_accounts=[]), 200),
        (live.issuer.token(scope=f"{READ} {WRITE} {ADMIN}"), 403),
        (live.issuer.token(aud="other"), 401),
        (None, 401),
    ):
        with live.client(READER, token) as client:
            assert client.get("/system").status_code == status


def test_projector_accepts_deliveries_from_its_source_only(live: Live) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "unknown"}
    for token, status in (
        (live.issuer.token(sub=SINK_SUBJECT), 400),
        (live.issuer.token(), 403),
        (live.issuer.token(sub=SINK_SUBJECT, aud="other"), 401),
        (None, 401),
    ):
        with live.client("project_balance", token) as client:
            assert client.post("/", content=b"{}", headers=headers).status_code == status


def test_openapi_and_probes_need_no_token(live: Live) -> None:
    for function in (RECORDER, READER):
        with live.client(function, None) as client:
            for path in ("/openapi.json", "/docs", "/readyz", "/livez"):
                assert client.get(path).status_code == 200
    with live.client(READER, None) as client:
        assert client.get("/console").status_code == 200


def test_issuer_and_subject_are_stored_as_private_data(live: Live) -> None:
    account = fresh()
    with live.client(RECORDER, live.issuer.token(sub="who-asked")) as client:
        event = json.loads(json.dumps(REQUESTED).replace("{account}", account))
        answer = client.post("/", json=event, headers=STRUCTURED)
    private = answer.json()["data"]["private"]
    assert (private["issuer"], private["subject"]) == ("https://issuer.test", "who-asked")


def test_unreachable_issuer_is_reported(live: Live, tmp_path: Path) -> None:
    settings = live.issuer.settings() | {"OIDC_JWKS_URL": "http://127.0.0.1:1/jwks.json"}
    served = servers.start_function(RECORD, live.database, tmp_path / "record.log", settings)
    try:
        headers = {"Authorization": f"Bearer {live.issuer.token()}"}
        for _ in range(2):
            answer = httpx.get(
                f"{served.url}/accounts/a/events", headers=headers, timeout=REQUEST_TIMEOUT_S
            )
            assert answer.status_code == 503
            assert problem_type(answer) == "issuer-unavailable"
            assert answer.headers["retry-after"] == "5"
    finally:
        served.child.kill()
