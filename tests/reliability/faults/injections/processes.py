"""Faults of processes: functions that are killed, stopped or paused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.reliability.faults.scene import DEADLINE_S
from tests.support.proxy import Proxy, Rule, until

if TYPE_CHECKING:
    from tests.reliability.faults.replica import Replica
    from tests.reliability.faults.scene import Scene

OUTBOX_DELETE = "DELETE FROM event_store.outbox"


async def _kill_replica(scene: Scene, front: Proxy, replicas: list[Replica]) -> None:
    """Kill a replica with requests in flight, which get no response."""
    replica = scene.choose(replicas)
    for _ in range(20):
        before = front.cut_by_server
        await scene.until_in_flight(lambda: front.in_flight(replica.port), "a request")
        scene.begin()
        await replica.kill()
        # The proxy sees the end of its connections a moment later.
        await until(lambda: not front.in_flight(replica.port), DEADLINE_S, "cut off")
        scene.hits = front.cut_by_server - before
        await scene.under_fault()
        await replica.start()
        if scene.hits:
            break
    scene.heal()


async def record_killed(scene: Scene) -> None:
    await _kill_replica(scene, scene.rig.record_front, scene.rig.record)


async def balance_killed(scene: Scene) -> None:
    await _kill_replica(scene, scene.rig.balance_front, scene.rig.balance)


async def project_killed(scene: Scene) -> None:
    await _kill_replica(scene, scene.rig.sink, scene.rig.project)


async def _stop_replica(scene: Scene, front: Proxy, replicas: list[Replica]) -> None:
    """Terminate a replica with requests in flight."""
    replica = scene.choose(replicas)
    await scene.until_in_flight(lambda: front.in_flight(replica.port), "a request")
    scene.begin()
    scene.hits = front.in_flight(replica.port)
    await replica.terminate()
    await scene.under_fault()
    await replica.start()
    scene.heal()


async def record_stopped(scene: Scene) -> None:
    await _stop_replica(scene, scene.rig.record_front, scene.rig.record)


async def balance_stopped(scene: Scene) -> None:
    await _stop_replica(scene, scene.rig.balance_front, scene.rig.balance)


async def project_stopped(scene: Scene) -> None:
    await _stop_replica(scene, scene.rig.sink, scene.rig.project)


async def relay_killed(scene: Scene) -> None:
    """Kill a recorder between Kafka's acknowledgement and the DELETE of the outbox's rows."""
    replica = scene.choose(scene.rig.record)
    rule = Rule(begins=OUTBOX_DELETE, action="hold", hits_max=1_000)
    replica.store.rules.append(rule)
    await asyncio.wait_for(rule.hit.wait(), DEADLINE_S)
    await scene.under_fault(0.3)
    await scene.kill(replica)
    scene.hits = rule.hits
    replica.store.rules.remove(rule)
    rule.release.set()
    waiting = await scene.rig.find_store("SELECT account_id, position FROM event_store.outbox")
    scene.notes["sent_and_not_deleted"] = len(waiting)
    await scene.under_fault()
    await replica.start()
    scene.heal()


async def paused(scene: Scene) -> None:
    """Pause a recorder in a batch's COMMIT until the database ends its session; then resume."""
    replica = scene.choose(scene.rig.record)
    rule = Rule(begins="COMMIT", action="hold", hits_max=1)
    replica.store.rules.append(rule)
    await asyncio.wait_for(rule.hit.wait(), DEADLINE_S)
    scene.begin()
    replica.pause()
    said = "terminating connection due to idle-in-transaction timeout"
    before = scene.rig.store.said(said)
    await until(lambda: scene.rig.store.said(said) > before, DEADLINE_S, said)
    scene.hits = scene.rig.store.said(said) - before
    replica.store.rules.remove(rule)
    rule.release.set()
    replica.resume()
    scene.heal()


async def project_paused(scene: Scene) -> None:
    """Pause a projector; in the long form until the source has given up a delivery."""
    replica = scene.choose(scene.rig.project)
    await scene.until_in_flight(lambda: scene.rig.sink.in_flight(replica.port), "a delivery")
    scene.begin()
    replica.pause()
    scene.hits = scene.rig.sink.in_flight(replica.port)
    gone = scene.rig.sink.cut_by_client
    if scene.form == "long":
        # The source's time-out of 10 s: it leaves, and delivers the event again.
        await until(lambda: scene.rig.sink.cut_by_client > gone, DEADLINE_S, "a time-out")
        scene.hits = scene.rig.sink.cut_by_client - gone
    await scene.under_fault()
    replica.resume()
    scene.heal()
