"""`/docs` in a real Chromium, under its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

if TYPE_CHECKING:
    from tests.console.conftest import Console, Open

# Redoc's own mark at the foot of the menu: the policy keeps the page from loading it.
FOREIGN = "https://cdn.redoc.ly/"


@pytest.mark.asyncio(loop_scope="session")
async def test_docs_page_shows_the_document_without_a_token(console: Console, blank: Open) -> None:
    page = await blank()
    requested: list[str] = []
    page.on("requestfinished", lambda request: requested.append(request.url))
    base = console.live.served["get_balance"].url
    await page.goto(f"{base}/docs")
    await expect(page.locator("h2", has_text="What accounts hold, or held")).to_be_visible()
    await expect(page.get_by_text("urn:saldo:problem:projection-behind").first).to_be_visible()
    assert all(url.startswith(base) for url in requested)
    assert all(FOREIGN in fault for fault in blank.faults), blank.faults
    blank.faults.clear()
