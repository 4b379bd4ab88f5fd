"""The fixtures of live.py: the ledger that all tests of a worker share."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from saldo.operate.token import issuer_server
from saldo.serve.functions import BALANCE, PROJECT, RECORD
from tests.support import servers
from tests.support.live import DEADLINE_S, ORIGIN, SINK_SUBJECT, Issuer, Live

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    """Yield an issuer whose key set a real server serves."""
    folder = tmp_path_factory.mktemp("issuer")
    with issuer_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield Issuer(folder=folder, jwks_url=f"http://127.0.0.1:{server.server_port}/jwks.json")
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def live(
    postgres_data_dir: Path, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """Yield the three functions with authentication, on this worker's own database."""
    logs = tmp_path_factory.mktemp("live")
    callers = issuer.settings() | {"CORS_ORIGINS": ORIGIN}
    sources = issuer.settings("SINK") | {"SINK_SUBJECTS": SINK_SUBJECT}
    environs = {RECORD: callers | sources, BALANCE: callers, PROJECT: sources}
    tokens = {
        RECORD: issuer.token(),
        BALANCE: issuer.token(),
        PROJECT: issuer.token(sub=SINK_SUBJECT),
    }
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(servers.cloned_database(postgres_data_dir))
        served, clients = {}, {}
        for function, env in environs.items():
            log = logs / f"{function.name}.log"
            started = servers.start_function(function, database, log, env)
            stack.callback(started.child.kill)
            served[function.name] = started
            clients[function] = stack.enter_context(
                httpx.Client(
                    base_url=started.url,
                    headers={"Authorization": f"Bearer {tokens[function]}"},
                    timeout=DEADLINE_S,
                )
            )
        yield Live(
            database=database,
            issuer=issuer,
            served=served,
            record=clients[RECORD],
            balance=clients[BALANCE],
            projector=clients[PROJECT],
        )


@pytest.fixture(scope="session")
def plain_record_url(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a record_transaction of the same ledger, set up as in the local stack: AUTH=none."""
    log = tmp_path_factory.mktemp("plain") / "record.log"
    started = servers.start_function(RECORD, live.database, log, {})
    yield started.url
    started.child.kill()
