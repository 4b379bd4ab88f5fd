"""The faults of the matrix, each injected into real processes under load."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
from confluent_kafka import Producer

from saldo.operate.dead_letters import redrive_account
from saldo.operate.settings import open_operator_pool
from saldo.operate.verification.run import verify
from tests.reliability.faults import clocks, doubt, overload, poison, restore
from tests.reliability.faults.rig import until_true
from tests.reliability.faults.scene import DEADLINE_S, Cell
from tests.support.proxy import APPENDS, Proxy, Rule, until

if TYPE_CHECKING:
    from tests.reliability.faults.rig import Replica, Server
    from tests.reliability.faults.scene import Scene

# Taken, or to be delivered again: the source decides by no other answers.
ANSWERED_TO_A_RECORD = {200, 429, 503}
OUTBOX_DELETE = "DELETE FROM event_store.outbox"
FORGED_AMOUNT = 99_999_999


# --- functions that are killed and stopped ----------------------------------------------------


async def _kill_replica(scene: Scene, front: Proxy, replicas: list[Replica]) -> None:
    """SIGKILL, with requests in flight that get no answer."""
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
    """SIGTERM, with requests in flight."""
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
    """Between Kafka's acknowledgement and the DELETE of the outbox's rows, which never arrives."""
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
    """SIGSTOP with a batch's COMMIT under way, until the database ends its session; then on."""
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
    """SIGSTOP of a projector; in the long form until the source has given a delivery up."""
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


# --- Kafka and its source ---------------------------------------------------------------------


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
    """Down before the recorders start and until the load ends: they never meet it."""
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
    """SIGKILL with deliveries in flight: all since its last commit is delivered again."""
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
    """Everything on the topic comes twice more, in any order, while the load goes on."""
    scene.begin()
    records = await _own_records(scene)
    twice = records * 2
    scene.chance.shuffle(twice)
    statuses = await scene.rig.deliver(twice)
    scene.hits = statuses.count(200)
    assert set(statuses) <= ANSWERED_TO_A_RECORD, statuses
    scene.heal()


async def _own_records(scene: Scene) -> list[tuple[dict[str, str], bytes]]:
    await until_true(lambda: _has_records(scene), "records on the topic")
    records = await asyncio.to_thread(scene.rig.read_topic, scene.offsets)
    return [each for each in records if each[0]["ce_subject"].startswith(scene.prefix)]


async def _has_records(scene: Scene) -> bool:
    return await asyncio.to_thread(scene.rig.ends_of_topic) != scene.offsets


async def withheld(scene: Scene) -> None:
    """No source; some records never come, all of some accounts' too, the others in any order."""
    scene.begin()
    for source in scene.rig.sources:
        await asyncio.to_thread(source.stop, DEADLINE_S)
    await scene.under_fault()
    records = await _own_records(scene)
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
    """Projector and dead letter sink are out of reach: the source drops what it has given up."""
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


# --- PostgreSQL -------------------------------------------------------------------------------


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
    """COMMIT is carried out, and the connection cut in the place of its answer."""
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
    """Every connection to both databases is slow, and cut again and again."""
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
    """Somebody locks the streams' table, for longer than the recorder's lock_timeout of 3 s."""
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


# --- the clock --------------------------------------------------------------------------------


# --- what is stored ---------------------------------------------------------------------------


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
    """Whether no projector's statement is under way in the event store."""
    return not await scene.rig.find_store(
        "SELECT FROM pg_stat_activity"
        " WHERE application_name = 'saldo-project-balance' AND state = 'active'"
    )


async def _position(scene: Scene, account_id: str) -> int:
    """Where the account's stream ends."""
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
    headers, value = scene.choose(await _own_records(scene))
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


