"""Faults in stored data: a changed row, and forged records on the topic."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from confluent_kafka import Producer

from saldo.operate.dead_letters import redrive_account
from saldo.operate.settings import open_operator_pool
from saldo.operate.verification.run import verify
from tests.reliability.faults.injections.kafka import own_records
from tests.reliability.faults.scene import DEADLINE_S
from tests.support.waiting import until_true

if TYPE_CHECKING:
    from tests.reliability.faults.scene import Scene

FORGED_AMOUNT = 99_999_999


async def row_corrupted(scene: Scene) -> None:
    """Change an event's row before it is projected: its account stops, and verify names it."""
    rig = scene.rig
    account_id = f"{scene.prefix}-hot-0"
    scene.begin()
    for replica in rig.project:
        replica.pause()
    try:
        # A paused projector may have read what is stored by now: it is to be an event of later.
        await until_true(lambda: _is_read_by_nobody(scene), "the projectors' last reads are over")
        read = await _position(scene, account_id)

        async def has_a_new_event() -> bool:
            return await _position(scene, account_id) > read

        await until_true(has_a_new_event, f"{account_id} has a new event")
        [row] = await rig.find_store(
            "SELECT position, public_text FROM event_store.event WHERE account_id = $1"
            " AND position = (SELECT max(position) FROM event_store.event WHERE account_id = $1)",
            account_id,
        )
        position, text = row["position"], row["public_text"]
        await _set_text(scene, account_id, position, text.replace('"schema":', '"schema": '))
    finally:
        for replica in rig.project:
            replica.resume()

    async def is_blocked() -> bool:
        return bool(
            await rig.find_model(
                "SELECT FROM read_model.balance WHERE account_id = $1 AND blocked_at IS NOT NULL",
                account_id,
            )
        )

    await until_true(is_blocked, "the account is suspended")
    report = await verify(rig.settings, workers=1, progress=lambda _done, _total: None)
    named = {(fault.account_id, fault.position) for fault in report.faults}
    assert (account_id, position) in named, report.faults
    scene.hits = 1
    await _set_text(scene, account_id, position, text)
    async with (
        open_operator_pool(rig.settings.event_store_url) as streams,
        open_operator_pool(rig.settings.read_model_url) as model,
    ):
        redriven = await redrive_account(account_id, streams, model)
    assert not redriven.blocked
    scene.heal()


async def _is_read_by_nobody(scene: Scene) -> bool:
    """Return whether no projector's statement is under way in the event store."""
    return not await scene.rig.find_store(
        "SELECT FROM pg_stat_activity"
        " WHERE application_name = 'saldo-project-balance' AND state = 'active'"
    )


async def _position(scene: Scene, account_id: str) -> int:
    """Return the last position of the account's stream."""
    ends = await scene.rig.find_store(
        "SELECT position FROM event_store.stream WHERE account_id = $1", account_id
    )
    return sum(row["position"] for row in ends)


async def _set_text(scene: Scene, account_id: str, position: int, text: str) -> None:
    await scene.rig.find_store(
        "UPDATE event_store.event SET public_text = $3 WHERE account_id = $1 AND position = $2",
        account_id,
        position,
        text,
    )


async def record_forged(scene: Scene) -> None:
    """Publish forged records: another amount, and a position beyond the stream."""
    rig = scene.rig
    scene.begin()
    headers, value = scene.choose(await own_records(scene))
    data = json.loads(value)
    data["event"]["amountMinor"] = FORGED_AMOUNT
    other, beyond = str(uuid4()), str(uuid4())
    old = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    producer = Producer({"bootstrap.servers": rig.bootstrap_servers, "log_level": 0})
    for forged in (
        headers | {"ce_id": other},
        headers | {"ce_id": beyond, "ce_sequence": "1000000", "ce_time": old},
    ):
        producer.produce(
            rig.topic,
            json.dumps(data).encode(),
            key=headers["ce_subject"],
            headers=list(forged.items()),
        )
    assert await asyncio.to_thread(producer.flush, DEADLINE_S) == 0
    scene.known_on_topic |= {other, beyond}

    async def is_parked() -> bool:
        return bool(
            await rig.find_model("SELECT FROM read_model.dead_letter WHERE event_id = $1", beyond)
        )

    # The other one says no more than that its account reaches so far, which it does.
    await until_true(is_parked, "the event beyond the stream is a dead letter")
    scene.hits = 2
    await rig.find_model("DELETE FROM read_model.dead_letter WHERE event_id = $1", beyond)
    scene.heal()
