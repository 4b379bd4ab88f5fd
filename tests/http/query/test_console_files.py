"""The console's page and files over HTTP; tests/console tests what they do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx

from saldo.serve.functions import BALANCE
from tests.support.live import problem_type
from tests.support.servers import REQUEST_TIMEOUT_S

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.support.live import Live

RECORD_URL = "https://record.bank.example/transaction-service"
KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def files_of(page: str) -> set[str]:
    """Return the files that the page loads."""
    return set(re.findall(r'(?:src|href)="([^"#]+)"', page))


def test_page_and_its_files_are_served_for_any_root_path(live: Live) -> None:
    with live.client("get_balance", None) as client:
        for root in ("", "/balance-service"):
            page = client.get(f"{root}/console")
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            files = files_of(page.text)
            assert len(files) >= 2
            for file in files:
                answer = client.get(f"{root}/{file}")
                assert answer.status_code == 200, file
                kind = KINDS[file.rpartition(".")[2]]
                assert answer.headers["content-type"].partition(";")[0] == kind
                assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_module_that_a_module_imports_is_served(live: Live) -> None:
    with live.client("get_balance", None) as client:
        seen, ahead = set(), {"main.js"}
        while ahead:
            name = ahead.pop()
            seen.add(name)
            answer = client.get(f"/console/{name}")
            assert answer.status_code == 200, name
            ahead |= set(re.findall(r'from "\./([a-z]+\.js)"', answer.text)) - seen
        assert len(seen) > 5


def test_content_policy_allows_only_the_recorder(live: Live, serve: Serve) -> None:
    with live.client("get_balance", None) as client:
        policy = client.get("/console").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "connect-src 'self'; " in policy
    assert "unsafe" not in policy
    url = serve(BALANCE, CONSOLE_RECORD_URL=RECORD_URL).url
    told = httpx.get(f"{url}/console", timeout=REQUEST_TIMEOUT_S)
    policy = told.headers["content-security-policy"]
    assert "connect-src 'self' https://record.bank.example; " in policy
    assert f'content="{RECORD_URL}"' in told.text


def test_unchanged_file_is_not_sent_again(live: Live) -> None:
    with live.client("get_balance", None) as client:
        for path in ("/console", "/console/main.js"):
            first = client.get(path)
            assert first.headers["cache-control"] == "no-cache"
            again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert client.get(path, headers={"If-None-Match": '"x"'}).status_code == 200


def test_trailing_slash_redirects_to_the_page(live: Live) -> None:
    with live.client("get_balance", None) as client:
        answer = client.get("/balance-service/console/", follow_redirects=True)
    assert answer.url.path == "/balance-service/console"
    assert answer.status_code == 200


def test_nothing_else_of_the_package_is_served(live: Live) -> None:
    with live.client("get_balance", None) as client:
        for name in ("index.html", "handler.py", "..%2Fhandler.py", "%2e%2e", "x.js"):
            answer = client.get(f"/console/{name}")
            assert answer.status_code == 404, name
            assert problem_type(answer) == "not-found"
