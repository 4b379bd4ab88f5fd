"""Projection on a real PostgreSQL: the read model becomes correct whatever Kafka does."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest
from cloudevents.http import CloudEvent

from saldo.domain.commands import Kind
from saldo.domain.events import SCHEMA_NEWEST, chain_hash, genesis_hash
from saldo.project import lag_sweep as sweep
from saldo.project.catch_up import CATCH_UP_EVENTS_MAX
from saldo.project.deliveries import of_cloud_event
from saldo.project.errors import BadDelivery, BeyondStore, GivenUp, ReadModelUnavailable
from saldo.project.postgres import ERASED_PAGE
from saldo.record.cloud_events import attributes_of
from tests.support.controls import ACCOUNT, expense, income, limit, reversal
from tests.support.sides import (
    CUT,
    Connection,
    Reader,
    Writer,
    check_read_model,
    is_projected,
    projector_on,
    reader_on,
)

if TYPE_CHECKING:
    from saldo.project.deliveries import Delivery
    from saldo.project.projector import Projector
    from saldo.record.intent import StoredEvent
    from tests.support.servers import Database

POISON = "UPDATE event_store.event SET hash = '\\x00' WHERE account_id = $1 AND position = $2"
DEAD_LETTERS = "SELECT account_id, position, event_id, reason FROM read_model.dead_letter"


def delivery(stored: StoredEvent, **attributes: str) -> Delivery:
    """Return the delivery of an event by KafkaSource; attributes may be forged."""
    data = {"event": {"amountMinor": 999_999}, "private": {"description": "forged"}}
    return of_cloud_event(CloudEvent(attributes_of(stored, None) | attributes, data))


def erased_by(stored: StoredEvent) -> Delivery:
    """Return a delivery that says that the private text was erased."""
    data = {"event": {"a": 1}, "private": None}
    return of_cloud_event(CloudEvent(attributes_of(stored, None), data))


def made_up(account_id: str, position: int, at: datetime) -> Delivery:
    """Return a delivery of an event that no store ever held."""
    event = CloudEvent(
        {
            "type": "saldo.transaction.recorded",
            "source": "/saldo/transactions",
            "id": "made-up",
            "subject": account_id,
            "sequence": str(position),
            "time": at.isoformat(),
        },
        {"event": {}, "private": {}},
    )
    return of_cloud_event(event)


# --- deliveries -------------------------------------------------------------------------------


LOCK_NOW = "SELECT FROM read_model.balance WHERE account_id = $1 FOR UPDATE NOWAIT"


async def test_one_delivery_catches_up_the_whole_account(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    """Even the first one, delivered last or alone: the rest may be lost for good."""
    stored = await writer.record(income("1"), expense("2"), limit("5"), income("3"))
    await projector.take(delivery(stored[0]))
    await check_read_model(superuser)


async def test_duplicates_and_any_order_give_the_same_balance(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    stored = await writer.record(
        *[(income if n % 3 else expense)(f"{n}.25", f"a{n % 7}") for n in range(1, 80)]
    )
    deliveries = [delivery(event) for event in stored] * 2
    random.Random(1).shuffle(deliveries)
    await asyncio.gather(*(projector.take(each) for each in deliveries))
    await check_read_model(superuser)
    assert projector.projected == len(stored)


async def test_two_projectors_apply_each_event_once(
    database: Database, writer: Writer, projector: Projector, superuser: Connection
) -> None:
    stored = await writer.record(*[income("1", f"a{n % 5}") for n in range(100)])
    async with projector_on(database.dsn("saldo_project")) as other:
        await asyncio.gather(
            *(side.take(delivery(event)) for event in stored for side in (projector, other))
        )
        assert projector.projected + other.projected == len(stored)
    await check_read_model(superuser)


async def test_a_balance_is_locked_while_it_is_folded(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    """So another projector waits, and folds from what this one wrote."""
    await projector.take(delivery((await writer.record(income("1")))[0]))
    async with projector.databases.begin() as folding:
        assert (await folding.lock([ACCOUNT]))[0].position == 1
        with pytest.raises(asyncpg.LockNotAvailableError):
            await superuser.execute(LOCK_NOW, ACCOUNT)
    await superuser.execute(LOCK_NOW, ACCOUNT)


async def test_lost_records_are_caught_up_by_the_next_event(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    await writer.record(income("1"), income("2"))
    stored = await writer.record(income("3"))
    await projector.take(delivery(stored[0]))
    await check_read_model(superuser)


async def test_the_memory_of_an_account_hides_no_later_event(
    writer: Writer, projector: Projector, reader: Reader
) -> None:
    for number in range(1, 4):
        [stored] = await writer.record(income("1"))
        await projector.take(delivery(stored))
        assert await reader.balance(ACCOUNT) == (number, number * 100)


async def test_daily_totals_use_the_utc_day_of_occurrence(
    writer: Writer, reader: Reader, superuser: Connection
) -> None:
    evening = datetime(2026, 11, 24, 23, 59, tzinfo=UTC)
    await writer.record(
        income("5", occurred_at=evening),
        expense("1", occurred_at=evening + timedelta(minutes=2)),
        expense("2", occurred_at=evening + timedelta(minutes=3)),
        limit("9"),
    )
    await reader.catch_up(ACCOUNT)
    rows = await superuser.fetch(
        "SELECT day, income_minor, expense_minor, transactions FROM read_model.daily_total"
    )
    assert sorted(tuple(row) for row in rows) == [
        (date(2026, 11, 24), 500, 0, 1),
        (date(2026, 11, 25), 0, 300, 2),
    ]


async def test_daily_totals_add_up_over_several_rounds(
    writer: Writer, reader: Reader, superuser: Connection
) -> None:
    for command in (income("1"), expense("2"), income("4")):
        await writer.record(command)
        await reader.catch_up(ACCOUNT)
    row = await superuser.fetchrow(
        "SELECT income_minor, expense_minor, transactions FROM read_model.daily_total"
    )
    assert row is not None
    assert tuple(row) == (500, 200, 3)


async def test_the_amount_in_a_record_is_not_trusted(
    writer: Writer, projector: Projector, reader: Reader
) -> None:
    stored = await writer.record(income("1"))
    await projector.take(delivery(stored[0], id="another", source="/elsewhere"))
    assert await reader.balance(ACCOUNT) == (1, 100)


async def test_a_forged_record_changes_nothing(projector: Projector, superuser: Connection) -> None:
    with pytest.raises(BeyondStore):
        await projector.take(made_up("nobody", 1, datetime.now(UTC)))
    assert await superuser.fetchval("SELECT count(*) FROM read_model.balance") == 0


async def test_an_event_beyond_the_store_is_retried_then_given_up(
    writer: Writer, projector: Projector, reader: Reader
) -> None:
    await writer.record(income("1"))
    now = datetime.now(UTC)
    with pytest.raises(BeyondStore):
        await projector.take(made_up(ACCOUNT, 2, now - timedelta(minutes=4, seconds=50)))
    with pytest.raises(GivenUp):
        await projector.take(made_up(ACCOUNT, 2, now - timedelta(minutes=5, seconds=10)))
    assert await reader.balance(ACCOUNT) == (1, 100)
    await writer.record(income("1"))
    await projector.take(made_up(ACCOUNT, 2, now))
    assert await reader.balance(ACCOUNT) == (2, 200)


NOT_OURS = [
    *({"subject": wrong} for wrong in ("-", "")),
    *({"sequence": wrong} for wrong in ("x", "-1", "", "9" * 19, "1.0")),
    {"type": "other"},
]


async def test_foreign_events_go_to_the_dead_letters(writer: Writer, projector: Projector) -> None:
    stored = await writer.record(income("1"))
    for attributes in NOT_OURS:
        with pytest.raises(BadDelivery):
            await projector.take(delivery(stored[0], **attributes))


async def test_a_dead_letter_is_parked_once_without_its_private_part(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    stored = await writer.record(income("1"))
    dead = delivery(
        stored[0], knativeerrordest="http://x", knativeerrorcode="422", knativeerrordata="Z29uZQ=="
    )
    for _ in range(2):
        await projector.take(dead)
    [row] = await superuser.fetch("SELECT *, data AS text FROM read_model.dead_letter")
    assert (row["account_id"], row["position"]) == (ACCOUNT, 1)
    assert (row["event_id"], row["reason"]) == (str(stored[0].event_id), "422 gone")
    assert "forged" not in row["text"] + row["attributes"]
    assert await superuser.fetchval("SELECT count(*) FROM read_model.balance") == 0


# --- many events ------------------------------------------------------------------------------


async def test_one_delivery_drains_a_hot_accounts_backlog(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    """It is more than one round may read; the deliveries behind it are answered from memory."""
    stored = await writer.record(*[income("1")] * (CATCH_UP_EVENTS_MAX * 2 + 300))
    await projector.take(delivery(stored[-1]))
    assert await is_projected(superuser)
    await projector.take(delivery(stored[0]))
    assert projector.duplicates == 1
    await check_read_model(superuser)


async def test_a_round_is_bounded_and_reports_a_remainder(writer: Writer, reader: Reader) -> None:
    await writer.record(*[income("1")] * (CATCH_UP_EVENTS_MAX + 5))
    [first] = await reader.catch_up(ACCOUNT)
    [second] = await reader.catch_up(ACCOUNT)
    assert (first.position, first.more) == (CATCH_UP_EVENTS_MAX, True)
    assert (second.position, second.more) == (CATCH_UP_EVENTS_MAX + 5, False)


async def test_accounts_of_one_round_are_independent(
    writer: Writer, reader: Reader, superuser: Connection
) -> None:
    await writer.record(*[income(f"{n + 1}", f"a{n % 40}") for n in range(400)])
    caught_up = await reader.catch_up(*(f"a{n}" for n in range(40)), "nobody")
    assert [each.position for each in caught_up] == [10] * 40 + [0]
    await check_read_model(superuser)


# --- what cannot be projected -----------------------------------------------------------------


async def test_a_broken_chain_suspends_one_account_only(
    writer: Writer, projector: Projector, reader: Reader, superuser: Connection
) -> None:
    stored = await writer.record(income("1"), income("2"), income("3"), income("7", "other"))
    await superuser.execute(POISON, ACCOUNT, 2)
    for event in stored:
        await projector.take(delivery(event))
    assert await reader.balance(ACCOUNT) == (1, 100)
    assert await reader.balance("other") == (1, 700)
    row = await superuser.fetchrow(
        "SELECT blocked_at, blocked_reason, blocked_schema FROM read_model.balance"
        " WHERE account_id = $1",
        ACCOUNT,
    )
    assert row is not None
    assert row["blocked_at"] is not None
    [dead] = await superuser.fetch(DEAD_LETTERS)
    assert tuple(dead) == (ACCOUNT, 2, str(stored[1].event_id), row["blocked_reason"])
    assert row["blocked_schema"] == SCHEMA_NEWEST


async def test_a_newer_projector_clears_the_block_and_catches_up(
    writer: Writer, reader: Reader, superuser: Connection
) -> None:
    """An event of a newer schema stops the old projector; the new one goes on by itself."""
    await writer.record(income("1"), income("2"))
    text = await superuser.fetchval("SELECT public_text FROM event_store.event WHERE position = 2")
    first = await superuser.fetchval("SELECT hash FROM event_store.event WHERE position = 1")
    newer = text.replace(f'"schema":{SCHEMA_NEWEST}', '"schema":99')
    change = "UPDATE event_store.event SET public_text = $1, hash = $2 WHERE position = 2"
    await superuser.execute(change, newer, chain_hash(first, newer))
    [blocked] = await reader.catch_up(ACCOUNT)
    assert (blocked.blocked, blocked.position) == (True, 1)
    await superuser.execute(change, text, chain_hash(first, text))
    [still] = await reader.catch_up(ACCOUNT)
    assert (still.blocked, still.position) == (True, 1)
    # This projector's newest schema is newer than that of the one which gave up.
    await superuser.execute("UPDATE read_model.balance SET blocked_schema = blocked_schema - 1")
    [cleared] = await reader.catch_up(ACCOUNT)
    assert (cleared.blocked, cleared.position) == (False, 2)
    row = await superuser.fetchrow("SELECT blocked_at, blocked_reason FROM read_model.balance")
    assert row is not None
    assert tuple(row) == (None, None)


async def test_an_unprojectable_first_event_blocks_at_zero(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    stored = await writer.record(income("1"))
    await superuser.execute(POISON, ACCOUNT, 1)
    for _ in range(2):
        await projector.take(delivery(stored[0]))
    row = await superuser.fetchrow("SELECT position, hash, blocked_reason FROM read_model.balance")
    assert row is not None
    assert (row["position"], row["hash"]) == (0, genesis_hash(ACCOUNT))
    assert row["blocked_reason"]


# --- a restored event store -------------------------------------------------------------------


@pytest.mark.parametrize("further", [0, 1, 2, 5])
async def test_a_restored_account_is_folded_from_its_start(
    further: int, writer: Writer, reader: Reader, superuser: Connection
) -> None:
    """The store is back at position 3 of 5, and has gone on otherwise since, or not yet."""
    stored = await writer.record(*[income(f"{n}") for n in range(1, 6)], income("9", "other"))
    await reader.catch_up(ACCOUNT, "other")
    await superuser.execute(CUT, ACCOUNT, 3)
    await writer.record(*[expense(f"{n}") for n in range(1, further + 1)])
    [caught_up] = await reader.catch_up(ACCOUNT)
    assert (caught_up.refolded, caught_up.position) == (True, 3 + further)
    await check_read_model(superuser)
    assert stored


async def test_the_sweep_finds_a_diverged_account(
    writer: Writer, projector: Projector, reader: Reader, superuser: Connection
) -> None:
    await writer.record(*[income("1")] * 5)
    await projector.sweep()
    await superuser.execute(CUT, ACCOUNT, 3)
    assert await projector.sweep() == 1
    assert await reader.balance(ACCOUNT) == (3, 300)
    assert projector.refolded == 1
    await check_read_model(superuser)


@pytest.mark.parametrize("page_events", [1_000, 2])
async def test_the_sweep_finds_another_event_at_the_same_position(  # noqa: PLR0913 - both sides, and fixtures
    page_events: int,
    writer: Writer,
    projector: Projector,
    reader: Reader,
    superuser: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On whichever page of the walk the event is."""
    monkeypatch.setattr("saldo.project.lag_sweep.PAGE_EVENTS", page_events)
    await writer.record(*[income("1")] * 3, *[income("1", "other")] * 4)
    await projector.sweep()
    await superuser.execute(CUT, ACCOUNT, 2)
    [event] = await writer.record(income("8"))
    assert event.position == 3
    await writer.record(*[income("1", "other")] * 4)
    await reader.catch_up("other")
    assert await projector.sweep() == 1
    assert await reader.balance(ACCOUNT) == (3, 1000)
    await check_read_model(superuser)


