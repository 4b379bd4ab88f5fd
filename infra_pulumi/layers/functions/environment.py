"""The settings of a function, as the variables of its container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra_pulumi.layers.edge import HTTPS
from infra_pulumi.layers.functions.containers import variable
from infra_pulumi.layers.secrets import HASH_SECRET, from_secret
from infra_pulumi.parts import (
    KAFKA_SOURCE,
    PROJECT,
    QUERY,
    RECORD,
    SWEEPS,
    TOPIC,
    Function,
    source_identity,
)
from infra_pulumi.section import HttpsUrl, Section

if TYPE_CHECKING:
    from infra_pulumi.config import Stack
    from infra_pulumi.layers.functions.dependencies import Dependencies
    from infra_pulumi.layers.observability import TelemetryConfig

KAFKA_AUTHORITY_DIR = "/etc/saldo/kafka"
SOURCES_AUTHORITY_DIR = "/etc/saldo/sources"


class CallersConfig(Section):
    """Whose tokens the callers carry."""

    issuer: HttpsUrl
    audience: str
    jwks_url: HttpsUrl


def environment(deps: Dependencies, function: Function) -> list[dict[str, Any]]:
    """Return the variables of one function."""
    stack = deps.stack
    scaling = stack.functions.of(function.name)
    entries: dict[str, dict[str, Any]] = {
        f"{side.upper()}_URL": deps.database.urls[function.role] for side in function.sides
    }
    entries["DATABASE_AUTH"] = {"value": deps.database.auth}
    entries["POOL_SIZE_MAX"] = {"value": str(scaling.pool_size)}
    entries["HASH_SECRET"] = {"valueFrom": from_secret(HASH_SECRET, "hex")}
    entries["LOG_LEVEL"] = {"value": "INFO"}
    if function is RECORD:
        entries["DEFAULT_CURRENCY"] = {"value": stack.currency}
        entries |= _kafka_environment(deps)
    # The projector has no callers but its sources, which always show who they are.
    secured = function is PROJECT or stack.callers is not None
    entries["AUTH"] = {"value": "oidc" if secured else "none"}
    if stack.callers is not None and function is not PROJECT:
        entries |= _callers_environment(stack.callers)
    if secured and takes_sources(function):
        entries |= _sources_environment(deps, function)
    if function is RECORD:
        # The console's page comes from the other function.
        entries["CORS_ORIGINS"] = {"value": url(deps.stack, QUERY)}
    if function is QUERY:
        entries["CONSOLE_RECORD_URL"] = {"value": url(deps.stack, RECORD)}
    entries |= _telemetry_environment(stack.telemetry)
    if stack.aws is not None:
        entries["AWS_REGION"] = {"value": stack.aws.region}
    return [variable(name, entry) for name, entry in entries.items()]


def _kafka_environment(deps: Dependencies) -> dict[str, dict[str, Any]]:
    kafka = deps.kafka
    entries: dict[str, dict[str, Any]] = {
        "KAFKA_BOOTSTRAP_SERVERS": {"value": kafka.recorder_brokers},
        "KAFKA_TOPIC": {"value": TOPIC},
        "KAFKA_SECURITY": {"value": kafka.security},
    }
    if kafka.recorder_secret is not None:
        entries["KAFKA_USERNAME"] = {"valueFrom": from_secret(kafka.recorder_secret, "user")}
        entries["KAFKA_PASSWORD"] = {"valueFrom": from_secret(kafka.recorder_secret, "password")}
    if kafka.authority is not None:
        entries["KAFKA_CA_FILE"] = {"value": f"{KAFKA_AUTHORITY_DIR}/{kafka.authority[1]}"}
    return entries


def takes_sources(function: Function) -> bool:
    """Return whether a source calls this function."""
    return function is PROJECT or any(sweep.function is function for sweep in SWEEPS)


def _sources_environment(deps: Dependencies, function: Function) -> dict[str, dict[str, Any]]:
    subjects = [
        source_identity(sweep.name, "pingsource") for sweep in SWEEPS if sweep.function is function
    ]
    if function is PROJECT:
        subjects.append(source_identity(KAFKA_SOURCE, "kafkasource"))
    entries: dict[str, dict[str, Any]] = {
        "SINK_ISSUER": {"value": deps.sources.issuer},
        "SINK_AUDIENCE": {"value": function.audience},
        "SINK_JWKS_URL": {"value": deps.sources.jwks_url},
        "SINK_SUBJECTS": {"value": ",".join(subjects)},
    }
    if deps.sources.authority is not None:
        entries["SSL_CERT_FILE"] = {"value": f"{SOURCES_AUTHORITY_DIR}/ca.crt"}
    return entries


def host(stack: Stack, function: Function) -> str:
    """Return the name under which callers reach a function."""
    return f"{function.host}.{stack.edge.domain}"


def url(stack: Stack, function: Function) -> str:
    """Return how callers reach a function: an origin, as browsers spell it."""
    port = stack.edge.port
    return f"https://{host(stack, function)}{'' if port == HTTPS else f':{port}'}"


def _callers_environment(callers: CallersConfig) -> dict[str, dict[str, Any]]:
    return {
        "OIDC_ISSUER": {"value": callers.issuer},
        "OIDC_AUDIENCE": {"value": callers.audience},
        "OIDC_JWKS_URL": {"value": callers.jwks_url},
    }


def _telemetry_environment(telemetry: TelemetryConfig | None) -> dict[str, dict[str, Any]]:
    if telemetry is None or telemetry.endpoint is None:
        return {}
    entries = {"OTEL_EXPORTER_OTLP_ENDPOINT": {"value": telemetry.endpoint}}
    if telemetry.trace_sample_ratio is not None:
        entries["OTEL_TRACES_SAMPLER_ARG"] = {"value": telemetry.trace_sample_ratio}
    return entries
