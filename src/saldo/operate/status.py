"""``saldo status``: the state of all parts on one page."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from saldo.operate.ledger_client import url_of
from saldo.operate.settings import (
    Connection,
    OperatorSettings,
    connected,
    kafka_client_config,
    read_operator_settings,
)
from saldo.operate.terminal import AsJson, print_table, respond, results
from saldo.record.postgres import DEPTH
from saldo.serve.clock import CLOCK_OFF_MAX_S, StoreClock, store_now
from saldo.serve.database import DRIVER_ERRORS
from saldo.serve.functions import FUNCTIONS
from saldo.serve.settings import KafkaSettings

PROBE_TIMEOUT_S = 3.0
# A function whose URL is not set is not checked: in a Job of the cluster nothing listens on the
# local ports. Other states are failures.
COLOURS = {"ok": "green", "not checked": "dim"}
# A server's Date header is in whole seconds, and kept for a second.
DATE_AGE_MAX = timedelta(seconds=2)
# How far back the lag in seconds is looked for: what lags longer shows in the positions.
RECENT_EVENTS = 20_000

STREAMS = """
SELECT count(*) AS accounts,
       least(coalesce(sum(position), 0), 9223372036854775807)::bigint AS events
FROM event_store.stream WHERE position > 0
"""
SWEEPS = """
SELECT name, swept_at AS "sweptAt", found,
       round(extract(epoch FROM clock_timestamp() - swept_at), 1)::float8 AS "secondsAgo"
FROM event_store.sweep
"""
RECENT = """
SELECT account_id, max(position) AS position FROM (
    SELECT account_id, position FROM event_store.event ORDER BY appended_at DESC LIMIT $1
) AS e GROUP BY account_id
"""
OLDEST = """
SELECT extract(epoch FROM clock_timestamp() - min(e.appended_at))::float8
FROM unnest($1::text[], $2::bigint[]) AS l (account_id, position)
JOIN event_store.event AS e ON e.account_id = l.account_id AND e.position = l.position
"""
BALANCES = """
SELECT least(coalesce(sum(position), 0), 9223372036854775807)::bigint AS projected,
       count(*) FILTER (WHERE blocked_schema IS NOT NULL) AS blocked FROM read_model.balance
"""
STANDING = "SELECT account_id, position FROM read_model.balance WHERE account_id = ANY ($1::text[])"
BLOCKED = """
SELECT account_id, blocked_at, blocked_reason FROM read_model.balance
WHERE blocked_schema IS NOT NULL ORDER BY blocked_at LIMIT 20
"""
LETTERS = "SELECT count(*) FROM read_model.dead_letter WHERE redriven_at IS NULL"
MODEL_SWEEPS = SWEEPS.replace("event_store", "read_model")


@dataclass(slots=True)
class Status:
    """Each part's state ("ok", or what is wrong), and the figures."""

    parts: dict[str, str] = field(default_factory=dict)
    accounts: int = 0
    events: int = 0
    behind_positions: int = 0
    behind_s: float = 0.0
    outbox_rows: int = 0
    outbox_age_s: float = 0.0
    dead_letters: int = 0
    blocked: int = 0
    blocked_accounts: list[dict[str, Any]] = field(default_factory=list)
    # How far each process that responded is ahead of the event store's clock; negative: behind.
    clocks_ahead_s: dict[str, float] = field(default_factory=dict)
    sweeps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def clocks_off(self) -> list[str]:
        """Return the processes whose clock is off by more than CLOCK_OFF_MAX_S."""
        return [n for n, ahead_s in self.clocks_ahead_s.items() if abs(ahead_s) > CLOCK_OFF_MAX_S]


async def status_command(*, as_json: AsJson = False) -> None:
    """Show the state of all parts; exit 1 if one is down, or something waits for an operator."""
    status = await read_status()
    down = any(_colour(state) == "red" for state in status.parts.values())
    waits = status.clocks_off or status.blocked or status.dead_letters
    respond(status, lambda: _show(status), as_json=as_json, failed=bool(down or waits))


async def read_status() -> Status:
    """Read the state of every part. One that is down does not hide the others."""
    settings = read_operator_settings()
    settings_of = {f"{function.prefix}_URL": function for function in FUNCTIONS}
    status = Status(parts={f.name: f"not checked: set {url}" for url, f in settings_of.items()})
    urls = [(f.name, url_of(f)) for setting, f in settings_of.items() if setting in os.environ]
    clock = StoreClock()
    status.parts["event store"] = await _state(_read_store(settings, status, clock))
    async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S) as client:
        await asyncio.gather(*(_probe(client, *each, status, clock) for each in urls))
    status.parts["read model"] = await _state(_read_model(settings, status))
    if settings.kafka is not None:
        status.parts["kafka"] = await _state(_read_kafka(settings.kafka))
    return status


