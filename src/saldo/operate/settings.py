"""What the operator's commands are told: two databases, and Kafka where it is to be looked at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

from saldo.serve.database import CONNECT_TIMEOUT_S, rds_iam_password
from saldo.serve.settings import BadSetting, KafkaSettings, read_kafka

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Workers of a verification or a rebuild are processes of their own: they are handed the URLs and
# read DATABASE_AUTH themselves.
APPLICATION = "saldo-operate"
POOL_CONNECTIONS_MAX = 6
# PostgreSQL counts microseconds from its own epoch.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """Both sides, and the topic if it is set."""

    event_store_url: str
    read_model_url: str
    kafka: KafkaSettings | None


def read_operator_settings(environ: Mapping[str, str] | None = None) -> OperatorSettings:
    """The settings from the environment; raises BadSetting."""
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
    """What makes the password where it is not in the URL."""
    return rds_iam_password(url) if os.environ.get("DATABASE_AUTH") == "rds-iam" else None


async def connect(url: str) -> asyncpg.Connection[asyncpg.Record]:
    """A connection of the operator's own: no statement timeout, its work is long.

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


def _moment(microseconds: tuple[int]) -> datetime:
    """The moment of PostgreSQL's own form, so far as Python has it."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds[0])
    except OverflowError:
        return _LAST if microseconds[0] > 0 else _FIRST


def open_operator_pool(url: str) -> asyncpg.Pool[asyncpg.Record]:
    """A pool of the operator's own, to be awaited; it leaves no session state behind."""
    return asyncpg.create_pool(
        url,
        min_size=0,
        max_size=POOL_CONNECTIONS_MAX,
        timeout=CONNECT_TIMEOUT_S,
        server_settings={"application_name": APPLICATION},
        password=_password(url),
    )
