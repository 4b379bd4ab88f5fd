"""The ledger that the HTTP tests share, and a superuser's connection to its database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.live_fixtures import issuer, live, plain_record_url
from tests.support.sides import Connection, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.servers import Database

__all__ = ["issuer", "live", "plain_record_url", "superuser"]


@pytest.fixture
async def superuser(database: Database) -> AsyncIterator[Connection]:
    """Yield a connection that may do anything, to look, to damage and to hold locks."""
    async with connected(database.dsn()) as connection:
        yield connection
