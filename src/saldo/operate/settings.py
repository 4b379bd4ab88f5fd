"""Settings of the operator's commands: two databases, and Kafka where it is checked too."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg

from saldo.record.kafka import producer_config
from saldo.serve.database import CONNECT_TIMEOUT_S, rds_iam_password
from saldo.serve.settings import BadSetting, KafkaSettings, read_kafka

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    Pool = asyncpg.Pool[asyncpg.Record]

# The workers of a verification are processes: they get the URLs and read DATABASE_AUTH themselves.
APPLICATION = "saldo-operate"
POOL_CONNECTIONS_MAX = 6
# PostgreSQL counts microseconds from its own epoch.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """Both sides' databases, and Kafka if it is set."""

    event_store_url: str
    read_model_url: str
    kafka: KafkaSettings | None


def read_operator_settings(environ: Mapping[str, str] | None = None) -> OperatorSettings:
    """Read the settings from the environment; raise BadSetting."""
    env = os.environ if environ is None else environ
    return OperatorSettings(
        event_store_url=_database(env, "EVENT_STORE_URL"),
        read_model_url=_database(env, "READ_MODEL_URL"),
        kafka=read_kafka(env) if env.get("KAFKA_BOOTSTRAP_SERVERS") else None,
    )


def _database(env: Mapping[str, str], name: str) -> str:
    url = env.get(name, "").strip()
    if not url:
        raise BadSetting(name, "is missing")
    if urlsplit(url).scheme not in {"postgresql", "postgres"}:
        raise BadSetting(name, "must start with postgresql://")
    return url


def _password(url: str) -> Callable[[], str] | None:
    """Return what makes the password, or None where it is in the URL."""
    return rds_iam_password(url) if os.environ.get("DATABASE_AUTH") == "rds-iam" else None


async def connect(url: str) -> asyncpg.Connection[asyncpg.Record]:
    """Connect without a statement timeout: the operator's queries are long.

    A time beyond Python's first or last year is read as that end, for the reader to find it wrong:
    the driver would give up the whole statement for it.
    """
    connection = await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_S,
        server_settings={"application_name": APPLICATION},
        password=_password(url),
    )
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda moment: ((moment - _EPOCH) // _MICROSECOND,),
        decoder=_moment,
        format="tuple",
    )
    return connection


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Connect, and close the connection at the end."""
    connection = await connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def kafka_client_config(kafka: KafkaSettings) -> dict[str, Any]:
    """Return what a consumer or an admin client needs to reach Kafka."""
    return {
        name: value
        for name, value in producer_config(kafka).items()
        if name.startswith(("bootstrap", "security", "sasl", "oauth"))
    }


def _moment(microseconds: tuple[int]) -> datetime:
    """Return the moment that PostgreSQL sends, or Python's first or last one."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds[0])
    except OverflowError:
        return _LAST if microseconds[0] > 0 else _FIRST


def open_operator_pool(url: str) -> Pool:
    """Return a pool that leaves no session state behind."""
    return asyncpg.create_pool(
        url,
        min_size=0,
        max_size=POOL_CONNECTIONS_MAX,
        timeout=CONNECT_TIMEOUT_S,
        server_settings={"application_name": APPLICATION},
        password=_password(url),
    )


@contextlib.asynccontextmanager
async def open_both_pools() -> AsyncIterator[tuple[Pool, Pool]]:
    """Open a pool on the event store and one on the read model."""
    settings = read_operator_settings()
    async with (
        open_operator_pool(settings.event_store_url) as streams,
        open_operator_pool(settings.read_model_url) as read_model,
    ):
        yield streams, read_model
