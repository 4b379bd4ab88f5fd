"""The functions over HTTP, for the commands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from saldo.operate.errors import CommandError
from saldo.serve.functions import BALANCE, RECORD, Function

TIMEOUT_S = 60.0


def url_of(function: Function) -> str:
    """Return the address of ``function``; the default is the local stack's."""
    url = os.environ.get(f"{function.prefix}_URL") or f"http://127.0.0.1:{function.port}"
    return url.rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """The addresses of record_transaction and get_balance, and the client's token."""

    record_url: str = field(default_factory=lambda: url_of(RECORD))
    balance_url: str = field(default_factory=lambda: url_of(BALANCE))
    token: str | None = field(default_factory=lambda: os.environ.get("SALDO_TOKEN") or None)

    def get(
        self, path: str, parameters: Mapping[str, object]
    ) -> tuple[dict[str, Any], httpx.Headers]:
        """Return the body and headers of get_balance's response; raise CommandError.

        A parameter that is None is left out.
        """
        given = {name: value for name, value in parameters.items() if value is not None}
        response = self._send("GET", self.balance_url + path, params=given)
        return response.json(), response.headers

    def record(
        self, content: bytes, *, media_type: str = "application/json", **headers: str
    ) -> dict[str, Any]:
        """Return the body of record_transaction's response; raise CommandError."""
        headers["content-type"] = media_type
        url = f"{self.record_url}/transactions"
        recorded: dict[str, Any] = self._send("POST", url, content=content, headers=headers).json()
        return recorded

    def _send(self, method: str, url: str, **request: Any) -> httpx.Response:
        if self.token is not None:
            authorization = {"authorization": f"Bearer {self.token}"}
            request["headers"] = {**request.get("headers", {}), **authorization}
        try:
            response = httpx.request(method, url, timeout=TIMEOUT_S, **request)
        except httpx.HTTPError as error:
            raise CommandError(f"{url} cannot be reached: {error}") from error
        if not response.is_success:
            raise CommandError(f"{response.status_code} {_problem(response)}")
        return response


def _problem(response: httpx.Response) -> str:
    try:
        problem = response.json()
        said = problem.get("detail") or problem["title"]
        fields = "; ".join(f"{e['field']} {e['message']}" for e in problem.get("errors", ()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.text[:200]
    return f"{said}" + (f" ({fields})" if fields and fields not in said else "")
