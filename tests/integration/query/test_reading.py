"""Reads of the read model: waiting for a position, pages under writes, past balances."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace

from saldo.domain.tag import tag_of
from saldo.query import statement
from saldo.query.balances import Standing
from saldo.query.errors import TooManyWaiters
from saldo.query.position_watch import Watch
from saldo.query.statement import Filters, make_cursor, read_accounts, read_statement
from saldo.serve.http.problems import Invalid
from tests.support.controls import ACCOUNT, NOW, expense, income, limit
from tests.support.sides import CUT, DEADLINE_S, Connection, Reader, Writer, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saldo.domain.commands import Command
    from saldo.record.intent import StoredEvent

ALL = Filters()


async def page(
    reader: Reader, cursor: str | None = None, *, limit_: int = 2, filters: Filters = ALL
) -> dict[str, Any]:
    position, _ = await reader.balance(ACCOUNT)
    standing = Standing(account_id=ACCOUNT, stream_position=position, position=position)
    found = await read_statement(reader.balances, standing, filters, limit_, cursor)
    return as_sent(found)


def as_sent(body: object) -> dict[str, Any]:
    """Return the JSON of a response's body."""
    content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(body))
    return content


def positions(found: dict[str, Any]) -> list[int]:
    return [line["position"] for line in found["transactions"]]


# --- statements -------------------------------------------------------------------------------


async def test_pages_stay_stable_while_transactions_are_recorded(
    writer: Writer, reader: Reader
) -> None:
    seen: list[int] = []
    await writer.record(*[income("1")] * 7)
    await reader.catch_up(ACCOUNT)
    cursor = None
    while True:
        found = await page(reader, cursor)
        seen += positions(found)
        cursor = found["next"]
        if cursor is None:
            break
        await writer.record(income("1"), expense("2"))
        await reader.catch_up(ACCOUNT)
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_limit_events_are_no_lines_and_shorten_no_page(
    writer: Writer, reader: Reader
) -> None:
    await writer.record(income("1"), limit("5"), limit("6"), income("2"), limit("7"), income("3"))
    await reader.catch_up(ACCOUNT)
    first = await page(reader)
    second = await page(reader, first["next"])
    assert (positions(first), positions(second), second["next"]) == ([6, 4], [1], None)
    assert [line["balance"] for line in first["transactions"]] == [6, 3]


async def test_filters_hold_across_pages_and_bind_the_cursor(
    writer: Writer, reader: Reader
) -> None:
    commands: list[Command] = []
    for number in range(8):
        at = NOW + timedelta(days=number)
        commands += [
            income("1", description=f"Rent {number}", occurred_at=at),
            expense("1", occurred_at=at),
        ]
    await writer.record(*commands)
    await reader.catch_up(ACCOUNT)
    filters = Filters(
        kind="INCOME", occurred_from=NOW, occurred_before=NOW + timedelta(days=7), text="rENT"
    )
    first = await page(reader, filters=filters, limit_=4)
    second = await page(reader, first["next"], filters=filters, limit_=4)
    assert positions(first) + positions(second) == [13, 11, 9, 7, 5, 3, 1]
    for name in dataclasses.asdict(filters):
        other = dataclasses.replace(filters, **{name: None})
        with pytest.raises(Invalid):
            await page(reader, first["next"], filters=other)


SEEKING = {
    "text": Filters(text="rent"),
    "kind": Filters(kind="EXPENSE"),
    "from": Filters(occurred_from=NOW),
    "before": Filters(occurred_before=NOW - timedelta(days=1)),
}


@pytest.mark.parametrize("filters", SEEKING.values(), ids=SEEKING)
async def test_a_page_reads_a_bounded_part_of_a_long_statement(
    writer: Writer, reader: Reader, monkeypatch: pytest.MonkeyPatch, filters: Filters
) -> None:
    """A text that hardly any line has would hold a connection while all of them are read."""
    monkeypatch.setattr(statement, "POSITIONS_A_PAGE_MAX", 10)
    at = NOW - timedelta(hours=1)
    other = [income("1", description="x", occurred_at=at) for _ in range(12)]
    sought = [
        replace(expense("1", occurred_at=moment), description="Rent")
        for moment in (NOW, NOW - timedelta(days=2))
    ]
    await writer.record(income("99"), *sought, *other, limit("5"), *other, *sought, *other)
    await reader.catch_up(ACCOUNT)
    pages, cursor = [], None
    for _ in range(10):
        found = await page(reader, cursor, limit_=50, filters=filters)
        pages.append(positions(found))
        cursor = found["next"]
        if cursor is None:
            break
    assert max(len(each) for each in pages) <= 4
    assert len(pages) == 5
    wanted = {"text": [30, 29, 3, 2], "kind": [30, 29, 3, 2], "from": [29, 2], "before": [30, 3]}
    [name] = [name for name, each in SEEKING.items() if each == filters]
    assert [each for lines in pages for each in lines if each != 1] == wanted[name]


