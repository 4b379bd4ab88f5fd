"""One account among a thousand with an event that no version here can project."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg

from tests.reliability.faults.driver import p99_ms
from tests.support.stored import Ledger, append_unreadable
from tests.support.waiting import until_true

if TYPE_CHECKING:
    from tests.reliability.faults.scene import Scene

ACCOUNTS = 1_000
MEASURED = {"quick": 150, "long": 999}
AT_A_TIME = 4
WAIT_S = 30  # short: the most that Prefer: wait may say
REQUEST_TIMEOUT_S = 150
POSTS_MAX = 20

PUT_INTO_OUTBOX = """
INSERT INTO event_store.outbox (account_id, position)
SELECT account_id, position FROM event_store.stream WHERE account_id = $1
"""
LETTERS = "SELECT reason FROM read_model.dead_letter WHERE account_id = $1 AND redriven_at IS NULL"


async def schema_unknown(scene: Scene) -> None:
    """Append an unknown schema: its account stops with one dead letter, all others continue."""
    rig, prefix = scene.rig, f"poison-{scene.load.seed}"
    accounts = [f"{prefix}-{number}" for number in range(ACCOUNTS)]
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await _record_all(scene, session, accounts)
        await rig.until_at_rest(prefix)
        scene.begin()
        bad = accounts[0]
        await _append(scene, bad)

        async def says_so() -> bool:
            url = f"{scene.load.balance_url}/balances"
            async with session.get(url, params={"accountId": bad}) as answer:
                return "blocked" in await answer.json()

        await until_true(says_so, "the account says that it is suspended")
        letters = await rig.find_model(LETTERS, bad)
        assert len(letters) == 1, letters
        lags_s = await _lags(scene, session, accounts[1 : 1 + MEASURED[scene.form]])
    # The relay's sweep sent it with any schema: a newer consumer may know it.
    await until_true(lambda: _is_sent(scene, bad), "the event of an unknown schema is sent")
    scene.hits = 1
    scene.notes |= {
        "accounts": ACCOUNTS,
        "others_measured": len(lags_s),
        "others_lag_p99_ms": round(p99_ms(lags_s), 1),
    }
    scene.heal()


async def _is_sent(scene: Scene, account_id: str) -> bool:
    return not await scene.rig.find_store(
        "SELECT FROM event_store.outbox WHERE account_id = $1", account_id
    )


async def _record_all(scene: Scene, session: aiohttp.ClientSession, accounts: list[str]) -> None:
    lines = [{"accountId": each, "type": "INCOME", "value": "1.00"} for each in accounts]
    await _post(scene, session, lines)


async def _post(scene: Scene, session: aiohttp.ClientSession, body: object) -> Any:
    """Return the body of a 201; retry a busy store, which recorded nothing."""
    for _ in range(POSTS_MAX):
        url = f"{scene.load.record_url}/transactions"
        async with session.post(url, json=body) as answer:
            content = await answer.json()
        if answer.status == 201:
            return content
        assert content["type"].endswith(":store-busy"), content
    raise AssertionError(f"refused {POSTS_MAX} times")


async def _append(scene: Scene, account_id: str) -> None:
    """Append an event and its outbox row as a newer recorder would."""
    pool = await asyncpg.create_pool(scene.rig.store.dsn(), min_size=0, max_size=1)
    async with pool:
        ledger = Ledger(pool=pool, settings=scene.rig.settings)
        [[last]] = await scene.rig.find_store(
            "SELECT public_text FROM event_store.event WHERE account_id = $1", account_id
        )
        text: dict[str, Any] = json.loads(last) | {"schema": 99, "position": 2}
        await append_unreadable(ledger, account_id, json.dumps(text, separators=(",", ":")))
        await pool.execute(PUT_INTO_OUTBOX, account_id)


async def _lags(scene: Scene, session: aiohttp.ClientSession, accounts: list[str]) -> list[float]:
    """Return how long after its 201 each account shows what was recorded, in seconds."""
    lags_s: list[float] = []
    waiting = iter(accounts)

    async def work() -> None:
        for account_id in waiting:
            body = {"accountId": account_id, "type": "INCOME", "value": "1.00"}
            position = (await _post(scene, session, body))["position"]
            recorded_s = time.monotonic()
            async with session.get(
                f"{scene.load.balance_url}/balances",
                params={"accountId": account_id, "minPosition": str(position)},
                headers={"Prefer": f"wait={WAIT_S}"},
            ) as answer:
                assert answer.status == 200, await answer.text()
            lags_s.append(time.monotonic() - recorded_s)

    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    return lags_s
