"""The functions over HTTP, as the CLI's commands ask them."""

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
    """Where the functions are, and who asks."""

    record_url: str
    balance_url: str
    project_url: str
    token: str | None

    @staticmethod
    def from_environment() -> Functions:
        """RECORD_URL, BALANCE_URL, PROJECT_URL and SALDO_TOKEN; the local stack's by default."""
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
        """What get_balance answers; raises FunctionError."""
        answer = self._ask(
            "GET", self.balance_url + path, params=httpx.QueryParams(tuple(parameters))
        )
        return answer.json(), answer.headers

    def record(
        self, content: bytes, *, media_type: str = "application/json", **headers: str
    ) -> dict[str, Any]:
        """What record_transaction answers; raises FunctionError."""
        answer = self._ask(
            "POST",
            f"{self.record_url}/transactions",
            content=content,
            headers={"content-type": media_type, **headers},
        )
        recorded: dict[str, Any] = answer.json()
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
            answer = httpx.request(
                method,
                url,
                headers={**(headers or {}), **authorization},
                params=params,
                content=content,
                timeout=TIMEOUT_S,
            )
        except httpx.HTTPError as error:
            raise FunctionError(f"{url} cannot be reached: {error}") from error
        if not answer.is_success:
            raise FunctionError(f"{answer.status_code} {_problem(answer)}")
        return answer


def _problem(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        said = problem.get("detail") or problem["title"]
        fields = "; ".join(f"{e['field']} {e['message']}" for e in problem.get("errors", ()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.text[:200]
    return f"{said}" + (f" ({fields})" if fields and fields not in said else "")