async def test_a_forged_cursor_starts_at_the_newest_line(writer: Writer, reader: Reader) -> None:
    await writer.record(income("1"), income("2"))
    await reader.catch_up(ACCOUNT)
    forged = make_cursor("statement", ALL.digest(ACCOUNT), 2**62)
    found = await page(reader, forged)
    assert (positions(found), found["next"]) == ([2, 1], None)


CURSORS = [
    *("", "x", "é", "=" * 10, "A" * 401, "bnVsbA"),
    base64.urlsafe_b64encode(b"[]").decode(),
    make_cursor("statement", "other", 5),
    make_cursor("accounts", "", "a"),
    make_cursor("statement", ALL.digest("other"), 5),
    *(make_cursor("statement", ALL.digest(ACCOUNT), after) for after in (-1, 2**63, "x")),
]


async def test_a_foreign_cursor_is_refused(reader: Reader) -> None:
    for cursor in CURSORS:
        with pytest.raises(Invalid):
            await page(reader, cursor)


async def test_a_forged_cursor_of_accounts_does_not_reach_the_database(reader: Reader) -> None:
    forged: list[str | int] = ["\0", "\ud800", "-", 5, "a" * 129]
    for after in forged:
        with pytest.raises(Invalid):
            await read_accounts(reader.balances, None, 5, make_cursor("accounts", "", after))


async def test_only_permitted_accounts_are_listed_page_by_page(
    writer: Writer, reader: Reader
) -> None:
    names = ["B", "a", "a.b", "a0", "b", "z"]
    await writer.record(*[income("1", name) for name in names])
    await reader.catch_up(*names)

    async def listed(visible: frozenset[str] | None) -> list[str]:
        found: list[str] = []
        cursor = None
        while True:
            part = as_sent(await read_accounts(reader.balances, visible, 2, cursor))
            found += [account["accountId"] for account in part["accounts"]]
            cursor = part["next"]
            if cursor is None:
                return found

    assert await listed(None) == sorted(names)
    assert await listed(frozenset({"z", "a0", "B", "unknown"})) == ["B", "a0", "z"]


# --- the past ---------------------------------------------------------------------------------


async def test_past_balances_match_the_events(writer: Writer, reader: Reader) -> None:
    """By position, by recorded time and by occurred time, against a plain sum over the events."""
    chance = random.Random(7)
    recorded: list[tuple[int, Any, Any, int]] = []
    for number in range(1, 41):
        occurred = NOW + timedelta(
            hours=chance.randint(-200, 200), microseconds=chance.randint(0, 5)
        )
        minor = chance.randint(1, 10_000)
        make = chance.choice([income, expense])
        writer.clock.seconds += chance.choice([0, 0, 0.000001, 3600])
        moment = writer.clock.now()
        await writer.record_at(moment, make(f"{minor}e-2", occurred_at=occurred))
        recorded.append((number, moment, occurred, minor if make is income else -minor))
        if number % 7 == 0:
            await writer.record(limit("100000", "other"))
    await reader.catch_up(ACCOUNT, "other")
    for position, moment, occurred, _ in recorded:
        row = await reader.balances.at_position(ACCOUNT, position)
        assert row is not None
        assert row["balance_minor"] == sum(r[3] for r in recorded if r[0] <= position)
        for step in (timedelta(0), timedelta(microseconds=-1), timedelta(microseconds=1)):
            row = await reader.balances.as_of(ACCOUNT, moment + step, writer.clock.now())
            known = [r for r in recorded if r[1] <= moment + step]
            assert (row["balance_minor"] or 0) == sum(r[3] for r in known)
            assert (row["position"] or 0) == len(known)
            assert row["is_final"] == (moment + step < recorded[-1][1])
            effective = await reader.balances.effective_at(ACCOUNT, occurred + step)
            assert effective == sum(r[3] for r in recorded if r[2] <= occurred + step)
    assert await reader.balances.at_position(ACCOUNT, 41) is None
    before = await reader.balances.as_of(ACCOUNT, NOW - timedelta(days=1), writer.clock.now())
    assert (before["position"], before["is_final"]) == (None, True)


async def test_a_balance_reports_its_lag(writer: Writer, reader: Reader) -> None:
    await writer.record(*[income("1")] * 3)
    await reader.catch_up(ACCOUNT)
    await writer.record(*[income("1")] * 4, income("1", "fresh"))
    here, fresh, nobody = await reader.balances.read([ACCOUNT, "fresh", "nobody"])
    assert (here.position, here.behind, here.balance_minor) == (3, 4, 300)
    assert (fresh.position, fresh.behind, fresh.stream_position) == (0, 1, 1)
    assert (nobody.position, nobody.stream_position) == (0, 0)


# --- waiting ----------------------------------------------------------------------------------


def tag(event: StoredEvent) -> str:
    """Return the tag of the account's state after ``event``."""
    return tag_of(event.position, event.hash)