async def test_the_memory_of_a_lost_event_hides_no_new_one(
    writer: Writer, projector: Projector, reader: Reader, superuser: Connection
) -> None:
    """The delivery of another event at a known position is no duplicate."""
    stored = await writer.record(*[income("1")] * 3)
    await projector.take(delivery(stored[-1]))
    await superuser.execute(CUT, ACCOUNT, 1)
    [event] = await writer.record(income("8"))
    await projector.take(delivery(event))
    assert await reader.balance(ACCOUNT) == (2, 900)
    assert (projector.duplicates, projector.refolded) == (0, 1)
    await projector.take(delivery(event))
    assert projector.duplicates == 1


# --- reversals and erasure --------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
async def test_a_reversed_line_names_its_reversal(
    together: bool,
    writer: Writer,
    reader: Reader,
    superuser: Connection,
) -> None:
    [original] = await writer.record(income("5"))
    if not together:
        await reader.catch_up(ACCOUNT)
    [undone] = await writer.record(reversal(original, Kind.INCOME, 500))
    await reader.catch_up(ACCOUNT)
    rows = await superuser.fetch(
        "SELECT reverses, reversed_by FROM read_model.statement ORDER BY position"
    )
    assert [tuple(row) for row in rows] == [(None, undone.event_id), (original.event_id, None)]


