"""Faults of Kafka, of the KafkaSource and of the records on the way."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.reliability.faults.scene import DEADLINE_S
from tests.support.proxy import until
from tests.support.waiting import until_true

if TYPE_CHECKING:
    from tests.reliability.faults.scene import Scene

# Taken, or to be delivered again: the source decides by no other statuses.
ANSWERED_TO_A_RECORD = {200, 429, 503}


async def _outbox_rows(scene: Scene) -> int:
    [[rows]] = await scene.rig.find_store("SELECT count(*) FROM event_store.outbox")
    return int(rows)


async def _kafka_down(scene: Scene, seconds: float | None) -> None:
    scene.begin()
    await scene.rig.kill_kafka()
    await until_true(lambda: _outbox_rows(scene), "something waits for Kafka")
    await scene.under_fault(seconds)
    scene.hits = await _outbox_rows(scene)
    await scene.rig.start_kafka()
    scene.heal()


async def kafka_bounced(scene: Scene) -> None:
    await _kafka_down(scene, 0.2)


async def kafka_out(scene: Scene) -> None:
    await _kafka_down(scene, 3.0 if scene.form == "quick" else 30.0)


async def kafka_never_there(scene: Scene) -> None:
    """Keep Kafka down from before the recorders start until the load ends."""
    await scene.rig.kill_kafka()
    await asyncio.gather(*(replica.kill() for replica in scene.rig.record))
    await asyncio.gather(*(replica.start() for replica in scene.rig.record))
    await scene.warm()
    scene.begin()
    await scene.under_fault(2.0 if scene.form == "quick" else 20.0)
    scene.hits = await _outbox_rows(scene)
    scene.heal()  # for the latencies; what is measured as recovery starts when Kafka is there
    await scene.rig.start_kafka()
    scene.healed_s = time.monotonic()


async def source_killed(scene: Scene) -> None:
    """Kill a source with deliveries in flight: all since its last commit is delivered again."""
    number = scene.chance.randrange(len(scene.rig.sources))
    for _ in range(20):
        before = scene.rig.sink.cut_by_client
        await scene.until_in_flight(scene.rig.sink.in_flight, "a delivery")
        scene.begin()
        await asyncio.to_thread(scene.rig.sources[number].kill)
        await scene.under_fault()
        scene.hits = scene.rig.sink.cut_by_client - before
        scene.rig.sources[number] = scene.rig.new_source(number)
        await scene.rig.until_assigned(scene.rig.sources[number])
        if scene.hits:
            break
    scene.heal()


async def rebalanced(scene: Scene) -> None:
    """Add a third member to the source's group and remove it, with deliveries in flight."""
    scene.begin()
    joins = scene.rig.new_source(len(scene.rig.sources))
    try:
        await scene.rig.until_assigned(joins)
        scene.hits = 1
        await scene.under_fault()
        await scene.until_in_flight(scene.rig.sink.in_flight, "a delivery")
    finally:
        await asyncio.to_thread(joins.stop, DEADLINE_S)
    scene.hits += 1
    scene.heal()


async def redelivered(scene: Scene) -> None:
    """Deliver every record twice more, in any order, under load."""
    scene.begin()
    records = await own_records(scene)
    twice = records * 2
    scene.chance.shuffle(twice)
    statuses = await scene.rig.deliver(twice)
    scene.hits = statuses.count(200)
    assert set(statuses) <= ANSWERED_TO_A_RECORD, statuses
    scene.heal()


async def own_records(scene: Scene) -> list[tuple[dict[str, str], bytes]]:
    await until_true(lambda: _has_records(scene), "records on the topic")
    records = await asyncio.to_thread(scene.rig.read_topic, scene.offsets)
    return [each for each in records if each[0]["ce_subject"].startswith(scene.prefix)]


async def _has_records(scene: Scene) -> bool:
    return await asyncio.to_thread(scene.rig.ends_of_topic) != scene.offsets


async def withheld(scene: Scene) -> None:
    """Stop the sources; withhold some records, and deliver the others in any order."""
    scene.begin()
    for source in scene.rig.sources:
        await asyncio.to_thread(source.stop, DEADLINE_S)
    await scene.under_fault()
    records = await own_records(scene)
    never = {scene.choose(scene.load.accounts) for _ in range(4)} | {records[-1][0]["ce_subject"]}
    kept = [
        each
        for each in records
        if each[0]["ce_subject"] not in never and scene.chance.random() > 0.2
    ]
    scene.chance.shuffle(kept)
    statuses = await scene.rig.deliver(kept)
    assert set(statuses) <= ANSWERED_TO_A_RECORD, statuses
    scene.notes["withheld"] = len(records) - len(kept)
    # The sweep alone must find what never came.
    lagging = await _lagging(scene)
    scene.hits = len(records) - len(kept)
    scene.notes["lagging_accounts"] = lagging
    wanted = await scene.rig.find_store(
        "SELECT account_id, position FROM event_store.stream WHERE starts_with(account_id, $1)",
        scene.prefix,
    )
    scene.heal()

    async def is_swept() -> bool:
        shown = await scene.rig.find_model(
            "SELECT account_id, position FROM read_model.balance WHERE starts_with(account_id, $1)",
            scene.prefix,
        )
        positions = {row["account_id"]: row["position"] for row in shown}
        return all(positions.get(r["account_id"], 0) >= r["position"] for r in wanted)

    await until_true(is_swept, "the sweep finds what was withheld")
    scene.notes["swept_after_s"] = round(time.monotonic() - scene.healed_s, 2)
    scene.rig.sources[:] = [scene.rig.new_source(n) for n in range(len(scene.rig.sources))]
    await scene.rig.until_assigned(*scene.rig.sources)


async def _lagging(scene: Scene) -> int:
    ends = await scene.rig.find_store(
        "SELECT account_id, position FROM event_store.stream WHERE starts_with(account_id, $1)",
        scene.prefix,
    )
    shown = await scene.rig.find_model(
        "SELECT account_id, position FROM read_model.balance WHERE starts_with(account_id, $1)",
        scene.prefix,
    )
    positions = {row["account_id"]: row["position"] for row in shown}
    return sum(positions.get(row["account_id"], 0) < row["position"] for row in ends)


async def sink_down(scene: Scene) -> None:
    """Make projector and dead letter sink unreachable: the source drops what it gives up."""
    logs = [source.log for source in scene.rig.sources]

    def dropped() -> int:
        return sum(log.read_text().count("the dead letter sink failed too") for log in logs)

    before = dropped()
    scene.begin()
    scene.rig.sink.refusing = True
    scene.rig.sink.cut()
    await until(lambda: dropped() > before, DEADLINE_S, "a record is dropped")
    await scene.under_fault()
    scene.hits = dropped() - before
    scene.rig.sink.refusing = False
    scene.heal()
