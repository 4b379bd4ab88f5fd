"""Traces and metrics of the real functions, received by a real collector."""

from __future__ import annotations

import asyncio
import secrets
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from saldo.serve.functions import BALANCE, FUNCTIONS, PROJECT, RECORD
from tests.support.collector import Collector, SeenSpan, collecting
from tests.support.live_fixtures import issuer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.live import Issuer
    from tests.support.servers import Served
    from tests.support.stack import Stack


__all__ = ["issuer"]

TIMEOUT_S = 120.0
SERVER, PRODUCER, CONSUMER, INTERNAL = 2, 4, 5, 1
MEMBERS = 40
NOBODY_LISTENS = "http://127.0.0.1:1"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Yield a new collector."""
    with collecting() as made:
        yield made


def traced(collector: Collector, ratio: str = "0") -> dict[str, str]:
    """Return the settings of a function that exports to the collector."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_TRACES_SAMPLER_ARG": ratio,
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }


def new_trace(flags: str = "01") -> tuple[str, str, dict[str, str]]:
    """Return a client's trace id, its span id, and the header that holds both."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, {"traceparent": f"00-{trace_id}-{span_id}-{flags}"}


def transaction(account_id: str = "ana") -> dict[str, Any]:
    return {"accountId": account_id, "description": "rent", "type": "INCOME", "value": 10}


def post(served: Served, headers: dict[str, str], account_id: str = "ana") -> None:
    answer = httpx.post(
        f"{served.url}/transactions",
        json=transaction(account_id),
        headers=headers,
        timeout=TIMEOUT_S,
    )
    assert answer.status_code == 201, answer.text


def test_one_trace_spans_request_projection_and_read(
    light_stack: Stack, collector: Collector
) -> None:
    record, project, balance = (
        light_stack.serve(f, **traced(collector)) for f in (RECORD, PROJECT, BALANCE)
    )
    light_stack.deliver(project)
    trace_id, client_span, headers = new_trace()
    post(record, headers)
    collector.until(lambda: "transactions process" in collector.of_trace(trace_id))
    answer = httpx.get(
        f"{balance.url}/balances",
        params={"accountId": "ana", "minPosition": 1},
        headers={**headers, "Prefer": "wait=30"},
        timeout=TIMEOUT_S,
    )
    assert answer.json()["value"] == 10
    collector.until(lambda: "GET /balances" in collector.of_trace(trace_id))
    collector.until(lambda: "transactions send" in collector.of_trace(trace_id))

    spans = collector.of_trace(trace_id)
    recorded, sent = spans["POST /transactions"], spans["transactions send"]
    projected, read = spans["transactions process"], spans["GET /balances"]
    assert {span.service for span in spans.values()} == {f.name for f in FUNCTIONS}
    assert (recorded.kind, recorded.parent_id) == (SERVER, client_span)
    assert (sent.kind, sent.parent_id) == (PRODUCER, recorded.span_id)
    assert (projected.kind, projected.parent_id) == (CONSUMER, sent.span_id)
    assert (read.kind, read.parent_id) == (SERVER, client_span)
    assert spans["wait for record"].parent_id == recorded.span_id
    assert recorded.attributes["http.response.status_code"] == 201
    assert recorded.attributes["http.route"] == "/transactions"
    # The attributes of a request do not say whom it is about.
    assert "ana" not in str([span.attributes for span in collector.spans])
    assert "rent" not in str([span.attributes for span in collector.spans])


async def test_a_batch_and_its_requests_are_linked_both_ways(
    light_stack: Stack, collector: Collector
) -> None:
    record = light_stack.serve(RECORD, **traced(collector))
    traces = [new_trace() for _ in range(MEMBERS)]
    async with httpx.AsyncClient(base_url=record.url, timeout=TIMEOUT_S) as client:
        answers = await asyncio.gather(
            *(
                client.post("/transactions", json=transaction(f"member-{n}"), headers=headers)
                for n, (_, _, headers) in enumerate(traces)
            )
        )
    assert {answer.status_code for answer in answers} == {201}

    def named(name: str) -> list[SeenSpan]:
        return [span for span in collector.spans if span.name == name]

    def all_came() -> bool:
        linked = sum(len(batch.links) for batch in named("record batch"))
        return len(named("wait for record")) == linked == MEMBERS

    await asyncio.to_thread(collector.until, all_came)
    waits = {wait.key: wait for wait in named("wait for record")}
    batches = named("record batch")
    assert {trace_id for trace_id, _ in waits} == {trace_id for trace_id, _, _ in traces}
    for batch in batches:
        # A separate trace: it belongs to none of its members.
        assert (batch.kind, batch.parent_id) == (INTERNAL, "")
        assert batch.trace_id not in {trace_id for trace_id, _ in waits}
        assert batch.attributes["saldo.batch.items"] == len(batch.links)
        for member in batch.links:
            assert waits[member].links == {batch.key}
    # While the first were committed, others came: they share a batch.
    assert len(batches) < MEMBERS


def test_sampling_is_the_clients_choice_or_random(light_stack: Stack, collector: Collector) -> None:
    always = light_stack.serve(RECORD, **traced(collector, "1"))
    unsampled, _, headers = new_trace("00")
    post(always, headers)
    post(always, {})
    # A trace begins here: its span has no parent.
    collector.until(lambda: [s for s in collector.spans if s.kind == SERVER and not s.parent_id])

    never = light_stack.serve(RECORD, **traced(collector, "0"))
    post(never, {})
    sampled, _, headers = new_trace()
    post(never, headers)
    collector.until(lambda: "POST /transactions" in collector.of_trace(sampled))
    seen = [span for span in collector.spans if span.kind == SERVER]
    assert len(seen) == 2
    assert not collector.of_trace(unsampled)


def test_an_unknown_client_leaves_no_span_and_no_log_line(
    light_stack: Stack, collector: Collector, issuer: Issuer
) -> None:
    """Anyone can send a traceparent; what it costs, only a known client may ask for."""
    record = light_stack.serve(RECORD, **traced(collector, "0"), **issuer.settings())
    for method, path, authorization, status in (
        ("POST", "/transactions", None, 401),
        ("POST", "/transactions", "Bearer forged", 401),
        ("POST", "/transactions?unknown=1", None, 400),
        ("GET", "/nowhere", None, 404),
        ("PUT", "/transactions", None, 405),
        ("TRACE", "/transactions", None, 405),
    ):
        headers = new_trace()[2] | ({"Authorization": authorization} if authorization else {})
        url = f"{record.url}{path}"
        answer = httpx.request(method, url, headers=headers, timeout=TIMEOUT_S)
        assert answer.status_code == status, answer.text
    for _ in range(2):  # verified, and then remembered
        known, _, headers = new_trace()
        post(record, headers | {"Authorization": f"Bearer {issuer.token(iat=1)}"})
        collector.until(partial(collector.of_trace, known))
    light_stack.stop(record.child)  # what is left is sent
    served = [span for span in collector.spans if span.kind == SERVER]
    assert [span.name for span in served] == ["POST /transactions"] * 2
    lines = [line for line in record.log().splitlines() if '"level": "INFO"' in line]
    assert sum(" in " in line and " ms" in line for line in lines) == 2, lines


def test_a_delivery_starts_no_new_trace(light_stack: Stack, collector: Collector) -> None:
    """Had its request been sampled, the event would say so."""
    project = light_stack.serve(PROJECT, **traced(collector, "1"))
    trace_id, span_id, headers = new_trace()

    def ping(more: dict[str, str]) -> None:
        event = {
            "ce-specversion": "1.0",
            "ce-id": "1",
            "ce-source": "/test",
            "ce-type": "dev.knative.sources.ping",
            "content-type": "application/json",
        }
        answer = httpx.post(project.url, headers=event | more, content=b"{}", timeout=TIMEOUT_S)
        assert answer.status_code == 200

    ping({})
    # The source's own trace is of its HTTP request; the event's goes before.
    ping({"ce-traceparent": headers["traceparent"], **new_trace()[2]})
    collector.until(lambda: "transactions process" in collector.of_trace(trace_id))
    [span] = [span for span in collector.spans if span.kind == CONSUMER]
    assert span.parent_id == span_id


def test_a_malformed_trace_is_ignored(light_stack: Stack, collector: Collector) -> None:
    record = light_stack.serve(RECORD, **traced(collector, "1"))
    headers = ["garbage", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01"]
    for header in headers:
        post(record, {"traceparent": header})

    def begun() -> list[SeenSpan]:
        return [s for s in collector.spans if s.kind == SERVER and not s.parent_id]

    collector.until(lambda: len(begun()) == len(headers))


def is_sent(collector: Collector, service: str, names: set[str]) -> bool:
    return names <= {name for whose, name in collector.metrics if whose == service}


def test_exported_metrics_equal_the_metrics_page(light_stack: Stack, collector: Collector) -> None:
    served = {f.name: light_stack.serve(f, **traced(collector)) for f in FUNCTIONS}
    post(served["record_transaction"], {})

    def counted() -> Any:
        metric = collector.metrics.get(("record_transaction", "saldo_events_recorded"))
        return metric if metric and metric.sum.data_points[0].as_int == 1 else None

    metric = collector.until(counted)
    assert (metric.sum.is_monotonic, metric.sum.aggregation_temporality) == (True, 2)
    collector.until(
        lambda: (
            collector.metrics[
                "record_transaction", "saldo_http_request_duration_seconds"
            ].histogram.data_points
        )
    )
    duration = collector.metrics["record_transaction", "saldo_http_request_duration_seconds"]
    [point] = duration.histogram.data_points
    assert (duration.unit, point.count, sum(point.bucket_counts)) == ("s", 1, 1)
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    for name, function in served.items():
        text = httpx.get(f"{function.url}/metrics", timeout=TIMEOUT_S).text
        told = {family.name for family in text_string_to_metric_families(text)}
        collector.until(partial(is_sent, collector, name, told))
        assert {m for s, m in collector.metrics if s == name} == told
    # Processes of one function are told apart.
    light_stack.serve(RECORD, **traced(collector))
    collector.until(lambda: sum(s == "record_transaction" for s, _ in collector.instances) == 2)


def test_the_sdk_is_not_imported_without_an_endpoint(
    light_stack: Stack, collector: Collector
) -> None:
    """Python itself tells what is imported."""
    telling = {"PYTHONPROFILEIMPORTTIME": "1"}
    _, _, headers = new_trace()
    off = light_stack.serve(RECORD, **telling)
    post(off, headers)
    assert httpx.get(f"{off.url}/metrics", timeout=TIMEOUT_S).status_code == 200
    light_stack.stop(off.child)
    assert "saldo.serve.telemetry.tracing" in off.log()
    for package in ("opentelemetry.sdk", "google.protobuf", "requests"):
        assert f" {package}\n" not in off.log()
    on = light_stack.serve(RECORD, **telling, **traced(collector))
    light_stack.stop(on.child)
    assert " opentelemetry.sdk.trace\n" in on.log()


def test_an_unreachable_collector_delays_nothing(
    light_stack: Stack,
) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY_LISTENS, "OTEL_TRACES_SAMPLER_ARG": "1"}
    record = light_stack.serve(RECORD, **settings)
    for _ in range(3):
        post(record, {})
    light_stack.stop(record.child)  # in order: a stop that takes too long is a kill
    assert record.child.ended() == -signal.SIGTERM


def test_remaining_spans_are_sent_before_shutdown(light_stack: Stack, collector: Collector) -> None:
    record = light_stack.serve(
        RECORD, **{**traced(collector, "1"), "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
    )
    post(record, {})
    light_stack.stop(record.child)
    assert [span.name for span in collector.spans if span.kind == SERVER] == ["POST /transactions"]
    assert ("record_transaction", "saldo_events_recorded") in collector.metrics
