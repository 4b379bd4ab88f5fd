"""Recording on a real PostgreSQL: exactly once, whatever happens to locks and connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from saldo.domain.commands import Kind
from saldo.domain.errors import AlreadyReversed, IdempotencyKeyReused, PositionConflict
from saldo.domain.events import request_hash
from saldo.record.batch import Contention
from saldo.record.errors import OutcomeUnknown, StoreBusy, StoreUnavailable
from saldo.record.intent import EventKey, Intent, Key, Origin, prepare_lines
from tests.support.controls import (
    ACCOUNT,
    SECRET,
    Clock,
    events_of,
    expense,
    income,
    intent,
    limit,
    reversal,
    uuid,
)
from tests.support.sides import (
    Connection,
    Unreachable,
    Writer,
    check_event_store,
    connected,
    cut,
    on_clock,
    through,
    until,
    with_options,
    writer_on,
)

if TYPE_CHECKING:
    from saldo.domain.commands import Command
    from tests.support.proxy import Proxy
    from tests.support.servers import Database
    from tests.support.sides import Cut

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
HOLD = "SELECT FROM event_store.stream WHERE account_id = $1 FOR UPDATE"
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'test-writer'
  AND wait_event_type = 'Lock'
"""


@pytest.fixture(autouse=True, params=["without locks", "under locks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return how batches are recorded; each rule holds both ways."""
    if request.param == "under locks":
        monkeypatch.setattr(Contention, "locks", lambda _: True)


async def wait_for_waiting(superuser: Connection, count: int) -> None:
    """Wait until so many sessions of writers wait for a lock."""

    async def enough() -> bool:
        # Within a database transaction the statistics stay as they were first seen.
        await superuser.execute("SELECT pg_stat_clear_snapshot()")
        return bool(await superuser.fetchval(WAITING) >= count)

    await until(enough)


# --- keys and reversals -----------------------------------------------------------------------


async def test_a_repeated_request_gets_the_stored_result(
    writer: Writer, superuser: Connection
) -> None:
    [first] = await writer.outcomes(intent(income("1", description="rent"), key="k"))
    replay, reused = await writer.outcomes(
        intent(income("1.00", description="rent"), key="k", expected=7),
        intent(income("2"), key="k"),
    )
    assert events_of(replay) == events_of(first)
    assert isinstance(replay, list)
    assert [recorded.replayed for recorded in replay] == [True]
    assert isinstance(reused, IdempotencyKeyReused)
    assert await check_event_store(superuser) == 1
    assert len(writer.committed) == 1


@pytest.mark.parametrize("key", [EventKey("/payroll", "7"), "/payroll 7"])
async def test_a_key_of_an_earlier_version_is_recognised(
    writer: Writer, superuser: Connection, key: Key
) -> None:
    """It recorded an event's key as a client's, `source id`."""
    request = intent(income("1"), key=key)
    [line] = request.lines
    assert line.old_key_hash is not None
    assert line.fingerprint is not None
    recorded = replace(
        line,
        key_hash=line.old_key_hash,
        old_key_hash=None,
        request_hash=request_hash(line.old_key_hash, 0, line.fingerprint),
    )
    [first] = await writer.outcomes(replace(request, lines=(recorded,)))
    replay, reused = await writer.outcomes(
        intent(income("1"), key=key), intent(income("2"), key=key)
    )
    assert events_of(replay) == events_of(first)
    assert isinstance(reused, IdempotencyKeyReused)
    assert await check_event_store(superuser) == 1


async def test_a_key_twice_in_one_batch_records_once(writer: Writer, superuser: Connection) -> None:
    outcomes = await writer.outcomes(*[intent(income("1"), key="k")] * 3)
    assert len({event.event_id for outcome in outcomes for event in events_of(outcome)}) == 1
    assert await check_event_store(superuser) == 1


async def test_the_stored_rows_are_those_decided(writer: Writer, superuser: Connection) -> None:
    """All kinds of rows in one batch, with and without keys: each has all that is its own."""
    [[original]] = [await writer.record(income("5", "b"))]
    lines: list[tuple[Command, str | None]] = [
        (income(str(number), f"a{number % 3}"), None) for number in range(1, 8)
    ]
    await writer.outcomes(
        intent(income("1", description="a,\x1f b"), key="k"),
        intent(income("2", "c")),
        Intent(
            lines=prepare_lines(
                lines, Origin(secret=SECRET, issuer="i", subject="s", idempotency_key="whole")
            ),
            is_bulk=True,
            traceparent=TRACE,
        ),
        intent(limit("7", "c")),
        intent(reversal(original, Kind.INCOME, 500), key="k"),
        intent(expense("1")),
    )
    decided = writer.committed[-1]
    assert len(decided.events) == 12
    for stored in decided.events:
        assert await writer.events.find(stored.event_id) == replace(stored, traceparent=None)
    for account_id, account in decided.accounts.items():
        assert await writer.events.find_account(account_id) == account
    traced = await superuser.fetch(
        "SELECT account_id, position FROM event_store.outbox WHERE traceparent = $1", TRACE
    )
    assert {tuple(row) for row in traced} == {
        (stored.account_id, stored.position)
        for stored in decided.events
        if stored.traceparent is not None
    }
    assert len(traced) == len(lines)
    assert await check_event_store(superuser) == 13


async def test_two_processes_with_one_key_record_once(
    database: Database,
    writer: Writer,
    superuser: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both wait for the account: the second must see the key that the first has just committed."""
    await writer.record(income())
    async with writer_on(database.dsn("saldo_record")) as other:
        async with superuser.transaction():
            await superuser.execute(HOLD, ACCOUNT)
            both = [
                asyncio.create_task(side.outcomes(intent(income("7"), key="k")))
                for side in (writer, other)
            ]
            await wait_for_waiting(superuser, 2)
        outcomes = [(await task)[0] for task in both]
    assert len({event.event_id for outcome in outcomes for event in events_of(outcome)}) == 1
    replays = [
        recorded.replayed for each in outcomes if isinstance(each, list) for recorded in each
    ]
    assert sorted(replays) == [False, True]
    assert await check_event_store(superuser) == 2
    # The lock alone keeps them apart: the unique index had nothing to refuse.
    assert "contradicted" not in caplog.text


async def test_two_processes_create_one_account_together(
    database: Database, writer: Writer, superuser: Connection
) -> None:
    async with writer_on(database.dsn("saldo_record")) as other:
        accounts = [f"a{number}" for number in range(20)]
        sides = [(writer, accounts), (other, accounts[::-1])] * 4
        await asyncio.gather(
            *(side.record(*[income("1", account) for account in order]) for side, order in sides)
        )
    assert await check_event_store(superuser) == 160


async def test_two_processes_reverse_a_transaction_once(
    database: Database, writer: Writer, superuser: Connection
) -> None:
    [original] = await writer.record(income("5"))
    undo = reversal(original, Kind.INCOME, 500)
    async with writer_on(database.dsn("saldo_record")) as other:
        async with superuser.transaction():
            await superuser.execute(HOLD, ACCOUNT)
            both = [asyncio.create_task(s.outcomes(intent(undo))) for s in (writer, other)]
            await wait_for_waiting(superuser, 2)
        outcomes = [(await task)[0] for task in both]
    [refused] = [outcome for outcome in outcomes if isinstance(outcome, AlreadyReversed)]
    [recorded] = [events_of(outcome) for outcome in outcomes if isinstance(outcome, list)]
    assert refused.reversed_by == recorded[0].event_id
    assert recorded[0].balance_minor == 0
    assert await check_event_store(superuser) == 2


async def test_a_refusal_records_nothing_and_leaves_the_others(
    writer: Writer, superuser: Connection
) -> None:
    await writer.record(limit("0", "a"))
    outcomes = await writer.outcomes(
        intent(expense("1", "a")), intent(income("1", "b")), intent(income("1", "c"), expected=5)
    )
    assert isinstance(outcomes[1], list)
    assert isinstance(outcomes[2], PositionConflict)
    assert await check_event_store(superuser) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "currency = 'ZZZ'",
        "recorded_at = 'infinity'",
        "recorded_at = '0001-01-01 BC'",
        "recorded_at = '294276-12-31'",
        "position = 9223372036854775807",
        "position = -5",
        "balance_minor = 9223372036854775807",
        "balance_minor = -9223372036854775808",
        "overdraft_limit_minor = -9223372036854775808",
        "hash = '\\x00'",
    ],
)
async def test_an_accounts_damaged_stream_fails_its_requests_only(
    writer: Writer, superuser: Connection, damage: str
) -> None:
    accounts = [f"healthy-{number}" for number in range(5)]
    await writer.record(income("1", "damaged"), *(income("1", each) for each in accounts))
    statement = f"UPDATE event_store.stream SET {damage} WHERE account_id = 'damaged'"
    await superuser.execute(statement)
    for _ in range(2):
        batch = [intent(income("2", each)) for each in (*accounts[:2], "damaged", *accounts[2:])]
        outcomes = await writer.outcomes(*batch)
        healthy = [outcomes[number] for number in (0, 1, 3, 4, 5)]
        assert all(isinstance(outcome, list) for outcome in healthy), healthy
    stored = await superuser.fetch(
        "SELECT account_id, count(*) FROM event_store.event"
        " WHERE account_id <> 'damaged' GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in stored] == [(each, 3) for each in accounts]


async def test_a_batch_of_refusals_leaves_no_stream_behind(
    writer: Writer, superuser: Connection
) -> None:
    await writer.outcomes(intent(income(), expected=3))
    assert await superuser.fetchval("SELECT count(*) FROM event_store.stream") == 0


async def test_an_event_and_its_outbox_row_are_stored_together(
    writer: Writer, superuser: Connection
) -> None:
    stored = await writer.record(income("1"), income("2", "b"), expense("3"))
    rows = await superuser.fetch("SELECT account_id, position FROM event_store.outbox")
    assert {tuple(row) for row in rows} == {(e.account_id, e.position) for e in stored}


# --- locks ------------------------------------------------------------------------------------


REFUSE_COMMIT = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused at commit' USING ERRCODE = '40001'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON event_store.event
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""


async def test_an_uncommitted_event_is_not_sent(writer: Writer, superuser: Connection) -> None:
    """The relay receives only what is committed."""
    await superuser.execute(REFUSE_COMMIT)
    [refused] = await asyncio.gather(writer.outcomes(intent(income("1"))), return_exceptions=True)
    assert isinstance(refused, StoreBusy)
    assert writer.committed == []
    assert await check_event_store(superuser) == 0


async def test_a_batch_is_retried_after_a_deadlock(
    database: Database, superuser: Connection
) -> None:
    """The writer holds a and waits for b; another holds b and asks for a."""
    # PostgreSQL looks for a deadlock once in a wait: the circle must be closed by then.
    url = with_options(database.dsn(), deadlock_timeout="3s")
    async with writer_on(url) as writer, connected(database.dsn()) as other:
        await writer.record(income("1", "a"), income("1", "b"))
        # The other is patient: it is the writer that finds the deadlock and gives way.
        await other.execute("SET deadlock_timeout = '10min'")
        async with other.transaction():
            await other.execute(HOLD, "b")
            recording = asyncio.create_task(writer.record(income("1", "a"), income("1", "b")))
            await wait_for_waiting(superuser, 1)
            await other.execute(HOLD, "a")
        assert [event.position for event in await recording] == [2, 2]
        assert writer.clock.seconds > 0
    assert await check_event_store(superuser) == 4


async def test_a_short_lock_is_waited_for(database: Database, superuser: Connection) -> None:
    async with writer_on(with_options(database.dsn(), lock_timeout="30ms")) as writer:
        await writer.record(income("1"))
        holding = superuser.transaction()
        await holding.start()
        await superuser.execute(HOLD, ACCOUNT)

        class Releasing(Clock):
            """Lets the lock go when the batch waits for the second time."""

            waits = 0

            async def sleep(self, seconds: float) -> None:
                await super().sleep(seconds)
                self.waits += 1
                if self.waits == 2:
                    await holding.rollback()

        side = on_clock(writer, Releasing())
        assert [event.position for event in await side.record(income("2"))] == [2]
    assert await check_event_store(superuser) == 2


async def test_a_long_lock_is_store_busy_and_records_nothing(
    database: Database, superuser: Connection
) -> None:
    async with writer_on(with_options(database.dsn(), lock_timeout="10ms")) as writer:
        await writer.record(income("1"))
        async with superuser.transaction():
            await superuser.execute(HOLD, ACCOUNT)
            with pytest.raises(StoreBusy):
                await writer.record(income("2"))
        assert [event.position for event in await writer.record(income("3"))] == [2]
    assert await check_event_store(superuser) == 2


# --- lost connections -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut-before", "cut-after"])
async def test_an_unknown_commit_ends_in_one_event_and_its_outcome(
    how: Cut, proxy: Proxy, database: Database, superuser: Connection
) -> None:
    """Whether the lost COMMIT succeeded or not, each intent is recorded once."""
    async with writer_on(through(proxy, database)) as writer:
        await writer.record(income("1"))
        rule = cut(proxy, how)
        outcomes = await writer.outcomes(
            intent(income("2"), key="k", ids=10),
            intent(income("3", "other"), ids=11),
            intent(income("4"), expected=99),
        )
    assert rule.hits == 1
    assert [events_of(outcome)[0].event_id for outcome in outcomes[:2]] == [uuid(10), uuid(11)]
    assert isinstance(outcomes[2], PositionConflict)
    assert await check_event_store(superuser) == 3
    told = [event.event_id for decided in writer.committed[1:] for event in decided.events]
    assert told == [uuid(10), uuid(11)]


@pytest.mark.parametrize("how", ["cut-before", "cut-after"])
async def test_an_outage_at_commit_is_retried_until_the_deadline(
    how: Cut, proxy: Proxy, database: Database, superuser: Connection
) -> None:
    async with writer_on(through(proxy, database)) as writer:
        await writer.record(income("1"))

        class Outage(Clock):
            """The server cannot be reached for most of the time that a batch has."""

            async def sleep(self, seconds: float) -> None:
                await super().sleep(seconds)
                proxy.refusing = self.seconds < 8

        cut(proxy, how)
        side = on_clock(writer, Outage())
        outcomes = await side.outcomes(intent(income("2"), ids=10))
        assert events_of(outcomes[0])[0].event_id == uuid(10)
    assert await check_event_store(superuser) == 2


@pytest.mark.parametrize(("how", "events"), [("cut-before", 1), ("cut-after", 2)])
async def test_the_outcome_is_unknown_past_the_deadline(
    how: Cut, events: int, proxy: Proxy, database: Database, superuser: Connection
) -> None:
    async with writer_on(through(proxy, database)) as writer:
        await writer.record(limit("0"))

        cut(proxy, how)
        side = on_clock(writer, Unreachable(proxy))
        certain, in_doubt, repeated, refused = await side.outcomes(
            intent(income("1"), expected=77),
            intent(income("2"), key="k", ids=10),
            intent(income("2"), key="k", ids=11),
            intent(income("1"), expected=77),
        )
        assert isinstance(certain, PositionConflict)
        for outcome in (in_doubt, repeated):
            assert isinstance(outcome, OutcomeUnknown)
            assert outcome.transaction_id == uuid(10)
        # The position that refused it is that of an event in doubt.
        assert isinstance(refused, StoreBusy)
    assert await check_event_store(superuser) == events


async def test_an_unreachable_store_records_nothing_and_says_so(
    proxy: Proxy, database: Database, superuser: Connection
) -> None:
    proxy.refusing = True
    async with writer_on(through(proxy, database)) as writer:
        with pytest.raises(StoreUnavailable):
            await writer.record(income("1"))
    assert await check_event_store(superuser) == 0


async def test_a_session_ended_while_waiting_is_reopened(
    writer: Writer, superuser: Connection
) -> None:
    await writer.record(income("1"))
    async with superuser.transaction():
        await superuser.execute(HOLD, ACCOUNT)
        recording = asyncio.create_task(writer.record(income("2")))
        await wait_for_waiting(superuser, 1)
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'test-writer' AND datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
    assert [event.position for event in await recording] == [2]
    assert await check_event_store(superuser) == 2
