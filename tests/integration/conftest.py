"""The two sides of the test's database, and a superuser's connection to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local.postgres import PORT, socket_dir
from tests.support.proxy import Proxy
from tests.support.sides import (
    Connection,
    Reader,
    Writer,
    connected,
    projector_on,
    reader_on,
    writer_on,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from saldo.project.projector import Projector
    from tests.support.servers import Database


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[Writer]:
    """Yield the write side in the recorder's role."""
    async with writer_on(database.dsn("saldo_record")) as side:
        yield side


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[Reader]:
    """Yield the read side in the projector's role."""
    async with reader_on(database.dsn("saldo_project")) as side:
        yield side


@pytest.fixture
async def projector(database: Database) -> AsyncIterator[Projector]:
    """Yield a projector in its own role."""
    async with projector_on(database.dsn("saldo_project")) as held:
        yield held


@pytest.fixture
async def superuser(database: Database) -> AsyncIterator[Connection]:
    """Yield a connection that may do anything, to look, to damage and to hold locks."""
    async with connected(database.dsn()) as connection:
        yield connection


@pytest.fixture
async def proxy(database: Database) -> AsyncIterator[Proxy]:
    """Yield a proxy to the test's database that cuts connections by its rules."""
    socket = socket_dir(database.data_dir) / f".s.PGSQL.{PORT}"
    started = Proxy(socket, postgres=True)
    await started.start()
    try:
        yield started
    finally:
        await started.stop()
