"""Requests of one batch that depend on each other while the batch's commit stays in doubt."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import aiohttp

from tests.reliability.faults.intents import Intent, Known, dependent
from tests.reliability.faults.scene import DEADLINE_S
from tests.support.proxy import APPENDS, Rule
from tests.support.waiting import until_true

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reliability.faults.driver import Client
    from tests.reliability.faults.intents import Response
    from tests.reliability.faults.replica import Replica
    from tests.reliability.faults.scene import Scene

Action = Literal["cut-after", "cut-before", "cut-late"]
ACTIONS: tuple[Action, ...] = ("cut-before", "cut-after", "cut-late")
TOLD = {"503 outcome-unknown", "503 store-busy"}
QUEUED = "saldo_queue_weight{"


async def commit_in_doubt(scene: Scene) -> None:
    """Send one batch to a recorder; cut its commit, and keep the database away until the 503."""
    replica = scene.choose(scene.rig.record)
    front = scene.rig.record_front
    others = [port for port in front.upstreams if port != replica.port]
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    scene.begin()
    async with aiohttp.ClientSession(timeout=timeout) as session:
        # The load goes to the other recorders meanwhile.
        everyone, front.upstreams[:] = list(front.upstreams), others
        for link in tuple(front.links):
            if link.upstream == replica.port:
                link.cut()
        client = scene.load.client(session, f"http://127.0.0.1:{replica.port}")
        for number, action in enumerate(ACTIONS if scene.form == "long" else ACTIONS[:1]):
            await _round(scene, replica, client, session, action, number)
        front.upstreams[:] = everyone
    scene.heal()


async def _round(  # noqa: PLR0913 - the parts of one round
    scene: Scene,
    replica: Replica,
    client: Client,
    session: aiohttp.ClientSession,
    action: Action,
    number: int,
) -> None:
    account_id, other = (f"{scene.prefix}-doubt-{number}-{name}" for name in ("a", "b"))
    key = f"doubt-{number}"
    # Accounts that exist, one of which has a transaction to reverse.
    await client.insist(_income(other, f"{key}-begin"))
    known = await _recorded(client, _income(account_id, f"{key}-reversed"))
    requests = dependent(known, other, key)
    # While one request's commit is held, the others on its account gather to the next batch.
    hold = Rule(begins="COMMIT", alone=APPENDS, action="hold", hits_max=1)
    cut = Rule(begins="COMMIT", alone=APPENDS, action=action, hits_max=1, outage=True)
    replica.store.rules += [hold, cut]
    before = asyncio.create_task(client.insist(_income(account_id, f"{key}-before")))
    await asyncio.wait_for(hold.hit.wait(), DEADLINE_S)
    sent = [asyncio.create_task(client.attempt(*request)) for request in requests]
    weight = sum(map(len, requests))

    async def all_wait() -> bool:
        return await _queued(session, replica) == weight

    await until_true(all_wait, "all requests wait for the next batch")
    hold.release.set()
    await before
    responses = [response for response, _ in await asyncio.gather(*sent)]
    assert cut.hits == 1, "the batch's commit was not cut"
    _count(scene, responses)
    replica.store.refusing = False
    replica.store.rules[:] = []
    cut.release.set()
    if action == "cut-late":
        await asyncio.wait_for(cut.carried_out.wait(), DEADLINE_S)
    await asyncio.gather(*(client.insist(*request, gives_up=0) for request in requests))


def _count(scene: Scene, responses: Sequence[Response]) -> None:
    """Count the responses that say that nothing is certain, by what they say."""
    for response in responses:
        scene.hits += response.said in TOLD
        name = response.said or response.outcome
        scene.notes[name] = int(scene.notes.get(name, 0)) + 1


def _income(account_id: str, key: str) -> Intent:
    return Intent(account_id=account_id, kind="INCOME", amount_minor=500, key=key)


async def _recorded(client: Client, intent: Intent) -> Known:
    """Record it; a client may find its outcome unknown at first."""
    receipt = None

    async def is_recorded() -> bool:
        nonlocal receipt
        response, _ = await client.attempt(intent)
        receipt = response.receipts[0] if response.receipts else None
        return receipt is not None

    await until_true(is_recorded, f"{intent.key} is recorded")
    assert receipt is not None
    return Known(account_id=intent.account_id, receipt=receipt, amount_minor=intent.amount_minor)


async def _queued(session: aiohttp.ClientSession, replica: Replica) -> int:
    """Return the weight that waits for the recorder's next batch."""
    async with session.get(f"http://127.0.0.1:{replica.port}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(QUEUED))
