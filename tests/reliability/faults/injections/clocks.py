"""Faults of clocks: of the recorders, of the projectors and readers, of PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import aiohttp

from saldo.operate.verification.run import verify
from saldo.serve.clock import CLOCK_OFF_MAX_S
from saldo.serve.functions import BALANCE
from tests.support.waiting import until_true

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from saldo.operate.verification.findings import Fault
    from tests.reliability.faults.replica import Replica
    from tests.reliability.faults.scene import Scene

MINUTES, HOURS, DAYS = timedelta(minutes=10), timedelta(hours=3), timedelta(days=400)
CLOCK_AHEAD = re.compile(r"^saldo_clock_ahead_seconds\{[^}]*\} (\S+)$", re.MULTILINE)
# An event's id begins with the milliseconds of its process's clock.
ID_MS_BITS = 80
STOPPED_S = 60.0
# Right after a jump a sweep may not have read the store's clock yet.
NOTED_TO_WITHIN = timedelta(seconds=60)


@contextlib.asynccontextmanager
async def _on_a_clock(scene: Scene, replicas: Sequence[Replica]) -> AsyncIterator[_SetClock]:
    """Run these replicas on a clock that can be set, and then on their own again."""
    clock = _SetClock(scene, replicas)
    await clock.set(timedelta(0))
    await _start_again(replicas, CLOCK_FILE=str(clock.file))
    try:
        yield clock
    finally:
        await _start_again(replicas)


class _SetClock:
    """The wall clock of some replicas."""

    def __init__(self, scene: Scene, replicas: Sequence[Replica]) -> None:
        self.file = scene.rig.folder / "clock"
        self._replicas = replicas
        self._account_id = f"{scene.prefix}-hot-0"

    async def set(self, ahead: timedelta) -> None:
        """Have it jump."""
        # At once: a process may look while it is written.
        written = self.file.with_suffix(".new")
        await asyncio.to_thread(written.write_text, str(ahead.total_seconds()))
        await asyncio.to_thread(written.replace, self.file)

    async def until_told(self, ahead: timedelta) -> None:
        """Wait until each of the replicas tells in its metrics how far its clock is off."""

        async def is_told() -> bool:
            told = await asyncio.gather(*(self._ahead_s(each) for each in self._replicas))
            return all(
                each is not None
                and abs(each) > CLOCK_OFF_MAX_S
                and abs(each - ahead.total_seconds()) < NOTED_TO_WITHIN.total_seconds()
                for each in told
            )

        await until_true(is_told, f"clocks that are {ahead} ahead are in the metrics")

    async def _ahead_s(self, replica: Replica) -> float | None:
        url = f"http://127.0.0.1:{replica.port}"
        async with aiohttp.ClientSession() as session:
            if replica.function is BALANCE:  # a reader compares at every read, others at a sweep
                query = {"accountId": self._account_id}
                await (await session.get(f"{url}/balances", params=query)).read()
            async with session.get(f"{url}/metrics") as answer:
                found = CLOCK_AHEAD.search(await answer.text())
        return None if found is None else float(found.group(1))


async def _start_again(replicas: Sequence[Replica], **settings: str) -> None:
    await asyncio.gather(*(replica.terminate() for replica in replicas))
    await asyncio.gather(*(replica.start(**settings) for replica in replicas))


async def clock_back(scene: Scene) -> None:
    """Set the recorders' clock back by ten minutes, twice."""
    await _record_on(scene, scene.rig.record, (-MINUTES, -2 * MINUTES))


async def clock_ahead(scene: Scene) -> None:
    """Set one recorder of two ahead by ten minutes, then three hours, then 400 days."""
    await _record_on(scene, [scene.choose(scene.rig.record)], (MINUTES, HOURS, DAYS))


async def _record_on(scene: Scene, replicas: Sequence[Replica], jumps: Sequence[timedelta]) -> None:
    async with _on_a_clock(scene, replicas) as clock:
        # The clients that left the others' connections are served by all again.
        await _start_again([each for each in scene.rig.record if each not in replicas])
        await scene.warm()
        scene.begin()
        for number, jump in enumerate(jumps):
            await clock.set(jump)
            # Accounts that are new now hold no later recorded time.
            scene.load.accounts.insert(0, f"{scene.prefix}-young-{number}")
            await scene.warm()
            await scene.under_fault()
            await clock.until_told(jump)
            scene.hits += await _recorded_on(scene, jump)
        await clock.set(timedelta(0))
    faults, ahead = await _verified(scene)
    assert not faults, faults
    assert not ahead, ahead
    scene.heal()


async def _recorded_on(scene: Scene, jump: timedelta) -> int:
    """Return how many events were recorded by a process with that clock offset."""
    rows = await scene.rig.find_store(
        "SELECT event_id, appended_at FROM event_store.event WHERE starts_with(account_id, $1)",
        scene.prefix,
    )
    off_s = [
        (row["event_id"].int >> ID_MS_BITS) / 1_000 - row["appended_at"].timestamp() for row in rows
    ]
    return sum(abs(each - jump.total_seconds()) < MINUTES.total_seconds() / 2 for each in off_s)


async def _verified(scene: Scene) -> tuple[list[Fault], list[Fault]]:
    """Run `saldo verify`; return the faults of the cell's accounts and events of a wrong time."""
    report = await verify(scene.rig.settings, workers=1, progress=lambda _done, _total: None)
    own = [
        [each for each in found if (each.account_id or "").startswith(scene.prefix)]
        for found in (report.faults, report.clock)
    ]
    return own[0], own[1]


