"""The route /metrics of the running functions: what they count, and who may read it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from local.tasks.metrics_page import METRICS
from saldo.serve.clock import CLOCK_OFF_MAX_S
from saldo.serve.functions import FUNCTIONS, Function
from tests.support.live import DEADLINE_S, fresh
from tests.support.promql import asked, expressions

if TYPE_CHECKING:
    from tests.support.live import Live

CLOCK_AHEAD = "saldo_clock_ahead_seconds"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(live: Live, function: str) -> Samples:
    """Return the metrics as Prometheus reads them: without a token, from the pod itself."""
    with live.client(function, None) as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of the series that have these labels."""
    wanted = labels.items()
    return sum(
        number for (each, having), number in samples.items() if each == name and wanted <= having
    )


def test_every_function_reports_its_clock_offset(live: Live) -> None:
    """The recorder and the projector by their sweeps, the reader by what it reads."""
    account_id = fresh()
    live.recorded(account_id)
    live.balance.get("/balances", params={"accountId": account_id})
    deadline = time.monotonic() + DEADLINE_S
    waiting = {function.name for function in FUNCTIONS}
    while waiting and time.monotonic() < deadline:
        for function in set(waiting):
            own = [v for (n, _), v in scraped(live, function).items() if n == CLOCK_AHEAD]
            if own:
                assert abs(own[0]) < CLOCK_OFF_MAX_S
                waiting.remove(function)
    assert not waiting


def test_a_recorded_transaction_is_counted_at_every_stage(live: Live) -> None:
    account_id = fresh()
    before = {f.name: scraped(live, f.name) for f in FUNCTIONS}
    recorded = live.post(account_id)
    live.deliver(recorded)
    live.deliver(recorded)
    assert live.balance.get("/balances", params={"accountId": account_id}).status_code == 200
    refused = live.record.post("/transactions", json={"accountId": account_id, "value": -1})
    assert refused.status_code == 400
    after = {f.name: scraped(live, f.name) for f in FUNCTIONS}

    def grown(function: str, name: str, **labels: str) -> float:
        return value(after[function], name, **labels) - value(before[function], name, **labels)

    requests = "saldo_http_requests_total"
    assert grown("record_transaction", requests, route="/transactions", status="201") == 1
    assert grown("record_transaction", requests, route="/transactions", status="400") == 1
    assert grown("record_transaction", "saldo_refusals_total", problem="invalid-request") == 1
    assert grown("record_transaction", "saldo_events_recorded_total") == 1
    assert grown("record_transaction", "saldo_batch_weight_sum", batch="record") == 1
    assert grown("project_balance", requests, route="/", status="200", method="POST") == 2
    # The sweep may have been quicker than the first delivery; the second is one in any case.
    assert grown("project_balance", "saldo_deliveries_total", outcome="duplicate") >= 1
    assert grown("project_balance", "saldo_events_projected_total") >= 1
    assert grown("get_balance", requests, route="/balances", status="200") == 1
    assert grown("get_balance", "saldo_http_request_duration_seconds_count", route="/balances") == 1
    assert grown("get_balance", "saldo_read_behind_positions_count") == 1


def test_no_account_is_in_the_metrics(live: Live) -> None:
    account_id = fresh("secretive")
    live.recorded(account_id)
    live.record.get(f"/accounts/{account_id}/events")
    live.record.get(f"/nowhere/{account_id}")
    live.record.request(f"GET{account_id.upper()}", "/transactions")
    for function in FUNCTIONS:
        assert not [key for key in scraped(live, function.name) if account_id in str(key).lower()]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_every_function_exposes_exactly_its_own_metrics(live: Live, function: Function) -> None:
    with live.client(function.name, None) as client:
        text = client.get("/metrics").text
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert families == {each.name for each in METRICS[function.name].definitions}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_proxied_request_gets_no_metrics(live: Live, function: Function, header: str) -> None:
    """The gateway of a cluster is where the public comes from."""
    with live.client(function.name, None) as client:
        answer = client.get("/metrics", headers={header: "for=192.0.2.1"})
    assert answer.status_code in {401, 404, 405}
    assert "saldo_" not in answer.text


def test_an_unknown_path_gets_no_label_of_its_own(live: Live) -> None:
    before = value(scraped(live, "record_transaction"), "saldo_http_requests_total", route="none")
    answer = httpx.get(f"{live.served['record_transaction'].url}/nowhere", timeout=DEADLINE_S)
    assert answer.status_code == 404
    after = value(scraped(live, "record_transaction"), "saldo_http_requests_total", route="none")
    assert after - before == 1


def test_every_series_of_dashboards_and_alerts_is_exposed(live: Live) -> None:
    """By the functions as they run, after one of each thing that the labels speak of."""
    live.recorded(fresh())
    assert live.record.post("/transactions", json={}).status_code == 400
    assert live.balance.get("/nowhere").status_code == 404
    wanted = {series for e in expressions() for series in asked(e.text)[0]}
    missing = wanted
    # The first sweeps may still be under way.
    deadline = time.monotonic() + 6 * DEADLINE_S
    while missing and time.monotonic() < deadline:
        labels: dict[str, set[str]] = {}
        for function in FUNCTIONS:
            for name, pairs in scraped(live, function.name):
                labels.setdefault(name, set()).update(label for label, _ in pairs)
        missing = {
            series
            for series in wanted
            if series.name not in labels or not series.labels <= labels[series.name]
        }
    assert missing == set()
