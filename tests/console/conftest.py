"""A real Chromium, and the functions that the console's page uses.

Forbidden actions of a page fail its test: a violation of its policy, an exception, an unexpected
line in its log. The browser runs in its own event loop, which all tests of a worker share.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    async_playwright,
    expect,
)

from local import processes, services
from local.tasks import chromium
from saldo.serve.functions import BALANCE, FUNCTIONS, PROJECT, RECORD
from tests.support import servers
from tests.support.live import DEADLINE_S, SINK_SUBJECT, Issuer, Live
from tests.support.live_fixtures import issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from local.processes import Child
    from saldo.serve.functions import Function
    from tests.support.servers import Database

__all__ = ["issuer"]

# Reached only where something is wrong: the machine may be busy.
WAIT_MS = 120_000
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The page's script runs before any of this, and its own policy does not hold for it.
WATCH_POLICY = """
document.addEventListener("securitypolicyviolation",
    (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
ZONE = "America/Sao_Paulo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """The functions behind the page, and the page's address."""

    live: Live
    url: str


def start(
    function: Function, database: Database, log: Path, port: int, env: dict[str, str]
) -> Child:
    """Serve ``function`` on that very port: another's settings name it."""
    whole = services.environ(
        function.role,
        database.dsn,
        hash_secret=servers.HASH_SECRET,
        bootstrap_servers=servers.NO_KAFKA,
        overrides=env,
    )
    child = services.start_function(function, port=port, env=whole, log=log)
    services.wait_until_ready(child, port)
    return child


@pytest.fixture(scope="session")
def console(
    postgres_data_dir: Path, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    """Yield the ledger with tokens; its page records in another origin."""
    logs = tmp_path_factory.mktemp("console")
    ports = {function: processes.free_port() for function in FUNCTIONS}
    urls = {function: f"http://127.0.0.1:{port}" for function, port in ports.items()}
    callers = issuer.settings()
    sources = issuer.settings("SINK") | {"SINK_SUBJECTS": SINK_SUBJECT}
    environs = {
        RECORD: callers | sources | {"CORS_ORIGINS": urls[BALANCE]},
        BALANCE: callers | {"CONSOLE_RECORD_URL": urls[RECORD]},
        PROJECT: sources,
    }
    tokens = {
        RECORD: issuer.token(),
        BALANCE: issuer.token(),
        PROJECT: issuer.token(sub=SINK_SUBJECT),
    }
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(servers.cloned_database(postgres_data_dir))
        clients, served = {}, {}
        for function, env in environs.items():
            log = logs / f"{function.name}.log"
            child = start(function, database, log, ports[function], env)
            stack.callback(child.kill)
            served[function.name] = servers.Served(
                url=urls[function], port=ports[function], child=child
            )
            headers = {"Authorization": f"Bearer {tokens[function]}"}
            clients[function] = stack.enter_context(
                httpx.Client(base_url=urls[function], headers=headers, timeout=DEADLINE_S)
            )
        live = Live(
            database=database,
            issuer=issuer,
            served=served,
            record=clients[RECORD],
            balance=clients[BALANCE],
            projector=clients[PROJECT],
        )
        yield Console(live=live, url=f"{urls[BALANCE]}/console")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Yield a Chromium with a new and empty profile."""
    path = chromium.find()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium is here: `make browser` installs it")
        pytest.skip("no Chromium is here")
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        await browser.close()


class Open(Protocol):
    """Opens a page; options are those of playwright's context."""

    faults: list[str]

    async def __call__(
        self,
        place: str = "",
        *,
        token: str | None = None,
        with_clock: bool = False,
        **options: Any,
    ) -> Page:
        """Return once the page is there; its context is closed after the test."""


@dataclass(kw_only=True)  # no slots: playwright notes its listeners on their owner
class Blank:
    """Opens pages in separate contexts, as on a first visit; see Open."""

    browser: Browser
    contexts: list[BrowserContext] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    async def __call__(
        self,
        place: str = "",
        *,
        token: str | None = None,
        with_clock: bool = False,
        **options: Any,
    ) -> Page:
        """Return a page with nothing on it."""
        assert (place, token) == ("", None)
        context = await self.browser.new_context(
            **{"locale": "en-GB", "timezone_id": ZONE} | options
        )
        self.contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        if with_clock:
            await context.clock.install()
        await context.add_init_script(WATCH_POLICY)
        page = await context.new_page()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        return page

    def _heard(self, message: ConsoleMessage) -> None:
        # The browser logs each answer from 400 on, and each request that was cut: they are tested
        # by what the page makes of them.
        is_fault = message.type in {"error", "warning"}
        if is_fault and "Failed to load resource" not in message.text:
            self.faults.append(message.text)


@pytest_asyncio.fixture(loop_scope="session")
async def blank(browser: Browser) -> AsyncIterator[Open]:
    """Yield a function that opens pages; forbidden actions of a page fail the test."""
    opening = Blank(browser=browser)
    yield opening
    for context in opening.contexts:
        await context.close()
    assert opening.faults == []


@dataclass(slots=True, kw_only=True)
class Visit:
    """Opens the console at a place, with a token that is pasted as a person does it; see Open."""

    blank: Open
    console: Console
    faults: list[str]

    async def __call__(
        self,
        place: str = "",
        *,
        token: str | None = None,
        with_clock: bool = False,
        **options: Any,
    ) -> Page:
        """Return the console's page once it has a token."""
        page = await self.blank(with_clock=with_clock, **options)
        await page.goto(f"{self.console.url}#/{place}")
        await page.locator("#token-field").fill(token or self.console.live.issuer.token())
        await page.keyboard.press("Enter")
        await expect(page.locator("#token-dialog")).not_to_be_visible()
        return page


@pytest.fixture
def visit(blank: Open, console: Console) -> Open:
    """Return a function that opens the console with a token."""
    return Visit(blank=blank, console=console, faults=blank.faults)