async def readers_clock(scene: Scene) -> None:
    """Set projectors and readers ahead and behind; their clocks must not age a young event."""
    replicas = [*scene.rig.project, *scene.rig.balance]
    async with _on_a_clock(scene, replicas) as clock:
        await scene.warm()
        scene.begin()
        for jump in (MINUTES, HOURS, DAYS, -HOURS):
            await clock.set(jump)
            await scene.warm()
            await scene.under_fault()
            await clock.until_told(jump)
            young, old = await _beyond_the_store(scene)
            assert young == [503], f"a young event at {jump}: {young}"
            assert old == [422], f"an old event at {jump}: {old}"
            scene.hits += 2
        await clock.set(timedelta(0))
    scene.heal()


async def _beyond_the_store(scene: Scene) -> tuple[list[int], list[int]]:
    """Return the statuses for events beyond the store: a young one, and one an hour old."""
    records = await asyncio.to_thread(scene.rig.read_topic, scene.offsets)
    headers, value = records[-1]
    answers = []
    for age in (timedelta(0), timedelta(hours=1)):
        forged = headers | {
            "ce_id": str(uuid4()),
            "ce_sequence": "1000000",
            "ce_time": (datetime.now(UTC) - age).isoformat(),
        }
        answers.append(await scene.rig.deliver([(forged, value)]))
    return answers[0], answers[1]


# --- PostgreSQL's clock -----------------------------------------------------------------------

SKEWED_ROLES = ("saldo_record", "saldo_project", "saldo_query")
# The clock that the functions' statements and the columns' defaults look at. It stands in front of
# PostgreSQL's own in the roles' search path.
SKEW = """
CREATE SCHEMA skewed;
CREATE TABLE skewed.clock (ahead interval NOT NULL);
INSERT INTO skewed.clock VALUES (interval '0');
CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM skewed.clock';
GRANT USAGE ON SCHEMA skewed TO saldo_record, saldo_project, saldo_query;
GRANT SELECT ON skewed.clock TO saldo_record, saldo_project, saldo_query;
ALTER TABLE event_store.event ALTER appended_at SET DEFAULT skewed.clock_timestamp();
ALTER TABLE event_store.outbox ALTER appended_at SET DEFAULT skewed.clock_timestamp();
"""
UNSKEW = """
ALTER TABLE event_store.event ALTER appended_at SET DEFAULT clock_timestamp();
ALTER TABLE event_store.outbox ALTER appended_at SET DEFAULT clock_timestamp();
DROP SCHEMA skewed CASCADE;
"""


async def store_clock(scene: Scene) -> None:
    """Set the event store's clock ahead by three hours, back, further back, and right again."""
    async with _skewed(scene):
        await scene.warm()
        scene.begin()
        for number, jump in enumerate((HOURS, timedelta(0), -MINUTES, timedelta(0))):
            await _set_store_clock(scene, jump)
            scene.load.accounts.insert(0, f"{scene.prefix}-young-{number}")
            await scene.warm()
            await scene.under_fault()
        [[scene.hits]] = await scene.rig.find_store(
            "SELECT count(*) FROM event_store.event WHERE starts_with(account_id, $1)"
            " AND (appended_at > clock_timestamp() + interval '1 hour')",
            scene.prefix,
        )
        await _swept_alone(scene)
    faults, ahead = await _verified(scene)
    assert not faults, faults
    named = [(each.account_id, " after they" in each.reason) for each in ahead]
    assert (f"{scene.prefix}-young-0", True) in named, ahead
    assert len(named) == len(set(named)), ahead
    scene.heal()


@contextlib.asynccontextmanager
async def _skewed(scene: Scene) -> AsyncIterator[None]:
    """Give the event store a clock that can be set."""
    await scene.rig.run_store(SKEW)
    try:
        await _set_search_path(scene, "SET search_path = skewed, pg_catalog")
        yield
    finally:
        await _set_search_path(scene, "RESET search_path")
        await scene.rig.run_store(UNSKEW)


async def _set_search_path(scene: Scene, how: str) -> None:
    for role in SKEWED_ROLES:
        await scene.rig.run_store(f"ALTER ROLE {role} {how}")
    # What is connected has the path of before.
    await scene.rig.find_store(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY ($1)",
        SKEWED_ROLES,
    )


async def _set_store_clock(scene: Scene, ahead: timedelta) -> None:
    from_s = time.monotonic()
    await scene.rig.find_store("UPDATE skewed.clock SET ahead = $1", ahead)
    to_s = time.monotonic()
    before_from_s, _, before = scene.store_clock.pop()
    scene.store_clock += [
        (before_from_s, to_s, before),
        (from_s, float("inf"), ahead.total_seconds()),
    ]


async def _swept_alone(scene: Scene) -> None:
    """Check that the lag sweep finds new, undelivered events whatever the clock did."""
    rig = scene.rig
    for source in rig.sources:
        await asyncio.to_thread(source.stop, STOPPED_S)
    account_id = f"{scene.prefix}-swept"
    scene.load.accounts.insert(0, account_id)
    await scene.warm()

    async def is_swept() -> bool:
        return bool(
            await rig.find_model(
                "SELECT FROM read_model.balance WHERE account_id = $1 AND position > 0", account_id
            )
        )

    await until_true(is_swept, "the lag sweep finds what was recorded after the jumps")
    rig.sources[:] = [rig.new_source(number) for number in range(len(rig.sources))]
    await rig.until_assigned(*rig.sources)
