"""The runbook under planted faults: the metrics show them, and the command resolves the alert.

The commands are taken unchanged from docs/runbook.md.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import promql_parser as promql
import pytest
from prometheus_client.parser import text_string_to_metric_families

from local import postgres, services
from local.services import ROOT
from saldo.serve.functions import PROJECT, RECORD
from tests.support.promql import alerts
from tests.support.servers import HASH_SECRET, NO_KAFKA
from tests.support.sides import age_outbox, connected, is_projected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.servers import Served
    from tests.support.stack import Stack

pytestmark = pytest.mark.slow

TIMEOUT_S = 120.0
DEADLINE_S = 120.0
LOOK_S = 0.2
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXPRESSIONS = {alert["alert"]: alert["expr"] for alert in alerts()}


def commands(alert: str) -> list[str]:
    """Return the shell commands of an alert's section."""
    start = RUNBOOK.index(f"## {alert}\n")
    end = RUNBOOK.find("\n## ", start)
    return BLOCK.findall(RUNBOOK[start : end if end > 0 else None])


def threshold(alert: str) -> tuple[str, float]:
    """Return the metric and the bound of a condition of the form max(metric) > bound."""
    whole = promql.parse(EXPRESSIONS[alert])
    assert isinstance(whole, promql.BinaryExpr)
    assert isinstance(whole.lhs, promql.AggregateExpr)
    assert isinstance(whole.lhs.expr, promql.VectorSelector)
    assert isinstance(whole.rhs, promql.NumberLiteral)
    name, bound = whole.lhs.expr.name, whole.rhs.val
    assert name is not None
    assert re.sub(r"\s", "", EXPRESSIONS[alert]) == f"max({name})>{bound:g}"
    return name, bound


async def holds(alert: str, served: Served) -> bool:
    """Return whether the alert's condition holds by the function's present metrics."""
    name, bound = threshold(alert)
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        text = (await client.get(f"{served.url}/metrics")).text
    values = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]
    return bool(values) and max(values) > bound


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(LOOK_S)


async def ends(alert: str, served: Served) -> None:
    async def is_over() -> bool:
        return not await holds(alert, served)

    await until(is_over)


async def run(stack: Stack, command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run one of the runbook's commands as an operator would."""
    env = services.environ(
        "saldo_operate",
        stack.database.dsn,
        hash_secret=HASH_SECRET,
        bootstrap_servers=NO_KAFKA,
        overrides=environ,
    )
    folders = [Path(sys.executable).parent, postgres.binary("psql").parent]
    env["PATH"] = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    return await asyncio.to_thread(
        subprocess.run,
        ["sh", "-c", command],
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


async def record(served: Served, account_id: str) -> dict[str, Any]:
    body = {"accountId": account_id, "type": "INCOME", "value": 10}
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        answer = await client.post(f"{served.url}/transactions", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_runbook_resolves_a_stuck_outbox(light_stack: Stack) -> None:
    """Kafka is down: the recorder goes on, and its outbox fills."""
    look, mend = commands("SaldoOutboxStuck")
    without_kafka = light_stack.serve(RECORD, KAFKA_BOOTSTRAP_SERVERS=NO_KAFKA)
    await record(without_kafka, "ana")
    assert not await holds("SaldoOutboxStuck", without_kafka)
    async with connected(light_stack.database.dsn()) as superuser:
        await age_outbox(superuser)
        await age_outbox(superuser)
        await until(lambda: holds("SaldoOutboxStuck", without_kafka))
        shown = await run(light_stack, look, RECORD_URL=without_kafka.url)
        assert shown.returncode == 1
        assert "outbox 1 rows" in shown.stdout
        assert re.search(r"kafka +down", shown.stdout)
        light_stack.stop(without_kafka.child)

        with_kafka = light_stack.serve(RECORD)
        mended = await run(light_stack, mend, RECORD_URL=with_kafka.url)
        assert mended.returncode == 0, mended.stderr
        await ends("SaldoOutboxStuck", with_kafka)
        assert await superuser.fetchval("SELECT count(*) FROM event_store.outbox") == 0


async def test_runbook_resolves_an_unprojectable_event(light_stack: Stack) -> None:
    """A row of the event store was changed: its chain does not hold any more."""
    list_letters, verify = commands("SaldoAccountBlocked")[0].splitlines()
    redrive = commands("SaldoAccountBlocked")[1].replace("ACCOUNT", "poisoned")
    recorder = light_stack.serve(RECORD)
    await record(recorder, "poisoned")
    spoiled = await record(recorder, "poisoned")
    async with connected(light_stack.database.dsn()) as superuser:

        async def set_hash(value: bytes) -> None:
            await superuser.execute(
                "UPDATE event_store.event SET hash = $1 WHERE account_id = 'poisoned'"
                " AND position = 2",
                value,
            )

        await set_hash(b"\0")
        projector = light_stack.serve(PROJECT)
        await until(lambda: holds("SaldoAccountBlocked", projector))
        await until(lambda: holds("SaldoDeadLettersWait", projector))
        listed = await run(light_stack, f"{list_letters} --json")
        assert "poisoned" in listed.stdout
        found = await run(light_stack, verify)
        assert found.returncode == 1
        assert "poisoned position 2" in found.stdout + found.stderr

        # The cause is still there.
        assert (await run(light_stack, redrive)).returncode == 1
        assert await holds("SaldoAccountBlocked", projector)

        await set_hash(bytes.fromhex(spoiled["hash"]))
        mended = await run(light_stack, redrive)
        assert mended.returncode == 0, mended.stderr
        await ends("SaldoAccountBlocked", projector)
        await ends("SaldoDeadLettersWait", projector)
        assert await is_projected(superuser)


LOCK = "SELECT FROM read_model.balance WHERE account_id = 'lagging' FOR UPDATE"
OLDER = """
UPDATE event_store.event SET appended_at = appended_at - interval '1 minute'
WHERE account_id = 'lagging' AND position = 2
"""
# As if the sweep had last come to its end before that.
WATERMARK = """
UPDATE read_model.sweep
SET watermark = least(watermark, (SELECT min(appended_at) FROM event_store.event))
"""


async def test_runbook_resolves_a_lagging_account(light_stack: Stack) -> None:
    """Somebody has locked its balance and went for lunch."""
    look, mend = commands("SaldoProjectionLags")
    recorder, projector = light_stack.serve(RECORD), light_stack.serve(PROJECT)
    await record(recorder, "lagging")
    dsn = light_stack.database.dsn
    async with connected(dsn()) as superuser, connected(dsn("saldo_operate")) as other:
        await until(lambda: is_projected(superuser))
        hold = other.transaction()
        await hold.start()
        await other.execute(
            "SELECT FROM read_model.balance WHERE account_id = 'lagging' FOR UPDATE"
        )
        await record(recorder, "lagging")
        await superuser.execute(OLDER)

        async def lags() -> bool:
            await superuser.execute(WATERMARK)
            return await holds("SaldoProjectionLags", projector)

        await until(lags)
        holder = str(other.get_server_pid())
        await until(lambda: names(light_stack, look, holder))
        mended = await run(light_stack, mend.replace("PID", holder))
        assert mended.returncode == 0, mended.stderr
        await ends("SaldoProjectionLags", projector)
        assert await is_projected(superuser)
        other.terminate()


async def names(stack: Stack, look: str, holder: str) -> bool:
    """Return whether the command shows the session; between two tries nothing is blocked."""
    shown = await run(stack, look)
    assert shown.returncode == 0, shown.stderr
    return re.search(rf"^ *{holder} ", shown.stdout, re.MULTILINE) is not None
