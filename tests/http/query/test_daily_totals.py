"""Daily totals: the numbers of the console's chart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.live import fresh, problem_type

if TYPE_CHECKING:
    from tests.support.live import Live

# Recorded in an order that is not that of time.
HAPPENED = (
    ("INCOME", "1000", "2026-03-01T09:00:00Z"),
    ("EXPENSE", "0.10", "2026-03-03T23:59:59.999999Z"),
    ("EXPENSE", "250.50", "2026-03-01T23:00:00-01:00"),
    ("INCOME", "0.20", "2026-03-03T00:00:00Z"),
)


def days(live: Live, account_id: str, **query: int) -> list[dict[str, Any]]:
    answer = live.balance.get("/balances/daily", params={"accountId": account_id, **query})
    assert answer.status_code == 200, answer.text
    assert answer.headers["saldo-behind"] == "0"
    told: list[dict[str, Any]] = answer.json()["days"]
    return told


@pytest.fixture
def account(live: Live) -> str:
    """Return an account in which all of HAPPENED is recorded and projected."""
    account_id = fresh()
    for kind, value, occurred_at in HAPPENED:
        last = live.post(account_id, kind, value, occurredAt=occurred_at)
    live.deliver(last)
    return account_id


def test_each_day_has_its_totals_and_closing_balance(live: Live, account: str) -> None:
    told = [
        (d["day"], d["income"], d["expense"], d["transactions"], d["balance"])
        for d in days(live, account)
    ]
    assert told == [
        ("2026-03-01", 1000, 0, 1, 1000),
        ("2026-03-02", 0, 250.5, 1, 749.5),
        ("2026-03-03", 0.2, 0.1, 2, 749.6),
    ]


def test_last_days_include_the_balance_before_them(live: Live, account: str) -> None:
    assert days(live, account, limit=2) == days(live, account)[1:]


def test_unknown_account_and_bad_limit_are_refused(live: Live, account: str) -> None:
    unknown = live.balance.get("/balances/daily", params={"accountId": fresh()})
    assert (unknown.status_code, problem_type(unknown)) == (404, "account-not-found")
    for limit in ("0", "1501", "ten"):
        query = {"accountId": account, "limit": limit}
        assert live.balance.get("/balances/daily", params=query).status_code == 400
