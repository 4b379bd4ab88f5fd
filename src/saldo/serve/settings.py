"""Settings: environment variables, read once into a frozen value; a bad one stops the start.

Each reader below raises BadSetting with the variable's name, so that the first line of a failed
start says what to change.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

from saldo.domain.money import CURRENCY_DIGITS
from saldo.serve.functions import FUNCTIONS, PROJECT, RECORD

if TYPE_CHECKING:
    from collections.abc import Mapping

Word = TypeVar("Word", bound=str)

KafkaSecurity = Literal["plaintext", "msk-iam", "scram"]

HASH_SECRET_BYTES_MIN = 32
POOL_SIZE_DEFAULT = 4
POOL_SIZE_MAX = 50
METRIC_INTERVAL_MS = (60_000, 100, 3_600_000)  # the default, and the bounds
OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_RATIO = re.compile(r"[0-9]{1,2}(\.[0-9]{1,9})?", re.ASCII)
# It becomes part of a header: nothing in it may end what it stands in.
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", re.ASCII)


class BadSetting(Exception):
    """A setting is missing or malformed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcSettings:
    """Whose tokens are accepted. ``jwks_url``: where the issuer's keys are published.

    Without ``subjects`` each of the issuer's subjects is accepted.
    """

    issuer: str
    audience: str
    jwks_url: str
    subjects: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """How the relay reaches Kafka."""

    bootstrap_servers: str
    topic: str
    security: KafkaSecurity
    username: str | None
    password: str | None
    region: str | None
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one process. What a function does not need is None."""

    function: str
    event_store_url: str
    read_model_url: str | None
    database_auth: Literal["url", "rds-iam"]
    pool_size_max: int
    kafka: KafkaSettings | None
    hash_secret: bytes
    callers: OidcSettings | None
    sources: OidcSettings | None
    default_currency: str
    cors_origins: frozenset[str]
    console_record_url: str | None
    log_level: str
    otlp_endpoint: str | None
    metric_interval_s: float
    trace_sample_ratio: float

    @property
    def authenticates(self) -> bool:
        """Whether requests must prove who sends them."""
        return self.callers is not None or self.sources is not None


def read_settings(function: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of ``function`` from the environment; raise BadSetting."""
    env = os.environ if environ is None else environ
    names = sorted(each.name for each in FUNCTIONS)
    if function not in names:
        raise BadSetting("--function", f"must be one of {', '.join(names)}")
    records, projects = function == RECORD.name, function == PROJECT.name
    secured = _choice(env, "AUTH", ("none", "oidc")) == "oidc"
    # The recorder accepts a PingSource's sweeps too, if its identity is configured.
    has_sources = projects or (records and bool(env.get("SINK_ISSUER")))
    return Settings(
        function=function,
        event_store_url=read_database(env, "EVENT_STORE_URL"),
        read_model_url=None if records else read_database(env, "READ_MODEL_URL"),
        database_auth=_choice(env, "DATABASE_AUTH", ("url", "rds-iam"), default="url"),
        pool_size_max=_integer(env, "POOL_SIZE_MAX", POOL_SIZE_DEFAULT, 2, POOL_SIZE_MAX),
        kafka=read_kafka(env) if records else None,
        hash_secret=read_hash_secret(env),
        callers=_oidc(env, "OIDC") if secured and not projects else None,
        sources=_oidc(env, "SINK", _subjects(env)) if secured and has_sources else None,
        default_currency=_currency(env),
        cors_origins=_origins(env),
        console_record_url=_console_record_url(env),
        log_level=_choice(env, "LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), default="INFO"),
        otlp_endpoint=_http_url(env, OTLP_ENDPOINT) if env.get(OTLP_ENDPOINT, "").strip() else None,
        metric_interval_s=_integer(env, "OTEL_METRIC_EXPORT_INTERVAL", *METRIC_INTERVAL_MS) / 1000,
        trace_sample_ratio=_ratio(env),
    )


def read_kafka(env: Mapping[str, str]) -> KafkaSettings:
    """Read how to reach Kafka; raise BadSetting."""
    security: KafkaSecurity = _choice(env, "KAFKA_SECURITY", ("plaintext", "msk-iam", "scram"))
    scram = security == "scram"
    return KafkaSettings(
        bootstrap_servers=_text(env, "KAFKA_BOOTSTRAP_SERVERS"),
        topic=env.get("KAFKA_TOPIC") or "transactions",
        security=security,
        username=_text(env, "KAFKA_USERNAME") if scram else None,
        password=_text(env, "KAFKA_PASSWORD") if scram else None,
        region=_text(env, "AWS_REGION") if security == "msk-iam" else None,
        ca_file=env.get("KAFKA_CA_FILE") or None,
    )


def read_hash_secret(env: Mapping[str, str]) -> bytes:
    """Read the key of the keyed hashes; raise BadSetting."""
    text = _text(env, "HASH_SECRET")
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) < HASH_SECRET_BYTES_MIN:
        raise BadSetting("HASH_SECRET", f"must be at least {HASH_SECRET_BYTES_MIN} bytes in hex")
    return secret


