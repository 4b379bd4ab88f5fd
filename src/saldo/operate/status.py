"""``saldo status``: the state of all parts on one page."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import typer
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from saldo.operate.ledger_client import Functions
from saldo.operate.settings import connected, kafka_client_config, read_operator_settings
from saldo.operate.terminal import FAILED, AsJson, answers, print_table, respond, run
from saldo.record.outbox import DEPTH
from saldo.serve.clock import CLOCK_OFF_MAX_S, StoreClock, store_now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from saldo.operate.settings import OperatorSettings
    from saldo.serve.settings import KafkaSettings

PROBE_TIMEOUT_S = 3.0
# A server's Date header is in whole seconds, and kept for a second.
DATE_AGE_MAX = timedelta(seconds=2)
# How far back the lag in seconds is looked for: what lags longer shows in the positions.
RECENT_EVENTS = 20_000

STREAMS = """
SELECT count(*) AS accounts, coalesce(sum(position), 0)::bigint AS events FROM event_store.stream
WHERE position > 0
"""
SWEEPS = "SELECT name, swept_at, found, clock_timestamp() - swept_at AS ago FROM event_store.sweep"
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
SELECT coalesce(sum(position), 0)::bigint AS projected,
       count(*) FILTER (WHERE blocked_schema IS NOT NULL) AS blocked FROM read_model.balance
"""
STANDING = "SELECT account_id, position FROM read_model.balance WHERE account_id = ANY ($1::text[])"
BLOCKED = """
SELECT account_id, blocked_at, blocked_reason FROM read_model.balance
WHERE blocked_schema IS NOT NULL ORDER BY blocked_at LIMIT 20
"""
LETTERS = "SELECT count(*) FROM read_model.dead_letter WHERE redriven_at IS NULL"
MODEL_SWEEPS = (
    "SELECT name, swept_at, found, clock_timestamp() - swept_at AS ago FROM read_model.sweep"
)


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
    # How far each process that answered is ahead of the event store's clock; negative: behind.
    clocks_ahead_s: dict[str, float] = field(default_factory=dict)
    sweeps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Return whether every part responds and nothing waits for an operator."""
        parts_well = all(state == "ok" for state in self.parts.values())
        return parts_well and not self.clocks_off and not self.blocked and not self.dead_letters

    @property
    def clocks_off(self) -> list[str]:
        """Return the processes whose clock is off by more than CLOCK_OFF_MAX_S."""
        return [n for n, ahead_s in self.clocks_ahead_s.items() if abs(ahead_s) > CLOCK_OFF_MAX_S]


def status_command(*, as_json: AsJson = False) -> None:
    """Show the state of all parts; exit 1 if one is down, or something waits for an operator."""
    status = run(read_status())
    respond(status, lambda: _show(status), as_json=as_json)
    if not status.well:
        raise typer.Exit(FAILED)


async def read_status() -> Status:
    """Ask every part. One that is down does not hide the others."""
    settings = read_operator_settings()
    functions = Functions.from_environment()
    status = Status()
    probes = (
        ("record_transaction", functions.record_url),
        ("get_balance", functions.balance_url),
        ("project_balance", functions.project_url),
    )
    status.parts = {name: "down" for name, _ in probes}
    clock = StoreClock()
    status.parts["event store"] = await _state(lambda: _read_store(settings, status, clock))
    async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S) as client:
        await asyncio.gather(*(_probe(client, name, url, status, clock) for name, url in probes))
    status.parts["read model"] = await _state(lambda: _read_model(settings, status))
    kafka = settings.kafka
    if kafka is not None:
        status.parts["kafka"] = await _state(lambda: _ask_kafka(kafka))
    return status


async def _probe(
    client: httpx.AsyncClient, name: str, url: str, status: Status, clock: StoreClock
) -> None:
    """Note a function's state, and its clock by the Date header, which every response has."""
    asked_at = clock.now()
    try:
        answer = await client.get(f"{url}/readyz")
    except httpx.HTTPError as error:
        status.parts[name] = f"down: {type(error).__name__}"
        return
    status.parts[name] = "ok" if answer.is_success else f"answers {answer.status_code}"
    answered_at = clock.now()
    if asked_at is not None and answered_at is not None and "date" in answer.headers:
        told_at = parsedate_to_datetime(answer.headers["date"])
        ahead = max(told_at - answered_at, timedelta(0))
        behind = max(asked_at - told_at - DATE_AGE_MAX, timedelta(0))
        status.clocks_ahead_s[name] = round((ahead - behind).total_seconds(), 1)