async def _probe(
    client: httpx.AsyncClient, name: str, url: str, status: Status, clock: StoreClock
) -> None:
    """Note a function's state, and its clock by the Date header, which every response has."""
    sent_at = clock.now()
    try:
        response = await client.get(f"{url}/readyz")
    except httpx.HTTPError as error:
        status.parts[name] = f"down: {type(error).__name__}"
        return
    status.parts[name] = "ok" if response.is_success else f"responds {response.status_code}"
    received_at = clock.now()
    if sent_at is not None and received_at is not None and "date" in response.headers:
        date = parsedate_to_datetime(response.headers["date"])
        ahead = max(date - received_at, timedelta(0))
        behind = max(sent_at - date - DATE_AGE_MAX, timedelta(0))
        status.clocks_ahead_s[name] = round((ahead - behind).total_seconds(), 1)


async def _state(reading: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S * 3):
            await reading
    except (*DRIVER_ERRORS, KafkaException) as error:
        return f"down: {str(error) or type(error).__name__}"
    return "ok"


async def _read_store(settings: OperatorSettings, status: Status, clock: StoreClock) -> None:
    async with connected(settings.event_store_url) as store:
        await clock.read(lambda: store_now(store))
        [(status.accounts, status.events)] = await store.fetch(STREAMS)
        [(status.outbox_rows, age_s)] = await store.fetch(DEPTH)
        status.outbox_age_s = float(age_s or 0)
        status.sweeps += map(dict, await store.fetch(SWEEPS))


async def _read_model(settings: OperatorSettings, status: Status) -> None:
    async with connected(settings.read_model_url) as model:
        [(projected, status.blocked)] = await model.fetch(BALANCES)
        # Events may have come since the streams were counted.
        status.behind_positions = max(0, status.events - projected)
        status.blocked_accounts = [dict(row) for row in await model.fetch(BLOCKED)]
        status.dead_letters = await model.fetchval(LETTERS)
        status.sweeps += map(dict, await model.fetch(MODEL_SWEEPS))
        if status.behind_positions:
            status.behind_s = await _behind_s(settings, model)


async def _behind_s(settings: OperatorSettings, model: Connection) -> float:
    """Return the age of the oldest recent event that is not projected."""
    async with connected(settings.event_store_url) as store:
        ends = {r["account_id"]: r["position"] for r in await store.fetch(RECENT, RECENT_EVENTS)}
        rows = await model.fetch(STANDING, list(ends))
        standing = dict.fromkeys(ends, 0) | {row["account_id"]: row["position"] for row in rows}
        lagging = {a: standing[a] + 1 for a, end in ends.items() if standing[a] < end}
        return await store.fetchval(OLDEST, list(lagging), list(lagging.values())) or 0.0


async def _read_kafka(kafka: KafkaSettings) -> None:
    admin = AdminClient({**kafka_client_config(kafka), "log_level": 0})
    await asyncio.to_thread(admin.list_topics, kafka.topic, PROBE_TIMEOUT_S)


def _colour(state: str) -> str:
    return COLOURS.get(state.partition(":")[0], "red")


def _show(status: Status) -> None:
    lines = [f"{name:<20}[{_colour(state)}]{state}[/]" for name, state in status.parts.items()]
    lines += [
        f"[red]{name}: its clock is {status.clocks_ahead_s[name]} s ahead of the event store's[/]: "
        "set one of them right"
        for name in status.clocks_off
    ]
    lines += [
        f"{status.events} events of {status.accounts} accounts",
        f"read model behind by {status.behind_positions} positions, {status.behind_s:.1f} s",
        f"outbox {status.outbox_rows} rows, the oldest {status.outbox_age_s:.1f} s",
    ]
    lines += ["{name} sweep {secondsAgo} s ago, found {found}".format_map(s) for s in status.sweeps]
    lines.append(f"{status.dead_letters} dead letters wait, {status.blocked} accounts are blocked")
    results.print("\n".join(lines), soft_wrap=True)
    if status.blocked_accounts:
        columns = ("account_id", "blocked_at", "blocked_reason")
        print_table(columns, [row.values() for row in status.blocked_accounts])
