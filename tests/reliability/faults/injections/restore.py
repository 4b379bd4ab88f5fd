"""A restore of the event store to an earlier moment, under a load that uses the lost tags.

A rebuild is interrupted before the restore and continues after it. Then, for accounts that have
lost events, every way to mistake a lost state for the present one is tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp

from saldo.operate.settings import open_operator_pool
from saldo.project.errors import RebuildRefused
from saldo.project.rebuild import Rebuild
from tests.reliability.faults.intents import Intent
from tests.reliability.faults.reads import NOT_MODIFIED, STREAM_S
from tests.reliability.faults.scene import DEADLINE_S
from tests.reliability.history.history import History, PastRead, Read
from tests.support.waiting import until_true

if TYPE_CHECKING:
    from tests.reliability.faults.driver import Client
    from tests.reliability.faults.scene import Scene
    from tests.reliability.history.history import Attempt, Final, Operation

REBUILDS_MAX = 10
TRIED_MAX = 10
# Behind the restore a client starts again: what it saw before may be lost.
AGAIN = 1_000_000
HELD = """
SELECT account_id, position || '-' || left(encode(hash, 'hex'), 16) AS tag FROM read_model.balance
WHERE starts_with(account_id, $1) AND recorded_at > $2::text::timestamptz
"""
ON_STREAM = """
SELECT account_id FROM event_store.event
WHERE account_id || ' ' || position || '-' || left(encode(hash, 'hex'), 16) = ANY ($1)
"""


class _LeftError(Exception):
    """The rebuild is left as it is."""


async def store_restored(scene: Scene) -> None:
    """Restore the event store; the read model, the topic and the clients know what is lost."""
    rig = scene.rig
    target_s = time.monotonic()
    [[target]] = await rig.find_store("SELECT clock_timestamp()::text")
    await scene.warm()
    await until_true(
        lambda: rig.find_model(HELD, scene.prefix, target), "the read model knows what will be lost"
    )
    await _rebuild(scene, leaving=True)
    scene.begin()
    [[wal]] = await rig.find_store("SELECT pg_walfile_name(pg_switch_wal())")

    async def is_archived() -> bool:
        [[last]] = await rig.find_store("SELECT last_archived_wal FROM pg_stat_archiver")
        return last is not None and last[:24] >= wal

    await until_true(is_archived, "the WAL is archived")
    await rig.store.restore(rig.base, target)
    lost = await _lost_tags(scene, target)
    scene.hits = len(lost)
    for replica in rig.replicas:
        replica.store.upstreams[:] = [rig.store.socket]
    restored_s = time.monotonic()
    # While nothing is rebuilt yet, and once it is.
    await _try_lost(scene, lost, rebuilt=False)
    await _rebuild(scene, leaving=False)
    scene.heal()
    await _try_lost(scene, lost, rebuilt=True)
    # What was recorded since is in the store before it is on the topic.
    on_topic = await asyncio.to_thread(rig.read_topic, scene.offsets)
    stored = {str(row[0]) for row in await rig.find_store("SELECT event_id FROM event_store.event")}
    scene.known_on_topic |= {headers["ce_id"] for headers, _ in on_topic} - stored

    def forgotten(history: History, final: Final) -> History:
        known = {event.event_id for event in final.events}
        return History(
            [
                _after(each, restored_s)
                for each in history.operations
                if not _is_of_the_lost(each, target_s, restored_s, known)
            ]
        )

    scene.forgotten = forgotten


async def _rebuild(scene: Scene, *, leaving: bool) -> None:
    """Rebuild as docs/operations.md says; ``leaving`` the new tables once they are filled."""

    def progress(done: int, total: int) -> None:
        if leaving and done == total:
            raise _LeftError

    settings = scene.rig.settings
    async with (
        open_operator_pool(settings.event_store_url) as streams,
        open_operator_pool(settings.read_model_url) as model,
    ):
        for _ in range(REBUILDS_MAX):
            rebuild = Rebuild(streams, model, progress)
            with contextlib.suppress(RebuildRefused, _LeftError):
                if (await rebuild.run(accept_differences=True)).switched:
                    break
            if leaving:
                return
            # Its locks were in use each time, which a slow machine makes likely: it goes on from
            # where it is, in a quiet moment.
            scene.load.going_on.clear()
    scene.load.going_on.set()


async def _lost_tags(scene: Scene, target: str) -> dict[str, str]:
    """Return by account the state that the read model has and the restored store lacks."""
    rows = await scene.rig.find_model(HELD, scene.prefix, target)
    held = {row["account_id"]: row["tag"] for row in rows}
    pairs = [f"{account_id} {tag}" for account_id, tag in held.items()]
    kept = {row["account_id"] for row in await scene.rig.find_store(ON_STREAM, pairs)}
    return {account_id: tag for account_id, tag in held.items() if account_id not in kept}


async def _try_lost(scene: Scene, lost: dict[str, str], *, rebuilt: bool) -> None:
    """Use the tags of lost states in every way."""
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        client = scene.load.client(session)
        for account_id, tag in sorted(lost.items())[:TRIED_MAX]:
            await _try(client, account_id, tag, rebuilt=rebuilt)


async def _try(client: Client, account_id: str, tag: str, *, rebuilt: bool) -> None:
    reads = client.reads
    position = tag.partition("-")[0]
    for held in (tag, position):
        answer = await reads.read_balance(account_id, headers={"If-None-Match": f'"{held}"'})
        assert answer is None or answer.status != NOT_MODIFIED, (account_id, held)
    own = await reads.read_balance(account_id, {"minPosition": tag})
    assert own is None, f"{account_id} showed {own} for the lost {tag}"
    response, _ = await client.attempt(
        Intent(
            account_id=account_id,
            kind="INCOME",
            amount_minor=100,
            key=f"lost-{tag}-{rebuilt}",
            expected=tag,
        )
    )
    assert response.outcome != "recorded", f"{account_id} recorded on the lost {tag}"
    # Before the rebuild there may be no event yet.
    ids = await reads.stream(account_id, tag, DEADLINE_S if rebuilt else STREAM_S, events_max=1)
    assert tag not in ids
    # An account that lost all of its events has no stream until its next one.
    assert ids or not rebuilt or await reads.read_balance(account_id) is None


def _after(operation: Operation, restored_s: float) -> Operation:
    """Return the operation; a read after the restore counts as another client's."""
    if isinstance(operation, Read) and operation.invoked_s > restored_s:
        return replace(operation, client=operation.client + AGAIN)
    return operation


def _is_of_the_lost(
    operation: Operation, target_s: float, restored_s: float, known: set[str]
) -> bool:
    """Return whether it may belong to events that the store has lost since."""
    if isinstance(operation, Read | PastRead):
        return operation.completed_s >= target_s and operation.invoked_s <= restored_s
    return _is_receipt_of_the_lost(operation, restored_s, known)


def _is_receipt_of_the_lost(attempt: Attempt, restored_s: float, known: set[str]) -> bool:
    if attempt.completed_s is None or attempt.completed_s > restored_s:
        return False
    named = attempt.named if attempt.receipt is None else attempt.receipt.event_id
    # Of a stated position it is not known which event it was of.
    return attempt.stated is not None or (named is not None and named not in known)