def _text(env: Mapping[str, str], name: str) -> str:
    text = env.get(name, "").strip()
    if not text:
        raise BadSetting(name, "is missing")
    return text


def _choice(
    env: Mapping[str, str], name: str, choices: tuple[Word, ...], default: Word | None = None
) -> Word:
    text = env.get(name, "").strip() or default
    for choice in choices:
        if text == choice:
            return choice
    state = "is missing; it" if not text else f"is {text!r}; it"
    raise BadSetting(name, f"{state} must be one of {', '.join(choices)}")


def _integer(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name, "").strip() or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise BadSetting(name, f"is {text!r}; it must be a whole number from {low} to {high}")
    return int(text)


def read_database(env: Mapping[str, str], name: str) -> str:
    """Return the URL of a database; raise BadSetting."""
    url = _text(env, name)
    if urlsplit(url).scheme not in {"postgresql", "postgres"}:
        raise BadSetting(name, "must start with postgresql://")
    return url


def _oidc(
    env: Mapping[str, str], prefix: str, subjects: frozenset[str] = frozenset()
) -> OidcSettings:
    return OidcSettings(
        issuer=_text(env, f"{prefix}_ISSUER"),
        audience=_text(env, f"{prefix}_AUDIENCE"),
        jwks_url=_http_url(env, f"{prefix}_JWKS_URL"),
        subjects=subjects,
    )


def _http_url(env: Mapping[str, str], name: str) -> str:
    url = _text(env, name)
    if urlsplit(url).scheme not in {"https", "http"}:
        raise BadSetting(name, "must be an http or https URL")
    return url


def _ratio(env: Mapping[str, str]) -> float:
    name = "OTEL_TRACES_SAMPLER_ARG"
    text = env.get(name, "").strip() or "0.01"
    if not _RATIO.fullmatch(text) or not 0 <= float(text) <= 1:
        raise BadSetting(name, f"is {text!r}; it must be a number from 0 to 1")
    return float(text)


def _subjects(env: Mapping[str, str]) -> frozenset[str]:
    subjects = _listed(_text(env, "SINK_SUBJECTS"))
    if not subjects:
        raise BadSetting("SINK_SUBJECTS", "names nobody")
    return subjects


def _origins(env: Mapping[str, str]) -> frozenset[str]:
    """Return origins as a browser sends them: anything else would never match."""
    origins = _listed(env.get("CORS_ORIGINS", ""))
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in {"https", "http"} or origin != f"{parts.scheme}://{parts.netloc}":
            raise BadSetting(
                "CORS_ORIGINS", f"has {origin!r}; an origin is such as https://bank.example"
            )
    return origins


def _console_record_url(env: Mapping[str, str]) -> str | None:
    """Return where the console reaches record_transaction; None if it only reads."""
    url = env.get("CONSOLE_RECORD_URL", "").strip().rstrip("/")
    if not url:
        return None
    parts = urlsplit(url)
    plain = parts.scheme in {"https", "http"} and _HOST.fullmatch(parts.netloc)
    if not plain or url != f"{parts.scheme}://{parts.netloc}{parts.path}":
        raise BadSetting(
            "CONSOLE_RECORD_URL", f"is {url!r}; it is such as https://record.bank.example"
        )
    return url


def _listed(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def _currency(env: Mapping[str, str]) -> str:
    code = env.get("DEFAULT_CURRENCY", "").strip() or "BRL"
    if code not in CURRENCY_DIGITS:
        raise BadSetting("DEFAULT_CURRENCY", f"is {code!r}; it must be an ISO 4217 code")
    return code
