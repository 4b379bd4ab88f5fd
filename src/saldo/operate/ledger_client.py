"""The functions over HTTP, for the commands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import httpx

from saldo.operate.errors import CommandError
from saldo.serve.functions import BALANCE, RECORD, Function

TIMEOUT = httpx.Timeout(60.0, connect=5.0)


def url_of(function: Function) -> str:
    """Return the address of ``function``; the default is the local stack's."""
    url = os.environ.get(f"{function.prefix}_URL") or f"http://127.0.0.1:{function.port}"
    return url.rstrip("/")


def new_client(function: Function) -> httpx.Client:
    """Return a client of ``function``, with the bearer token SALDO_TOKEN if it is set."""
    token = os.environ.get("SALDO_TOKEN")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=url_of(function), headers=headers, timeout=TIMEOUT)


def get(path: str, parameters: Mapping[str, object]) -> tuple[dict[str, Any], httpx.Headers]:
    """Return the body and headers of get_balance's response; raise CommandError.

    A parameter that is None is left out.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    response = _send(BALANCE, "GET", path, params=given)
    return response.json(), response.headers


def record(
    content: bytes, *, media_type: str = "application/json", **headers: str
) -> dict[str, Any]:
    """Return the body of record_transaction's response; raise CommandError."""
    headers["content-type"] = media_type
    recorded: dict[str, Any] = _send(
        RECORD, "POST", "/transactions", content=content, headers=headers
    ).json()
    return recorded


def _send(function: Function, method: str, path: str, **request: Any) -> httpx.Response:
    try:
        with new_client(function) as client:
            response = client.request(method, path, **request)
    except httpx.HTTPError as error:
        raise CommandError(f"{url_of(function)}{path} cannot be reached: {error}") from error
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
