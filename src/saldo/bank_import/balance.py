"""The account as get_balance shows it: its currency before an import, its balance after it."""

from __future__ import annotations

import time
from datetime import date

import httpx
import msgspec

from saldo.bank_import.amounts import parse_amount
from saldo.domain.money import CURRENCY_DIGITS
from saldo.operate.errors import CommandError

# How long the projector may take to bring the balance to the last imported line.
PROJECTED_WITHIN_S = 60.0
WAIT_A_REQUEST_S = 20


class _Balance(msgspec.Struct):
    value: msgspec.Raw
    currency: str


def account_currency(client: httpx.Client, account_id: str, *, wait_s: int = 0) -> str | None:
    """Return the account's currency, None for a new account; raise CommandError.

    Wait up to ``wait_s`` for the account's first transaction to be projected.
    """
    response = _get(client, wait_s, accountId=account_id, minPosition=1)
    if response.status_code == httpx.codes.NOT_FOUND:
        return None
    return _balance_in(response).currency


def effective_balance(client: httpx.Client, account_id: str, *, on: date, position: int) -> int:
    """Return the minor units at the end of the day ``on``, once ``position`` is projected.

    Raise CommandError.
    """
    deadline = time.monotonic() + PROJECTED_WITHIN_S
    while True:
        response = _get(client, WAIT_A_REQUEST_S, accountId=account_id, minPosition=position)
        behind = response.status_code == httpx.codes.SERVICE_UNAVAILABLE
        if not behind or time.monotonic() > deadline:
            break
    _balance_in(response)
    moment = f"{on.isoformat()}T23:59:59.999999Z"
    balance = _balance_in(_get(client, accountId=account_id, effectiveAt=moment))
    return parse_amount(bytes(balance.value).decode(), balance.currency, "point")


def _get(client: httpx.Client, wait_s: int = 0, **query: str | int) -> httpx.Response:
    headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
    try:
        return client.get("/balances", params=query, headers=headers)
    except httpx.TransportError as error:
        url = str(client.base_url).rstrip("/")
        raise CommandError(f"{url} does not respond ({type(error).__name__})") from error


def _balance_in(response: httpx.Response) -> _Balance:
    if response.status_code != httpx.codes.OK:
        raise CommandError(f"get_balance responds {response.status_code}")
    try:
        balance = msgspec.json.decode(response.content, type=_Balance)
    except msgspec.DecodeError as error:
        raise CommandError("get_balance responds without a balance") from error
    if balance.currency not in CURRENCY_DIGITS:
        raise CommandError(f"get_balance responds with the currency {balance.currency!r}")
    return balance
