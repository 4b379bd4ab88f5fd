"""Group commit: no added delay, no cancelled neighbours, bounded queues."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from saldo.serve.group_commit import GroupCommit, QueueFull
from saldo.serve.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

DEADLINE_S = 120.0


class Work:
    """Runs batches that end only when the test says so, unless ``at_once``."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.gates: list[asyncio.Future[None]] = []
        self.at_once = at_once

    async def run(self, items: Sequence[str]) -> Sequence[str | Exception]:
        self.batches.append(list(items))
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        if not self.at_once:
            await gate
        return [ValueError(item) if item.startswith("bad") else item.upper() for item in items]


def group(
    work: Work, *, batches: int = 2, queue: int = 100, batch: int = 100, further: int = 1
) -> GroupCommit[str, str]:
    return GroupCommit(
        work.run,
        name="tested",
        metrics=Metrics("tested"),
        queue_weight_max=queue,
        batch_weight_max=batch,
        batches_max=batches,
        further_weight_min=further,
    )


def submit(
    commit: GroupCommit[str, str], item: str, keys: Collection[str] = (), weight: int = 1
) -> asyncio.Future[str]:
    return asyncio.ensure_future(commit.submit(item, keys, weight))


async def settle() -> None:
    """Let everything that can go on go on; the loop never sleeps."""
    for _ in range(20):
        await asyncio.sleep(0)


async def outcome(task: asyncio.Future[str]) -> str:
    async with asyncio.timeout(DEADLINE_S):
        return await task


async def test_a_lone_item_starts_at_once() -> None:
    """Within the same turn of the loop: not even a timer of zero stands in between."""
    work = Work()
    task = submit(group(work), "a")
    for _ in range(3):
        await asyncio.sleep(0)
    assert work.batches == [["a"]]
    work.gates[0].set_result(None)
    assert await outcome(task) == "A"


async def test_concurrent_items_are_one_batch() -> None:
    work = Work(at_once=True)
    commit = group(work)
    assert await asyncio.gather(*(submit(commit, item) for item in "abc")) == ["A", "B", "C"]
    assert work.batches == [["a", "b", "c"]]


async def test_later_items_wait_for_the_next_batch() -> None:
    work = Work()
    commit = group(work, batches=1)
    tasks = [submit(commit, "a")]
    await settle()
    for item in "bcd":
        tasks.append(submit(commit, item))
        await settle()
    assert (work.batches, commit.depth) == ([["a"]], 3)
    work.gates[0].set_result(None)
    await settle()
    assert (work.batches, commit.depth) == ([["a"], ["b", "c", "d"]], 0)
    work.gates[1].set_result(None)
    assert [await outcome(task) for task in tasks] == ["A", "B", "C", "D"]


async def test_a_refused_item_fails_no_other() -> None:
    commit = group(Work(at_once=True))
    bad, good = submit(commit, "bad"), submit(commit, "good")
    assert await outcome(good) == "GOOD"
    with pytest.raises(ValueError, match="bad"):
        await outcome(bad)


async def test_a_failed_batch_fails_all_its_items_and_frees_keys() -> None:
    calls: list[Sequence[str]] = []

    async def run(items: Sequence[str]) -> Sequence[str | Exception]:
        calls.append(items)
        if len(calls) == 1:
            raise OSError("gone")
        return list(items)

    commit = GroupCommit[str, str](
        run,
        name="tested",
        metrics=Metrics("tested"),
        queue_weight_max=9,
        batch_weight_max=9,
        batches_max=1,
    )
    tasks = [submit(commit, item, ["k"]) for item in "ab"]
    for task in tasks:
        with pytest.raises(OSError, match="gone"):
            await outcome(task)
    assert await outcome(submit(commit, "c", ["k"])) == "c"


async def test_a_cancelled_waiter_cancels_no_other() -> None:
    work = Work()
    commit = group(work)
    gone, stays = submit(commit, "a"), submit(commit, "b")
    await settle()
    gone.cancel()
    await settle()
    assert gone.cancelled()
    work.gates[0].set_result(None)
    assert await outcome(stays) == "B"
    assert work.batches == [["a", "b"]]


async def test_an_item_cancelled_before_its_start_is_not_run() -> None:
    work = Work()
    commit = group(work, batches=1)
    first = submit(commit, "a")
    await settle()
    gone, stays = submit(commit, "b", ["k"]), submit(commit, "c", ["k"])
    await settle()
    gone.cancel()
    work.gates[0].set_result(None)
    await settle()
    assert (work.batches, commit.depth) == ([["a"], ["c"]], 0)
    work.gates[1].set_result(None)
    assert [await outcome(first), await outcome(stays)] == ["A", "C"]


