"""Pools of connections to PostgreSQL, and what its errors mean to a caller.

A pool is small (connections to the database = max-scale x pool size) and opens nothing until it is
used. Its ``reset`` does nothing: asyncpg's own runs statements that pin a session of RDS Proxy, and
this code leaves nothing on a session that would need it (no session locks, no LISTEN, no SET).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from asyncpg.pool import PoolConnectionProxy

    from saldo.serve.settings import Settings
    from saldo.serve.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
ACQUIRE_TIMEOUT_S = 5.0
ROLLBACK_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_S = 12.0
IDLE_CONNECTION_S = 240.0

# All that the driver raises for a database that cannot or will not.
DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # The server has ended the session, and asyncpg has read so but not yet seen the connection go:
    # the next statement is refused by asyncpg itself.
    asyncpg.InternalClientError,
    OSError,  # among them TimeoutError and ConnectionError
)


class Failure(Enum):
    """What an error of the database means for the statement that it ended."""

    BUSY = "nothing was done: a deadlock, a lock wait or a timeout that the server enforces"
    CONTRADICTED = "nothing was done: a unique constraint would not hold"
    REFUSED = "nothing was done, and to try again at once is of no use"
    VALUE = "nothing was done: it does not hold one of the values"
    LOST = "the connection is gone, or never came: a commit under way may have taken hold"


# By SQLSTATE, or else by its class (the first two characters). Any other is a fault of this code.
_FAILURES = {
    "40001": Failure.BUSY,  # serialization failure
    "40P01": Failure.BUSY,  # deadlock
    "55P03": Failure.BUSY,  # lock not available
    "57014": Failure.BUSY,  # statement timeout
    "23505": Failure.CONTRADICTED,
    "22": Failure.VALUE,  # its type does not hold it, or the driver cannot write it
    "23": Failure.VALUE,  # a constraint
    "54": Failure.VALUE,  # it is too large, or nested too deeply
    "25006": Failure.REFUSED,  # read-only
    "42501": Failure.REFUSED,  # no privilege
    "53": Failure.REFUSED,  # a full disk, no memory, too many connections
    "58": Failure.REFUSED,  # an I/O error
    "08": Failure.LOST,
    "28": Failure.LOST,  # a password that is being changed: a later connection has the new one
    "57": Failure.LOST,  # the server shuts down, crashed, or starts
    "3D": Failure.LOST,  # no such database: it is being restored
    "25P03": Failure.LOST,  # the session was ended: idle in a transaction
    "25P04": Failure.LOST,  # the session was ended: a transaction that took too long
}


def failure_of(error: Exception) -> Failure | None:
    """Return what an error of the driver means; None where the error is another's, or our fault."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return _FAILURES.get(state) or _FAILURES.get(state[:2])
    return Failure.LOST if isinstance(error, DRIVER_ERRORS) else None


@contextlib.contextmanager
def translating(to: Mapping[Failure, Callable[..., Exception]]) -> Iterator[None]:
    """Raise the error that ``to`` has for a failure of the driver, if it has one.

    CONTRADICTED is called with the constraint's name, VALUE with the name of the error's class.
    """
    try:
        yield
    except Exception as error:
        failure = failure_of(error)
        if failure is None or failure not in to:
            raise
        if failure is Failure.REFUSED:
            log.warning("the database refuses: SQLSTATE %s", getattr(error, "sqlstate", None))
        named: tuple[str | None, ...] = ()
        if isinstance(error, asyncpg.UniqueViolationError):
            named = (error.constraint_name,)
        elif failure is Failure.VALUE:  # not its text, which repeats the value
            named = (type(error).__name__,)
        raise to[failure](*named) from error


async def _leave_as_it_is(_connection: Any) -> None:
    """See the module's docstring."""


def open_pool(
    url: str, *, size_max: int, application: str, password: Callable[[], str] | None = None
) -> asyncpg.Pool[asyncpg.Record]:
    """Return a pool to be awaited (``await pool``), which connects when first used.

    TLS is as the URL says (``sslmode``).
    """
    return asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size_max,
        max_inactive_connection_lifetime=IDLE_CONNECTION_S,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        reset=_leave_as_it_is,
        server_settings={"application_name": application},
        password=password,
    )


def function_pool(
    settings: Settings, url: str, name: str, metrics: Metrics
) -> asyncpg.Pool[asyncpg.Record]:
    """Return the pool of a function for ``url``; ``name`` is the metrics'."""
    pool = open_pool(
        url,
        size_max=settings.pool_size_max,
        application=f"saldo-{settings.function.replace('_', '-')}",
        password=rds_iam_password(url) if settings.database_auth == "rds-iam" else None,
    )
    connections = metrics.pool_connections
    connections.observe(lambda: pool.get_size() - pool.get_idle_size(), name, "used")
    connections.observe(pool.get_idle_size, name, "idle")
    metrics.pool_connections_max.observe(lambda: settings.pool_size_max, name)
    return pool


async def acquire(pool: asyncpg.Pool[asyncpg.Record]) -> PoolConnectionProxy[asyncpg.Record]:
    """Return a connection; raise one of DRIVER_ERRORS."""
    return await pool.acquire(timeout=ACQUIRE_TIMEOUT_S)


async def begin(pool: asyncpg.Pool[asyncpg.Record]) -> PoolConnectionProxy[asyncpg.Record]:
    """Return a connection in a database transaction; raise one of DRIVER_ERRORS and hold none."""
    connection = await acquire(pool)
    try:
        await connection.execute("BEGIN")
    except DRIVER_ERRORS:
        terminate(connection)
        await pool.release(connection)
        raise
    return connection


async def roll_back(
    pool: asyncpg.Pool[asyncpg.Record], connection: PoolConnectionProxy[asyncpg.Record]
) -> None:
    """Undo the database transaction and give the connection back; never raises."""
    try:
        await connection.execute("ROLLBACK", timeout=ROLLBACK_TIMEOUT_S)
    except DRIVER_ERRORS:
        terminate(connection)  # which rolls back, too
    await pool.release(connection)


def column(values: Sequence[object]) -> Sequence[object] | None:
    """Return ``values``, or None if all are null: unnest adds the nulls, and less is encoded."""
    return None if values.count(None) == len(values) else values


def rds_iam_password(url: str) -> Callable[[], str]:
    """Return a function that makes RDS IAM tokens for the user, host and port of ``url``.

    One can connect with a token for 15 minutes; the connection outlives it.
    """
    parts = urlsplit(url)

    def token() -> str:
        import botocore.session  # noqa: PLC0415 - it costs 31 MB

        client = botocore.session.get_session().create_client("rds")
        made: str = client.generate_db_auth_token(
            DBHostname=parts.hostname, Port=parts.port or 5432, DBUsername=parts.username
        )
        return made

    return token


def terminate(connection: PoolConnectionProxy[asyncpg.Record]) -> None:
    """End a connection at once; one that was lost has already left its pool."""
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()


async def close_pool(pool: asyncpg.Pool[asyncpg.Record], timeout_s: float) -> None:
    """Close ``pool``, by force after ``timeout_s``."""
    try:
        async with asyncio.timeout(timeout_s):
            await pool.close()
    except TimeoutError:
        pool.terminate()
