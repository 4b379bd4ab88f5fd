"""The account as get_balance shows it: its currency before an import, its balance after it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import msgspec

from saldo.bank_import.amounts import parse_amount
from saldo.bank_import.errors import BalanceUnknownError
from saldo.domain.money import CURRENCY_DIGITS

if TYPE_CHECKING:
    from datetime import date

# How long the projector may take to bring the balance to the last imported line.
PROJECTED_WITHIN_S = 60.0
WAIT_A_REQUEST_S = 20
FOUND = 200
NOT_FOUND = 404
BEHIND = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The statement's closing balance beside Saldo's at the end of that day, in minor units."""

    on: date
    statement_minor: int
    saldo_minor: int

    @property
    def difference_minor(self) -> int:
        """Return what Saldo has more than the statement."""
        return self.saldo_minor - self.statement_minor


class _Balance(msgspec.Struct):
    value: msgspec.Raw
    currency: str


async def account_currency(
    client: httpx.AsyncClient, url: str, account_id: str, *, wait_s: int = 0
) -> str | None:
    """Return the account's currency, None for a new account; raise BalanceUnknownError.

    Wait up to ``wait_s`` for the account's first transaction to be projected.
    """
    query = {"accountId": account_id, "minPosition": "1"}
    response = await _get(client, url, query, wait_s=wait_s)
    if response.status_code == NOT_FOUND:
        return None
    return _balance_in(response).currency


async def effective_balance(
    client: httpx.AsyncClient, url: str, account_id: str, *, on: date, position: int
) -> int:
    """Return the minor units at the end of the day ``on``, once ``position`` is projected.

    Raise BalanceUnknownError.
    """
    deadline = time.monotonic() + PROJECTED_WITHIN_S
    while True:
        response = await _get(
            client,
            url,
            {"accountId": account_id, "minPosition": str(position)},
            wait_s=WAIT_A_REQUEST_S,
        )
        if response.status_code != BEHIND or time.monotonic() > deadline:
            break
    _balance_in(response)
    moment = f"{on.isoformat()}T23:59:59.999999Z"
    response = await _get(client, url, {"accountId": account_id, "effectiveAt": moment})
    balance = _balance_in(response)
    return parse_amount(bytes(balance.value).decode(), balance.currency, "point")


async def _get(
    client: httpx.AsyncClient, url: str, query: dict[str, str], *, wait_s: int = 0
) -> httpx.Response:
    headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
    try:
        return await client.get(f"{url}/balances", params=query, headers=headers)
    except httpx.TransportError as error:
        raise BalanceUnknownError(f"{url} does not answer ({type(error).__name__})") from error


def _balance_in(response: httpx.Response) -> _Balance:
    if response.status_code != FOUND:
        raise BalanceUnknownError(f"get_balance answers {response.status_code}")
    try:
        balance = msgspec.json.decode(response.content, type=_Balance)
    except msgspec.DecodeError as error:
        raise BalanceUnknownError("get_balance answers something else than a balance") from error
    if balance.currency not in CURRENCY_DIGITS:
        raise BalanceUnknownError(f"get_balance answers the currency {balance.currency!r}")
    return balance
