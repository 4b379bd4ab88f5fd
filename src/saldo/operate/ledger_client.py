"""The functions over HTTP, for the commands."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from saldo.operate.errors import FunctionError

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD_URL = "http://127.0.0.1:8080"
BALANCE_URL = "http://127.0.0.1:8081"
PROJECT_URL = "http://127.0.0.1:8082"
TIMEOUT_S = 60.0
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """The functions' addresses, and the token of the client."""

    record_url: str
    balance_url: str
    project_url: str
    token: str | None

    @staticmethod
    def from_environment() -> Functions:
        """Read RECORD_URL, BALANCE_URL, PROJECT_URL (default: the local stack) and SALDO_TOKEN."""
        env = os.environ
        return Functions(
            record_url=(env.get("RECORD_URL") or RECORD_URL).rstrip("/"),
            balance_url=(env.get("BALANCE_URL") or BALANCE_URL).rstrip("/"),
            project_url=(env.get("PROJECT_URL") or PROJECT_URL).rstrip("/"),
            token=env.get("SALDO_TOKEN") or None,
        )

    def get(
        self, path: str, parameters: list[tuple[str, str]]
    ) -> tuple[dict[str, Any], httpx.Headers]:
        """Return the body and headers of get_balance's response; raise FunctionError."""
        response = self._ask(
            "GET", self.balance_url + path, params=httpx.QueryParams(tuple(parameters))
        )
        return response.json(), response.headers

    def record(
        self, content: bytes, *, media_type: str = "application/json", **headers: str
    ) -> dict[str, Any]:
        """Return the body of record_transaction's response; raise FunctionError."""
        response = self._ask(
            "POST",
            f"{self.record_url}/transactions",
            content=content,
            headers={"content-type": media_type, **headers},
        )
        recorded: dict[str, Any] = response.json()
        return recorded

    def _ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: httpx.QueryParams | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        authorization = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        try:
            response = httpx.request(
                method,
                url,
                headers={**(headers or {}), **authorization},
                params=params,
                content=content,
                timeout=TIMEOUT_S,
            )
        except httpx.HTTPError as error:
            raise FunctionError(f"{url} cannot be reached: {error}") from error
        if not response.is_success:
            raise FunctionError(f"{response.status_code} {_problem(response)}")
        return response


def _problem(response: httpx.Response) -> str:
    try:
        problem = response.json()
        said = problem.get("detail") or problem["title"]
        fields = "; ".join(f"{e['field']} {e['message']}" for e in problem.get("errors", ()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.text[:200]
    return f"{said}" + (f" ({fields})" if fields and fields not in said else "")