class Counting:
    """Reads states, and remembers what it was asked for."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.asked: list[set[str]] = []

    async def __call__(self, account_ids: Sequence[str]) -> dict[str, Standing]:
        self.asked.append(set(account_ids))
        return await self._reader.balances.states(account_ids)


async def test_waiting_ends_when_the_position_is_reached(writer: Writer, reader: Reader) -> None:
    watch = Watch(Counting(reader))
    waiting = [
        asyncio.create_task(watch.reach(ACCOUNT, wanted, DEADLINE_S)) for wanted in (1, 2, 2)
    ]
    [first] = await writer.record(income("1"))
    await reader.catch_up(ACCOUNT)
    assert await waiting[0] == tag(first)
    assert not waiting[1].done()
    [second] = await writer.record(income("1"))
    await reader.catch_up(ACCOUNT)
    assert [await task for task in waiting[1:]] == [tag(second)] * 2
    assert watch.waiting == 0


async def test_no_waiter_is_released_before_its_position(writer: Writer, reader: Reader) -> None:
    await writer.record(*[income("1")] * 3)
    await reader.catch_up(ACCOUNT)
    counting = Counting(reader)
    watch = Watch(counting)
    waiting = asyncio.create_task(watch.reach(ACCOUNT, 4, DEADLINE_S))

    async def looked() -> bool:
        return len(counting.asked) >= 3 or waiting.done()

    await until(looked)
    assert not waiting.done()
    [fourth] = await writer.record(income("1"))
    await reader.catch_up(ACCOUNT)
    assert await waiting == tag(fourth)


async def test_waiting_ends_at_the_next_state_after_a_seen_one(
    writer: Writer, reader: Reader, superuser: Connection
) -> None:
    """Also where another state comes to the same position, as after a restore."""
    stored = await writer.record(*[income("1")] * 3)
    await reader.catch_up(ACCOUNT)
    watch = Watch(Counting(reader))
    seen = await watch.reach(ACCOUNT, 0, DEADLINE_S)
    assert seen == tag(stored[-1])
    waiting = asyncio.create_task(watch.reach(ACCOUNT, 0, DEADLINE_S, seen))
    await superuser.execute(CUT, ACCOUNT, 2)
    [other] = await writer.record(income("2"))
    assert other.position == 3
    assert not waiting.done()
    await reader.catch_up(ACCOUNT)
    assert await waiting == tag(other) != seen


async def test_waiting_ends_empty_at_the_timeout(reader: Reader) -> None:
    watch = Watch(Counting(reader))
    assert await watch.reach(ACCOUNT, 1, 0.05) is None
    assert watch.waiting == 0


async def test_all_waiters_share_one_query_and_no_waiter_is_none(
    writer: Writer, reader: Reader
) -> None:
    stored = await writer.record(*[income("1", f"a{n}") for n in range(20)])
    counting = Counting(reader)
    watch = Watch(counting)
    waiting = [asyncio.create_task(watch.reach(f"a{n}", 1, DEADLINE_S)) for n in range(20)]

    async def asked() -> bool:
        return len(counting.asked) >= 3

    await until(asked)
    assert all(each == {f"a{n}" for n in range(20)} for each in counting.asked[1:])
    await reader.catch_up(*(f"a{n}" for n in range(20)))
    assert await asyncio.gather(*waiting) == [tag(event) for event in stored]

    async def over() -> bool:
        return watch._poller is None

    await until(over)


async def test_a_cancelled_waiter_leaves_the_others_waiting(writer: Writer, reader: Reader) -> None:
    watch = Watch(Counting(reader))
    gone = asyncio.create_task(watch.reach(ACCOUNT, 1, DEADLINE_S))
    stays = asyncio.create_task(watch.reach(ACCOUNT, 1, DEADLINE_S))

    async def both() -> bool:
        return watch.waiting == 2

    await until(both)
    gone.cancel()
    [event] = await writer.record(income("1"))
    await reader.catch_up(ACCOUNT)
    assert await stays == tag(event)
    assert gone.cancelled()
    assert watch.waiting == 0


async def test_waiting_survives_a_short_failure_of_the_read_model(
    writer: Writer, reader: Reader
) -> None:
    failures = 0

    async def failing_once(account_ids: Sequence[str]) -> dict[str, Standing]:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise OSError("gone")
        return await reader.balances.states(account_ids)

    watch = Watch(failing_once)
    [event] = await writer.record(income("1"))
    await reader.catch_up(ACCOUNT)
    assert await watch.reach(ACCOUNT, 1, DEADLINE_S) == tag(event)
    assert failures == 2


async def test_waiters_are_bounded(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saldo.query.position_watch.WAITERS_MAX", 1)
    watch = Watch(Counting(reader))
    first = asyncio.create_task(watch.reach(ACCOUNT, 1, DEADLINE_S))

    async def one() -> bool:
        return watch.waiting == 1

    await until(one)
    with pytest.raises(TooManyWaiters):
        await watch.reach(ACCOUNT, 1, DEADLINE_S)
    first.cancel()
    await asyncio.wait([first])
    assert watch.waiting == 0
