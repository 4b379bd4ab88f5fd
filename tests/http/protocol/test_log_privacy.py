"""Privacy of the logs: each line has the trace and no personal data, whatever fails."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from saldo.serve.functions import PROJECT, RECORD
from saldo.serve.telemetry.logs import account_hash
from tests.support.collector import collecting
from tests.support.servers import HASH_SECRET

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.support.sides import Connection

TIMEOUT_S = 120.0
# Long enough that they are in no log line by chance.
ACCOUNTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{11,40}", fullmatch=True)
DESCRIPTIONS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=12)
VALUES = st.sampled_from([10, -1, "x", None, 10**30, "1e9999999"])
# The database's own errors repeat what they are about, as one of a broken constraint would.
FAIL = """
CREATE FUNCTION event_store.fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no % %', NEW.account_id, NEW.private_text; END $$;
CREATE TRIGGER fail BEFORE INSERT ON event_store.event
FOR EACH ROW WHEN (NEW.account_id LIKE 'fails%') EXECUTE FUNCTION event_store.fail();
"""


async def test_no_log_line_holds_an_account_or_a_description(
    serve: Serve, superuser: Connection
) -> None:
    await superuser.execute(FAIL)
    with collecting() as collector:
        record = serve(
            RECORD,
            LOG_LEVEL="DEBUG",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_TRACES_SAMPLER_ARG="1",
        )
        traces: list[str] = []

        def ask(method: str, path: str, **more: Any) -> None:
            traces.append(secrets.token_hex(16))
            headers = {"traceparent": f"00-{traces[-1]}-{'1' * 16}-01"}
            httpx.request(method, record.url + path, headers=headers, timeout=TIMEOUT_S, **more)

        @settings(
            max_examples=15,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        )
        # Valid, so that it does fail.
        @example("someone.who.fails", "what nobody may read", 10, True)
        @given(ACCOUNTS, DESCRIPTIONS, VALUES, st.booleans())
        def asked(account_id: str, description: str, value: object, fails: bool) -> None:
            whose = f"fails{account_id}" if fails else account_id
            body = {
                "accountId": whose,
                "description": description,
                "metadata": {"note": description[:12]},
                "type": "INCOME",
                "value": value,
            }
            before = len(record.log())
            began = len(traces)
            ask("POST", "/transactions", json=body)
            ask("POST", "/transactions", json=[body, body])
            ask("GET", f"/accounts/{whose}/limit")
            ask("GET", f"/{whose}", params={"q": description})
            ask("POST", "/transactions", content=description.encode())
            # The line is written once the answer is on its way: the test may be there first.
            deadline = time.monotonic() + TIMEOUT_S
            lines: list[dict[str, Any]] = []
            while not set(traces[began:]) <= {line.get("trace_id") for line in lines}:
                assert time.monotonic() < deadline, "each request was sampled, and has its line"
                said = record.log()[before:]
                lines = [json.loads(line) for line in said.splitlines() if line.endswith("}")]
            for text in (account_id, description, json.dumps(description)[1:-1]):
                assert text not in said
                assert text not in str(lines)

        asked()
        unexpected = [
            json.loads(line) for line in record.log().splitlines() if "unexpected error" in line
        ]
    # It did fail, and the log says how and where.
    assert unexpected
    assert unexpected[0]["trace_id"] in traces
    assert "P0001" in {each.get("sqlstate") for each in unexpected[0]["exception"]}


async def test_a_log_line_about_an_account_has_its_keyed_hash(
    serve: Serve, superuser: Connection
) -> None:
    """A balance that has diverged from its stream is refolded, and said to be."""
    record, project = serve(RECORD), serve(PROJECT)
    body = {"accountId": "diverging", "type": "INCOME", "value": 1}
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        for position in (1, 2):
            answer = await client.post(f"{record.url}/transactions", json=body)
            headers = {
                "ce-specversion": "1.0",
                "ce-id": answer.json()["id"],
                "ce-source": "/saldo/transactions",
                "ce-type": "saldo.transaction.recorded",
                "ce-subject": "diverging",
                "ce-sequence": str(position),
                "ce-time": answer.json()["recordedAt"],
                "content-type": "application/json",
            }
            answer = await client.post(project.url, headers=headers, content=b"{}")
            answer.raise_for_status()
            await superuser.execute("UPDATE read_model.balance SET hash = '\\x00'")
    lines = [json.loads(line) for line in project.log().splitlines()]
    hashes = [line["account"] for line in lines if "diverged" in line["message"]]
    # The sweep may have come first, and the delivery then found it diverged once more.
    assert set(hashes) == {account_hash("diverging", bytes.fromhex(HASH_SECRET))}
    assert "diverging" not in project.log()