async def test_a_key_is_in_one_running_batch_at_a_time() -> None:
    work = Work()
    commit = group(work)
    tasks = [submit(commit, "a", ["k"])]
    await settle()
    tasks += [submit(commit, "b", ["k"]), submit(commit, "c", ["other"])]
    await settle()
    assert work.batches == [["a"], ["c"]]
    work.gates[1].set_result(None)
    await settle()
    assert work.batches == [["a"], ["c"]]
    work.gates[0].set_result(None)
    await settle()
    assert work.batches == [["a"], ["c"], ["b"]]
    work.gates[2].set_result(None)
    assert [await outcome(task) for task in tasks] == ["A", "B", "C"]


async def test_an_item_of_many_keys_waits_for_all_in_order() -> None:
    """What shares a key with an item that waits, waits behind it."""
    work = Work()
    commit = group(work, batches=3)
    tasks = [submit(commit, "a", ["x"])]
    await settle()
    tasks += [submit(commit, "b", ["x", "y"]), submit(commit, "c", ["y"]), submit(commit, "d")]
    await settle()
    assert work.batches == [["a"], ["d"]]
    work.gates[0].set_result(None)
    await settle()
    assert work.batches == [["a"], ["d"], ["b", "c"]]
    for gate in work.gates[1:]:
        gate.set_result(None)
    assert [await outcome(task) for task in tasks] == ["A", "B", "C", "D"]


async def test_items_of_a_key_run_in_arrival_order() -> None:
    done: list[tuple[str, int]] = []
    in_flight: Counter[str] = Counter()

    async def run(items: Sequence[tuple[str, int]]) -> Sequence[int | Exception]:
        keys = {key for key, _ in items}
        in_flight.update(keys)
        assert set(in_flight.values()) == {1}
        for _ in range(len(items) % 5):
            await asyncio.sleep(0)
        done.extend(items)
        for key in keys:
            del in_flight[key]
        return [number for _, number in items]

    commit = GroupCommit[tuple[str, int], int](
        run,
        name="tested",
        metrics=Metrics("tested"),
        queue_weight_max=1000,
        batch_weight_max=7,
        batches_max=3,
        further_weight_min=2,
    )
    items = [("hot" if n % 3 else f"k{n % 7}", n) for n in range(400)]
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(commit.submit(item, [item[0]]) for item in items))
    for key in {key for key, _ in items}:
        numbers = [number for of, number in done if of == key]
        assert numbers == sorted(numbers)


async def test_the_queue_is_bounded_by_weight_and_refuses_at_once() -> None:
    work = Work()
    commit = group(work, batches=1, queue=10)
    first = submit(commit, "a")
    await settle()
    waiting = submit(commit, "b", weight=8)
    await settle()
    with pytest.raises(QueueFull):
        await commit.submit("c", (), 3)
    last = submit(commit, "d", weight=2)
    await settle()
    assert commit.depth == 10
    for _ in range(2):
        work.gates[-1].set_result(None)
        await settle()
    assert [await outcome(t) for t in (first, waiting, last)] == ["A", "B", "D"]
    assert commit.depth == 0


async def test_a_batch_is_bounded_by_weight_but_never_empty() -> None:
    work = Work(at_once=True)
    commit = group(work, batches=1, batch=3)
    tasks = [submit(commit, item, weight=w) for item, w in [("a", 2), ("b", 2), ("c", 9), ("d", 1)]]
    assert [await outcome(task) for task in tasks] == ["A", "B", "C", "D"]
    assert work.batches == [["a"], ["b"], ["c"], ["d"]]


async def test_another_batch_starts_only_when_enough_items_wait() -> None:
    work = Work()
    commit = group(work, batches=2, further=3)
    tasks = [submit(commit, "a")]
    await settle()
    tasks += [submit(commit, "b"), submit(commit, "c")]
    await settle()
    assert work.batches == [["a"]]
    tasks.append(submit(commit, "d"))
    await settle()
    assert work.batches == [["a"], ["b", "c", "d"]]
    tasks += [submit(commit, item) for item in "efgh"]
    await settle()
    assert len(work.batches) == 2
    for gate in work.gates:
        gate.set_result(None)
    await settle()
    work.gates[2].set_result(None)
    assert [await outcome(task) for task in tasks] == list("ABCDEFGH")


async def test_a_drain_ends_when_the_queue_is_empty() -> None:
    work = Work(at_once=True)
    commit = group(work, batches=1, batch=1)
    tasks = [submit(commit, item) for item in "abc"]
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_S):
        await commit.drain()
    assert commit.depth == 0
    assert [await outcome(task) for task in tasks] == ["A", "B", "C"]