async def _state(read: Callable[[], Awaitable[None]]) -> str:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S * 3):
            await read()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        return f"down: {str(error) or type(error).__name__}"
    return "ok"


async def _read_store(settings: OperatorSettings, status: Status, clock: StoreClock) -> None:
    async with connected(settings.event_store_url) as store:
        await clock.read(lambda: store_now(store))
        row = await store.fetchrow(STREAMS)
        if row is not None:
            status.accounts, status.events = row["accounts"], row["events"]
        row = await store.fetchrow(DEPTH)
        if row is not None:
            status.outbox_rows, status.outbox_age_s = row["rows"], float(row["age_s"] or 0)
        status.sweeps += [_sweep(row) for row in await store.fetch(SWEEPS)]


async def _read_model(settings: OperatorSettings, status: Status) -> None:
    async with connected(settings.read_model_url) as model:
        row = await model.fetchrow(BALANCES)
        if row is not None:
            # Events may have come since the streams were counted.
            status.behind_positions = max(0, status.events - row["projected"])
            status.blocked = row["blocked"]
        status.blocked_accounts = [dict(row) for row in await model.fetch(BLOCKED)]
        status.dead_letters = await model.fetchval(LETTERS)
        status.sweeps += [_sweep(row) for row in await model.fetch(MODEL_SWEEPS)]
        if status.behind_positions:
            status.behind_s = await _behind_s(settings, model)


async def _behind_s(settings: OperatorSettings, model: asyncpg.Connection[asyncpg.Record]) -> float:
    """Return the age of the oldest recent event that is not projected."""
    async with connected(settings.event_store_url) as store:
        ends = {r["account_id"]: r["position"] for r in await store.fetch(RECENT, RECENT_EVENTS)}
        rows = await model.fetch(STANDING, list(ends))
        standing = {row["account_id"]: row["position"] for row in rows}
        lagging = {a: standing.get(a, 0) + 1 for a, end in ends.items() if standing.get(a, 0) < end}
        return await store.fetchval(OLDEST, list(lagging), list(lagging.values())) or 0.0


def _sweep(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "name": row["name"],
        "sweptAt": row["swept_at"],
        "found": row["found"],
        "secondsAgo": round(row["ago"].total_seconds(), 1),
    }


async def _ask_kafka(kafka: KafkaSettings) -> None:
    admin = AdminClient({**kafka_client_config(kafka), "log_level": 0})
    try:
        await asyncio.to_thread(admin.list_topics, kafka.topic, PROBE_TIMEOUT_S)
    except KafkaException as error:
        raise OSError(str(error.args[0])) from error


def _show(status: Status) -> None:
    for name, state in status.parts.items():
        mark = "[green]ok[/green]" if state == "ok" else f"[red]{state}[/red]"
        answers.print(f"{name:<20}{mark}", soft_wrap=True)
    for name in status.clocks_off:
        answers.print(
            f"[red]{name}: its clock is {status.clocks_ahead_s[name]} s ahead of the event "
            "store's[/red]: set one of them right",
            soft_wrap=True,
        )
    answers.print(f"{status.events} events of {status.accounts} accounts")
    answers.print(
        f"read model behind by {status.behind_positions} positions, {status.behind_s:.1f} s"
    )
    answers.print(f"outbox {status.outbox_rows} rows, the oldest {status.outbox_age_s:.1f} s")
    for sweep in status.sweeps:
        answers.print(f"{sweep['name']} sweep {sweep['secondsAgo']} s ago, found {sweep['found']}")
    answers.print(f"{status.dead_letters} dead letters wait, {status.blocked} accounts are blocked")
    if status.blocked_accounts:
        columns = ("account_id", "blocked_at", "blocked_reason")
        print_table(columns, [[row[name] for name in columns] for row in status.blocked_accounts])
