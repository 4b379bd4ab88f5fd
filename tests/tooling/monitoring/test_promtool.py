"""Alerts and dashboards, checked by Prometheus' own promtool.

Debian's package is fetched, without being installed, if promtool is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import yaml

from saldo.serve.functions import FUNCTIONS
from tests.support.promql import INFRA, alerts, expressions
from tests.support.servers import REQUEST_TIMEOUT_S

if TYPE_CHECKING:
    from tests.support.stack import Stack

pytestmark = pytest.mark.slow

FETCH_TIMEOUT_S = 300
CACHE = Path(os.environ.get("SALDO_CACHE", Path.home() / ".cache" / "saldo"))
RULES = INFRA / "alerts" / "saldo.yaml"
DURATION = "saldo_http_request_duration_seconds_bucket"

# For each alert the series, one value a minute, at which it must fire; everything else is well.
FIRING = {
    "SaldoOutboxStuck": {'saldo_outbox_age_seconds{function="record_transaction"}': "70+60x30"},
    "SaldoKafkaRefuses": {
        'saldo_relay_records_total{function="record_transaction",outcome="failed"}': "0+10x30"
    },
    "SaldoProjectionLags": {'saldo_projection_lag_seconds{function="project_balance"}': "40x30"},
    "SaldoNothingProjected": {
        'saldo_events_projected_total{function="project_balance"}': "1000x30"
    },
    "SaldoAccountBlocked": {'saldo_blocked_accounts{function="project_balance"}': "1x30"},
    "SaldoDeadLettersWait": {'saldo_dead_letters{function="project_balance"}': "2x30"},
    "SaldoHeals": {'saldo_heals_total{function="project_balance"}': "0x20 1x10"},
    "SaldoRefolds": {'saldo_refolds_total{function="project_balance"}': "0x20 1x10"},
    "SaldoErrors": {
        'saldo_http_requests_total{function="get_balance",route="/balances",status="503"}': (
            "0+100x30"
        )
    },
    "SaldoRecordingSlow": {
        f'{DURATION}{{function="record_transaction",le="1.0"}}': "0+98x30",
    },
    "SaldoTooBusy": {
        'saldo_refusals_total{function="record_transaction",problem="too-busy"}': "0+5x30"
    },
    "SaldoPoolExhausted": {
        'saldo_pool_connections{function="get_balance",database="read_model",state="used"}': "4x30"
    },
    "SaldoSweepStalls": {
        'saldo_sweep_last_done_timestamp_seconds{function="record_transaction",sweep="outbox"}': (
            "0x30"
        )
    },
    "SaldoClockOff": {'saldo_clock_ahead_seconds{function="get_balance"}': "-7x30"},
}
WELL = {
    'saldo_clock_ahead_seconds{function="get_balance"}': "-4x30",
    'saldo_outbox_age_seconds{function="record_transaction"}': "0.2x30",
    'saldo_relay_records_total{function="record_transaction",outcome="failed"}': "3x30",
    'saldo_relay_records_total{function="record_transaction",outcome="sent"}': "0+600x30",
    'saldo_events_recorded_total{function="record_transaction"}': "0+600x30",
    'saldo_events_projected_total{function="project_balance"}': "0+600x30",
    'saldo_projection_lag_seconds{function="project_balance"}': "0.1x30",
    'saldo_blocked_accounts{function="project_balance"}': "0x30",
    'saldo_dead_letters{function="project_balance"}': "0x30",
    'saldo_heals_total{function="project_balance"}': "7x30",
    'saldo_refolds_total{function="project_balance"}': "7x30",
    'saldo_http_requests_total{function="get_balance",route="/balances",status="200"}': "0+6000x30",
    'saldo_http_requests_total{function="get_balance",route="/balances",status="503"}': "2x30",
    **{
        f'{DURATION}{{function="record_transaction",le="{bound}"}}': "0+100x30"
        for bound in ("1.0", "2.5", "+Inf")
    },
    'saldo_refusals_total{function="record_transaction",problem="too-busy"}': "9x30",
    'saldo_refusals_total{function="record_transaction",problem="invalid-request"}': "0+60x30",
    'saldo_pool_connections{function="get_balance",database="read_model",state="used"}': "2x30",
    'saldo_pool_connections{function="get_balance",database="read_model",state="idle"}': "2x30",
    'saldo_pool_connections_max{function="get_balance",database="read_model"}': "4x30",
    'saldo_sweep_last_done_timestamp_seconds{function="record_transaction",sweep="outbox"}': (
        "0+60x30"
    ),
}
AT = "29m"


@pytest.fixture(scope="module")
def promtool() -> str:
    """Return promtool: of this machine, or from Debian's package."""
    found = shutil.which("promtool")
    if found is not None:
        return found
    cached = CACHE / "prometheus" / "usr" / "bin" / "promtool"
    if cached.exists():
        return str(cached)
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("promtool is not here, nor apt-get to fetch it with")
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        fetch = ["apt-get", "--quiet", "download", "prometheus"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(fetch, cwd=folder, timeout=FETCH_TIMEOUT_S, check=False)
        packages = list(Path(folder).glob("prometheus_*.deb"))
        if not packages:
            pytest.skip("promtool is not here, nor apt-get to fetch it with")
        subprocess.run(["dpkg", "-x", str(packages[0]), folder], check=True)
        # At once: another process may be about to use it.
        (Path(folder) / "usr" / "bin" / "promtool").rename(cached)
    return str(cached)


def run(promtool: str, *arguments: str, text: str | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [promtool, *arguments], input=text, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_prometheus_accepts_the_alerts(promtool: str) -> None:
    status, said = run(promtool, "check", "rules", str(RULES))
    assert (status, f"{len(alerts())} rules found" in said) == (0, True), said


def test_prometheus_accepts_every_dashboard_expression(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"saldo:expression_{number}", "expr": each.text}
        for number, each in enumerate(expressions())
    ]
    file = tmp_path / "expressions.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "expressions", "rules": rules}]}))
    status, said = run(promtool, "check", "rules", str(file))
    assert status == 0, said


def test_each_alert_fires_alone_on_its_condition(promtool: str, tmp_path: Path) -> None:
    """Also none where all is well: counters that stand still at some height are no events."""
    assert set(FIRING) == {alert["alert"] for alert in alerts()}
    wrong = []
    for planted, series in {"": {}, **FIRING}.items():
        firing = fired(promtool, tmp_path, WELL | series)
        if firing != ({planted} if planted else set()):
            wrong.append((planted, firing))
    assert wrong == []


def fired(promtool: str, tmp_path: Path, series: dict[str, str]) -> set[str]:
    """Return the alerts that fire at these series."""
    firing: set[str] = set()
    for alert in alerts():
        test = {
            "rule_files": [str(RULES)],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": [{"series": s, "values": v} for s, v in series.items()],
                    # That none fires is what is asserted; the tool says so where one does.
                    "alert_rule_test": [{"eval_time": AT, "alertname": alert["alert"]}],
                }
            ],
        }
        file = tmp_path / "test.yaml"
        file.write_text(yaml.safe_dump(test))
        status, said = run(promtool, "test", "rules", str(file))
        assert status == 0 or "FAILED" in said, said
        if status != 0:
            firing.add(alert["alert"])
    return firing


def test_prometheus_accepts_the_metrics_of_the_functions(promtool: str, light_stack: Stack) -> None:
    for function in FUNCTIONS:
        served = light_stack.serve(function)
        httpx.get(f"{served.url}/nowhere", timeout=REQUEST_TIMEOUT_S)
        text = httpx.get(f"{served.url}/metrics", timeout=REQUEST_TIMEOUT_S).text
        status, said = run(promtool, "check", "metrics", text=text)
        assert (status, said) == (0, "")
