"""Faults of PostgreSQL and of the connections to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from tests.reliability.faults.scene import DEADLINE_S
from tests.support.proxy import APPENDS, Proxy, Rule, until
from tests.support.waiting import until_true

if TYPE_CHECKING:
    from tests.reliability.faults.postgres_server import Server
    from tests.reliability.faults.scene import Scene


async def _database_down(scene: Scene, server: Server, proxies: list[Proxy], *, kill: bool) -> None:
    """Stop the server with statements in flight, and start it again."""
    for _ in range(20):
        before = sum(proxy.cut_by_server for proxy in proxies)
        await scene.until_in_flight(
            lambda: sum(proxy.in_flight() for proxy in proxies), "a statement"
        )
        scene.begin()
        await (server.kill() if kill else server.stop())
        await scene.under_fault()
        scene.hits += sum(proxy.cut_by_server for proxy in proxies) - before
        await server.start()
        if scene.hits:
            break
        await scene.warm()
    scene.heal()


def _store_proxies(scene: Scene) -> list[Proxy]:
    return [replica.store for replica in scene.rig.record]


def _model_proxies(scene: Scene) -> list[Proxy]:
    return [replica.model for replica in (*scene.rig.project, *scene.rig.balance)]


async def store_killed(scene: Scene) -> None:
    await _database_down(scene, scene.rig.store, _store_proxies(scene), kill=True)


async def store_restarted(scene: Scene) -> None:
    await _database_down(scene, scene.rig.store, _store_proxies(scene), kill=False)


async def model_killed(scene: Scene) -> None:
    await _database_down(scene, scene.rig.model, _model_proxies(scene), kill=True)


async def _cut_commit(scene: Scene, rules: list[tuple[Proxy, Rule]]) -> None:
    scene.begin()
    for proxy, rule in rules:
        proxy.rules.append(rule)
    await until(
        lambda: sum(rule.hits for _, rule in rules) >= len(rules), DEADLINE_S, "a COMMIT is cut"
    )
    await scene.under_fault()
    for proxy, rule in rules:
        proxy.rules.remove(rule)
    scene.hits = sum(rule.hits for _, rule in rules)
    scene.heal()


async def commit_unanswered(scene: Scene) -> None:
    """Cut the connection after COMMIT was executed, before its response."""
    rules = [
        (replica.store, Rule(begins="COMMIT", alone=APPENDS, action="cut-after", hits_max=5))
        for replica in scene.rig.record
    ]
    await _cut_commit(scene, rules)


async def commit_undelivered(scene: Scene) -> None:
    """Cut the connection before COMMIT is carried out."""
    rules = [
        (replica.store, Rule(begins="COMMIT", alone=APPENDS, action="cut-before", hits_max=5))
        for replica in scene.rig.record
    ]
    await _cut_commit(scene, rules)


async def commit_late(scene: Scene) -> None:
    """Cut the connection, and carry out its statements after the batch was retried."""
    rules = [
        (replica.store, Rule(begins="COMMIT", alone=APPENDS, action="cut-late", hits_max=3))
        for replica in scene.rig.record
    ]
    scene.begin()
    for proxy, rule in rules:
        proxy.rules.append(rule)
    await until(lambda: all(rule.hits for _, rule in rules), DEADLINE_S, "an append is cut")
    await scene.under_fault()
    for proxy, rule in rules:
        proxy.rules.remove(rule)
        rule.release.set()
        await asyncio.wait_for(rule.carried_out.wait(), DEADLINE_S)
    scene.hits = sum(rule.hits for _, rule in rules)
    scene.heal()


async def projection_unanswered(scene: Scene) -> None:
    """Cut the connection after the projector's COMMIT in the read model."""
    rules = [
        (replica.model, Rule(begins="COMMIT", action="cut-after", hits_max=3))
        for replica in scene.rig.project[:1]
    ]
    await _cut_commit(scene, rules)


async def connections_cut(scene: Scene) -> None:
    """Slow down every connection to both databases, and cut it repeatedly."""
    proxies = [proxy for each in scene.rig.replicas for proxy in (each.store, each.model)]
    scene.begin()
    for proxy in proxies:
        proxy.delay_s = 0.01
    for _ in range(5 if scene.form == "quick" else 20):
        await scene.under_fault(0.2)
        await scene.until_in_flight(
            lambda: sum(proxy.in_flight() for proxy in proxies), "a statement"
        )
        scene.hits += sum(proxy.cut() for proxy in proxies)
    for proxy in proxies:
        proxy.delay_s = 0.0
    scene.heal()


async def connections_refused(scene: Scene) -> None:
    """Leave the recorder's role no database connection."""
    said = 'too many connections for role "saldo_record"'
    before = scene.rig.store.said(said)
    scene.begin()
    await scene.rig.find_store("ALTER ROLE saldo_record CONNECTION LIMIT 0")
    await scene.rig.find_store(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'saldo_record'"
    )
    try:
        await until(lambda: scene.rig.store.said(said) > before, DEADLINE_S, said)
        await scene.under_fault()
        scene.hits = scene.rig.store.said(said) - before
    finally:
        await scene.rig.find_store("ALTER ROLE saldo_record CONNECTION LIMIT -1")
    scene.heal()


WAITING = """
SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'event_store.stream'::regclass
"""


async def table_locked(scene: Scene) -> None:
    """Lock the streams' table for longer than the recorder's lock_timeout of 3 s."""
    connection = await asyncpg.connect(scene.rig.store.dsn())
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE event_store.stream IN ACCESS EXCLUSIVE MODE")
            scene.begin()
            await until_true(lambda: _note_waiters(scene), "somebody waits for the lock")
            await scene.under_fault(4.0 if scene.form == "quick" else 10.0)
    finally:
        await connection.close()
    scene.heal()


async def _note_waiters(scene: Scene) -> int:
    [[waiting]] = await scene.rig.find_store(WAITING)
    scene.hits = max(scene.hits, waiting)
    return int(waiting)
