"""The rules in `saldo verify`: it finds events that should have been refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from msgspec.structs import replace

from saldo.domain.commands import Kind
from saldo.domain.events import TransactionRecorded
from tests.support.controls import BRL, expense, income, limit, reversal
from tests.support.stored import append_forged, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from tests.support.servers import Database
    from tests.support.stored import Ledger

ANA = "ana"
REFUSED = "event.public_text: it must have been refused: "
LOST = "UPDATE event_store.event SET private_text = NULL, erased_at = $1 WHERE position = 1"


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    """Yield a ledger and check afterwards that every chain is intact."""
    async with opened(database) as ledger:
        yield ledger


def transaction(
    kind: Kind, amount_minor: int, *, reverses: UUID | None = None, currency: str = BRL
) -> TransactionRecorded:
    """Return a transaction of ana's that may break any rule."""
    now = datetime.now(UTC)
    return TransactionRecorded(
        account_id=ANA,
        position=0,
        event_id=uuid4(),
        kind=kind,
        amount_minor=amount_minor,
        currency=currency,
        occurred_at=now,
        recorded_at=now,
        reverses=reverses,
        private_hash="",
    )


async def findings(ledger: Ledger) -> list[str]:
    """Verify, and return the findings without their account."""
    return [fault.text().removeprefix(f"{ANA} ") for fault in (await ledger.verify()).faults]


async def test_an_expense_beyond_the_limit_is_found(ledger: Ledger) -> None:
    await ledger.record(limit("5", ANA), income("1", ANA))
    await append_forged(ledger, transaction(Kind.EXPENSE, 601))
    said = "The expense would take the balance of 1 BRL at position 2 below the overdraft limit"
    assert await findings(ledger) == [f"position 3: {REFUSED}{said} of 5 BRL."]


async def test_a_reversal_beyond_the_limit_is_found(ledger: Ledger) -> None:
    [_, earned, _] = await ledger.record(limit("0", ANA), income("5", ANA), expense("5", ANA))
    await append_forged(ledger, transaction(Kind.EXPENSE, 500, reverses=earned.event_id))
    assert [each.split(": ")[1] for each in await findings(ledger)] == ["event.public_text"]


async def test_an_expense_is_judged_by_the_limit_at_its_time(ledger: Ledger) -> None:
    """Neither a limit that is set later nor the day of an income changes what was decided."""
    later = datetime.now(UTC) + timedelta(days=30)
    await ledger.record(expense("7", ANA), limit("0", ANA))
    await ledger.record(income("10", ANA, occurred_at=later), expense("3", ANA))
    assert await findings(ledger) == []


async def test_the_findings_of_an_account_are_bounded(ledger: Ledger) -> None:
    await ledger.record(limit("0", ANA))
    for _ in range(7):
        await append_forged(ledger, transaction(Kind.EXPENSE, 1))
    assert [each.split(":")[0] for each in await findings(ledger)] == [
        f"position {position}" for position in range(2, 7)
    ]


async def test_a_reversal_of_another_amount_is_found(ledger: Ledger) -> None:
    [spent] = await ledger.record(expense("10", ANA))
    await append_forged(ledger, transaction(Kind.INCOME, 999, reverses=spent.event_id))
    assert await findings(ledger) == [
        "position 2: event.public_text: amount_minor is 999, the rules come to 1000"
    ]


async def test_a_reversal_of_the_same_kind_is_found(ledger: Ledger) -> None:
    [spent] = await ledger.record(expense("10", ANA))
    await append_forged(ledger, transaction(Kind.EXPENSE, 1000, reverses=spent.event_id))
    assert await findings(ledger) == [
        "position 2: event.public_text: kind is EXPENSE, the rules come to INCOME"
    ]


async def test_a_reversal_of_a_reversal_is_found(ledger: Ledger) -> None:
    [spent] = await ledger.record(expense("10", ANA))
    [undone] = await ledger.record(reversal(spent, Kind.EXPENSE, 1000))
    await append_forged(ledger, transaction(Kind.EXPENSE, 1000, reverses=undone.event_id))
    [finding] = await findings(ledger)
    assert finding.startswith(f"position 3: {REFUSED}The event cannot be reversed")


async def test_a_second_reversal_is_found(ledger: Ledger) -> None:
    await ledger.pool.execute("DROP INDEX event_store.event_reversed_once")
    [spent] = await ledger.record(expense("10", ANA))
    [undone] = await ledger.record(reversal(spent, Kind.EXPENSE, 1000))
    await append_forged(ledger, transaction(Kind.INCOME, 1000, reverses=spent.event_id))
    said = f"The transaction has already been reversed, by {undone.event_id}."
    assert await findings(ledger) == [f"position 3: {REFUSED}{said}"]