WORDS = "SELECT description, metadata FROM read_model.statement ORDER BY position"


async def test_an_erasure_clears_the_statement_and_keeps_the_chain(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    stored = await writer.record(income("1", description="rent", metadata={"a": "b"}), income("2"))
    await projector.take(delivery(stored[1]))
    await writer.events.erase_private(ACCOUNT, 1)
    # Its record comes once more, now without the private part.
    await projector.take(erased_by(stored[0]))
    assert [tuple(row) for row in await superuser.fetch(WORDS)] == [(None, None)] * 2
    await check_read_model(superuser)
    row = await superuser.fetchrow(
        "SELECT private_text, erased_at FROM event_store.event WHERE position = 1"
    )
    assert row is not None
    assert (row["private_text"], row["erased_at"] is not None) == (None, True)


async def test_the_sweep_erases_a_copy_whose_record_was_lost(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    await writer.record(income("1", description="rent"))
    await projector.sweep()
    await writer.events.erase_private(ACCOUNT, 1)
    await projector.sweep()
    assert [tuple(row) for row in await superuser.fetch(WORDS)] == [(None, None)]


async def test_every_copy_is_erased_when_thousands_of_records_are_lost(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    """More than one page at one moment, and the lag sweep has gone far ahead since."""
    accounts = [f"a{n}" for n in range(ERASED_PAGE + 100)]
    for start in range(0, len(accounts), 1_000):
        some = accounts[start : start + 1_000]
        await writer.record(*[income("1", each, description="rent") for each in some])
    await projector.sweep()
    await superuser.execute("UPDATE event_store.event SET private_text = NULL, erased_at = now()")
    await superuser.execute(
        "UPDATE read_model.sweep SET watermark = now() + interval '5 minutes'"
        " WHERE name = 'lagging'"
    )
    await projector.sweep()
    kept = "SELECT count(*) FROM read_model.statement WHERE description IS NOT NULL"
    assert await superuser.fetchval(kept) == 0


async def test_an_erasure_stamped_in_the_future_hides_no_later_one(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    await writer.record(*[income("1", each, description="rent") for each in ("a", "b")])
    await projector.sweep()
    await superuser.execute(
        "UPDATE event_store.event SET private_text = NULL, erased_at = 'infinity'"
        " WHERE account_id = 'a'"
    )
    await projector.sweep()
    await writer.events.erase_private("b", 1)
    await projector.sweep()
    words = "SELECT account_id FROM read_model.statement WHERE description IS NOT NULL"
    assert [row["account_id"] for row in await superuser.fetch(words)] == ["a"]


async def test_a_record_that_claims_an_erasure_erases_nothing(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    stored = await writer.record(income("1", description="rent"))
    for _ in range(2):  # before the copy is there, and after
        await projector.take(erased_by(stored[0]))
    assert [row["description"] for row in await superuser.fetch(WORDS)] == ["rent"]


# --- the sweep --------------------------------------------------------------------------------


async def test_the_sweep_catches_up_after_lost_records(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    await writer.record(*[income("1", f"a{n % 30}") for n in range(120)])
    assert await projector.sweep() == 30
    await check_read_model(superuser)
    assert await projector.sweep() == 0


async def test_events_of_one_microsecond_do_not_look_like_a_lag(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    """The order of equal times is anyone's: the account's end is its greatest position."""
    await writer.record(*[income("1", f"a{n % 10}") for n in range(60)])
    await superuser.execute("UPDATE event_store.event SET appended_at = $1", datetime.now(UTC))
    # Written last first, so that the table's own order is against the positions' order.
    await superuser.execute(
        "CREATE TABLE moved AS SELECT * FROM event_store.event ORDER BY position DESC"
    )
    await superuser.execute("TRUNCATE event_store.event")
    await superuser.execute("INSERT INTO event_store.event SELECT * FROM moved")
    assert await projector.sweep() == 10
    assert await projector.sweep() == 0


async def test_more_events_of_one_moment_than_a_page_are_swept(
    writer: Writer, projector: Projector, superuser: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a restored or imported store may have them: the walk would stay at the first page."""
    monkeypatch.setattr(sweep, "PAGE_EVENTS", 4)
    monkeypatch.setattr(sweep, "PAGES_MAX", 20)
    await writer.record(*[income("1", f"a{n}") for n in range(30)])
    await superuser.execute("UPDATE event_store.event SET appended_at = $1", datetime.now(UTC))
    await projector.sweep()
    await check_read_model(superuser)
    assert await superuser.fetchval("SELECT count(*) FROM read_model.balance") == 30


async def test_a_write_open_across_two_sweeps_is_projected(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    """It is stamped before its commit, and the sweeps' watermark has passed that stamp."""
    await writer.record(income("1", "late"))
    held = await writer.append_uncommitted(income("2", "late"))
    for number in range(2):
        await writer.record(income("1", f"soon{number}"))
        assert await projector.sweep() > 0
    watermark = await superuser.fetchval("SELECT watermark FROM read_model.sweep")
    await held.commit()
    appended = await superuser.fetchval(
        "SELECT appended_at FROM event_store.event WHERE account_id = 'late' AND position = 2"
    )
    assert appended < watermark
    assert await projector.sweep() == 1
    await check_read_model(superuser)


async def test_a_sweep_continues_after_a_blocked_account(
    writer: Writer, projector: Projector, reader: Reader, superuser: Connection
) -> None:
    await writer.record(*[income("1", f"a{n}") for n in range(5)])
    await superuser.execute(POISON, "a0", 1)
    for _ in range(2):
        await projector.sweep()
    assert [await reader.balance(f"a{n}") for n in range(5)] == [(0, 0)] + [(1, 100)] * 4
    assert len(await superuser.fetch(DEAD_LETTERS)) == 1


# --- locks and outages ------------------------------------------------------------------------


async def test_a_session_ended_in_a_round_applies_nothing_twice(
    database: Database, writer: Writer, superuser: Connection
) -> None:
    stored = await writer.record(income("1"), income("2"))
    async with reader_on(database.dsn("saldo_project")) as reader:
        await reader.catch_up(ACCOUNT)
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'test-reader' AND datname = current_database()"
        )
        await writer.record(income("3"))
        for _ in range(3):
            try:
                await reader.catch_up(ACCOUNT)
            except ReadModelUnavailable:
                continue
    await check_read_model(superuser)
    assert stored