CELLS = (
    Cell(
        name="record-killed",
        fault="record_transaction, one of two: SIGKILL",
        window="requests cut off",
        run=record_killed,
    ),
    Cell(
        name="record-stopped",
        fault="record_transaction, one of two: SIGTERM",
        window="requests in flight",
        run=record_stopped,
    ),
    Cell(
        name="balance-killed",
        fault="get_balance, one of two: SIGKILL",
        window="requests cut off",
        run=balance_killed,
    ),
    Cell(
        name="balance-stopped",
        fault="get_balance, one of two: SIGTERM",
        window="requests in flight",
        run=balance_stopped,
    ),
    Cell(
        name="project-killed",
        fault="project_balance, one of two: SIGKILL",
        window="deliveries cut off",
        run=project_killed,
    ),
    Cell(
        name="project-stopped",
        fault="project_balance, one of two: SIGTERM",
        window="deliveries in flight",
        run=project_stopped,
    ),
    Cell(
        name="relay-killed",
        fault="relay: SIGKILL between Kafka's acknowledgement and the outbox's DELETE",
        window="DELETEs never delivered",
        run=relay_killed,
    ),
    Cell(
        name="record-paused",
        fault="record_transaction: SIGSTOP in a COMMIT, longer than the database's timeouts",
        window="sessions ended by the database",
        run=paused,
    ),
    Cell(
        name="project-paused",
        fault="project_balance: SIGSTOP with deliveries in flight",
        window="deliveries without a response",
        run=project_paused,
    ),
    Cell(
        name="kafka-bounced",
        fault="Kafka: SIGKILL and restart",
        window="rows waiting in the outbox",
        run=kafka_bounced,
    ),
    Cell(
        name="kafka-out",
        fault="Kafka: down for 30 s (quick form: 3 s)",
        window="rows waiting in the outbox",
        run=kafka_out,
    ),
    Cell(
        name="kafka-never",
        fault="Kafka: down before the recorders start, until the load ends",
        window="rows waiting in the outbox",
        run=kafka_never_there,
    ),
    Cell(
        name="source-killed",
        fault="KafkaSource, one of two: SIGKILL",
        window="deliveries cut off",
        run=source_killed,
    ),
    Cell(
        name="source-rebalanced",
        fault="KafkaSource: a third member joins and leaves",
        window="rebalances",
        run=rebalanced,
    ),
    Cell(
        name="redelivered",
        fault="every record delivered twice more, in any order",
        window="deliveries repeated",
        run=redelivered,
    ),
    Cell(
        name="withheld",
        fault="records withheld, the others reordered",
        window="records never delivered",
        run=withheld,
    ),
    Cell(
        name="sink-down",
        fault="projector and dead letter sink unreachable",
        window="records dropped by the source",
        run=sink_down,
    ),
    Cell(
        name="store-killed",
        fault="event store's PostgreSQL: SIGKILL to all its processes",
        window="statements cut off",
        run=store_killed,
    ),
    Cell(
        name="store-restarted",
        fault="event store's PostgreSQL: restart",
        window="statements cut off",
        run=store_restarted,
    ),
    Cell(
        name="model-killed",
        fault="read model's PostgreSQL: SIGKILL to all its processes",
        window="statements cut off",
        run=model_killed,
    ),
    Cell(
        name="commit-unanswered",
        fault="connection cut after COMMIT was executed",
        window="COMMITs executed but not acknowledged",
        run=commit_unanswered,
    ),
    Cell(
        name="commit-undelivered",
        fault="connection cut before COMMIT arrived",
        window="COMMITs never delivered",
        run=commit_undelivered,
    ),
    Cell(
        name="commit-late",
        fault="connection cut, its statements executed later",
        window="COMMITs and appends executed late",
        run=commit_late,
    ),
    Cell(
        name="commit-in-doubt",
        fault="dependent requests in one batch whose commit stays in doubt until the 503",
        window="responses outcome-unknown or store-busy",
        run=doubt.commit_in_doubt,
    ),
    Cell(
        name="projection-unanswered",
        fault="the projector's connection cut after COMMIT was executed",
        window="COMMITs executed but not acknowledged",
        run=projection_unanswered,
    ),
    Cell(
        name="connections-cut",
        fault="every database connection slow and repeatedly cut",
        window="statements cut off",
        run=connections_cut,
    ),
    Cell(
        name="connections-refused",
        fault="no database connection left for the recorder's role",
        window="connections refused",
        run=connections_refused,
    ),
    Cell(
        name="table-locked",
        fault="the streams' table locked for 10 s (quick form: 4 s)",
        window="statements waiting for the lock",
        run=table_locked,
    ),
    Cell(
        name="clock-back",
        fault="the recorders' clock jumps back by ten minutes, twice",
        window="events recorded by these recorders",
        run=clocks.clock_back,
    ),
    Cell(
        name="clock-ahead",
        fault="one recorder's clock ahead: ten minutes, three hours, 400 days",
        window="events recorded by this recorder",
        run=clocks.clock_ahead,
    ),
    Cell(
        name="readers-clock",
        fault="projectors' and readers' clocks wrong: up to 400 days ahead, three hours behind",
        window="deliveries of events beyond the store",
        run=clocks.readers_clock,
    ),
    Cell(
        name="store-clock",
        fault="event store's clock jumps: three hours ahead, back, ten minutes behind, right",
        window="events stamped in the future",
        run=clocks.store_clock,
    ),
    Cell(
        name="schema-unknown",
        fault="an event of an unknown schema, one account among 1,000",
        window="accounts suspended",
        run=poison.schema_unknown,
    ),
    Cell(
        name="row-corrupted",
        fault="an event's row changed before it was projected",
        window="rows changed and reported",
        run=row_corrupted,
    ),
    Cell(
        name="record-forged",
        fault="forged records on the topic",
        window="forged records delivered",
        run=record_forged,
    ),
    Cell(
        name="store-restored",
        fault="event store restored to a moment before its last events",
        window="balances of lost events",
        run=restore.store_restored,
    ),
    Cell(
        name="overloaded",
        fault="ten times the sustained load for 60 s (quick form: 4 s)",
        window="requests refused",
        run=overload.overloaded,
    ),
)
