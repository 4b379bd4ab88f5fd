"""The databases of the operator's commands, and Kafka where it is verified too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg

from saldo.record.kafka import producer_config
from saldo.serve.database import CONNECT_TIMEOUT_S, rds_iam_password
from saldo.serve.settings import KafkaSettings, read_database, read_kafka

# In quotes: the driver's classes take a type for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
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


def read_operator_settings() -> OperatorSettings:
    """Read the settings from the environment; raise BadSetting."""
    return OperatorSettings(
        event_store_url=read_database(os.environ, "EVENT_STORE_URL"),
        read_model_url=read_database(os.environ, "READ_MODEL_URL"),
        kafka=read_kafka(os.environ) if os.environ.get("KAFKA_BOOTSTRAP_SERVERS") else None,
    )


def kafka_client_config(kafka: KafkaSettings) -> dict[str, Any]:
    """Return what a consumer or an admin client needs to reach Kafka."""
    return {
        name: value
        for name, value in producer_config(kafka).items()
        if name.startswith(("bootstrap", "security", "sasl", "oauth"))
    }


def uses_rds_iam() -> bool:
    """Return whether the databases expect IAM tokens instead of passwords."""
    return os.environ.get("DATABASE_AUTH") == "rds-iam"


def _options(url: str) -> dict[str, Any]:
    # The workers of a verification are processes of their own: they get a URL only.
    return {
        "timeout": CONNECT_TIMEOUT_S,
        "server_settings": {"application_name": "saldo-operate"},
        "password": rds_iam_password(url) if uses_rds_iam() else None,
    }


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Connect without a statement timeout: the operator's queries are long.

    A time beyond Python's first or last year is read as that limit, so that `verify` finds it
    wrong. The driver would refuse the whole statement.
    """
    connection = await asyncpg.connect(url, **_options(url))
    try:
        await connection.set_type_codec(
            "timestamptz",
            schema="pg_catalog",
            encoder=lambda moment: ((moment - _EPOCH) // _MICROSECOND,),
            decoder=_moment,
            format="tuple",
        )
        yield connection
    finally:
        await connection.close()


def _moment(microseconds: tuple[int]) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=microseconds[0])
    except OverflowError:
        return _LAST if microseconds[0] > 0 else _FIRST


def open_operator_pool(url: str) -> Pool:
    """Return a pool that leaves no session state behind."""
    return asyncpg.create_pool(url, min_size=0, max_size=POOL_CONNECTIONS_MAX, **_options(url))


@contextlib.asynccontextmanager
async def open_both_pools() -> AsyncIterator[tuple[Pool, Pool]]:
    """Open a pool on the event store and one on the read model."""
    settings = read_operator_settings()
    async with (
        open_operator_pool(settings.event_store_url) as streams,
        open_operator_pool(settings.read_model_url) as read_model,
    ):
        yield streams, read_model