@pytest.mark.parametrize("original", ["of another account", "a limit", "nowhere"])
async def test_a_reversal_of_no_transaction_is_found(ledger: Ledger, original: str) -> None:
    [foreign] = await ledger.record(expense("10", "bruno"))
    [not_money] = await ledger.record(limit("5", ANA))
    ids = {"of another account": foreign.event_id, "a limit": not_money.event_id}
    reverses = ids.get(original, uuid4())
    await append_forged(ledger, transaction(Kind.INCOME, 1000, reverses=reverses))
    assert await findings(ledger) == [
        "position 2: event.reverses: it reverses no earlier transaction of the account"
    ]


async def test_another_currency_is_found(ledger: Ledger) -> None:
    await ledger.record(income("10", ANA))
    await append_forged(ledger, transaction(Kind.INCOME, 10, currency="JPY"))
    assert await findings(ledger) == ["position 2: event.public_text: the currency changes"]


async def test_every_kind_of_event_is_decided_the_same_way_again(ledger: Ledger) -> None:
    [_, spent, _] = await ledger.record(limit("500", ANA), expense("10.50", ANA), income("3", ANA))
    await ledger.record(reversal(spent, Kind.EXPENSE, 1050))
    await ledger.record(limit(None, ANA), expense("900", ANA))
    assert await findings(ledger) == []


@pytest.mark.parametrize("ago", [timedelta(0), timedelta(days=400)])
async def test_a_private_text_destroyed_by_hand_is_found(ledger: Ledger, ago: timedelta) -> None:
    """It is found for any time that its erasure claims."""
    await ledger.record(income("1", ANA, description="secret"))
    await ledger.pool.execute(LOST, datetime.now(UTC) - ago)
    assert await findings(ledger) == [
        "position 1: event.erased_at: the private part is gone, and no erasure was traced"
    ]


async def test_an_erasure_leaves_one_trace(ledger: Ledger) -> None:
    await ledger.record(income("1", ANA, description="secret"))
    await ledger.erase(ANA, 1)
    [row] = await ledger.pool.fetch("SELECT * FROM event_store.erasure")
    await ledger.erase(ANA, 1)
    assert await ledger.pool.fetch("SELECT * FROM event_store.erasure") == [row]
    assert await findings(ledger) == []


async def test_an_erasure_trace_with_its_text_left_is_found(ledger: Ledger) -> None:
    await ledger.record(income("1", ANA, description="secret"))
    await ledger.pool.execute("INSERT INTO event_store.erasure VALUES ('ana', 1)")
    assert await findings(ledger) == [
        "position 1: erasure.position: the private part is still there"
    ]


@pytest.mark.parametrize(("minutes", "kind"), [(59, "wrong"), (-59, "clock")])
async def test_an_appended_at_moved_by_an_hour_is_found(
    ledger: Ledger, minutes: int, kind: str
) -> None:
    """A stamp that was moved back looks as if a clock had been wrong, and is named as that."""
    await ledger.record(income("1", ANA))
    await ledger.pool.execute("DELETE FROM event_store.outbox")
    await ledger.pool.execute(
        "UPDATE event_store.event SET appended_at = appended_at + $1", timedelta(minutes=minutes)
    )
    report = await ledger.verify()
    [finding] = report.faults + report.clock
    assert finding.kind == kind
    assert finding.text().startswith("ana position 1: event.appended_at: ")


async def test_a_held_recorded_time_is_no_finding(ledger: Ledger) -> None:
    """After a clock was ahead, the account's recorded time stays until the clock comes by."""
    await ledger.record(income("1", ANA), income("1", ANA))
    ahead = datetime.now(UTC) + timedelta(hours=3)
    for _ in range(2):
        await append_forged(ledger, replace(transaction(Kind.INCOME, 1), recorded_at=ahead))
    report = await ledger.verify()
    assert report.faults == []
    [named] = report.clock
    assert (named.account_id, named.position) == (ANA, 3)
    assert "recordedAt of 2 events from here on" in named.reason


async def test_a_malformed_traceparent_is_found(ledger: Ledger) -> None:
    await ledger.record(income("1", ANA))
    await ledger.pool.execute("UPDATE event_store.outbox SET traceparent = '00-x'")
    assert await findings(ledger) == ["position 1: outbox.traceparent: it is no trace context"]
