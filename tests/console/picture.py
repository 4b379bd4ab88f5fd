"""The command `make console-picture`: renders docs/console.png after `make up` and `make demo`."""

from __future__ import annotations

import asyncio
import os
import sys

from playwright.async_api import ViewportSize, async_playwright, expect

from local.services import ROOT
from local.tasks import chromium
from tests.console.conftest import ARGUMENTS, WAIT_MS

PICTURE = ROOT / "docs" / "console.png"
PICTURE_BYTES_MAX = 200_000
SIZE = ViewportSize(width=1280, height=800)
ACCOUNT = "ana"


async def main() -> int:
    """Make the picture; the exit status."""
    path = chromium.find()
    if path is None:
        print("saldo: no Chromium is here", file=sys.stderr)  # noqa: T201 - it is a command
        return 1
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = await browser.new_page(viewport=SIZE, locale="en-GB", reduced_motion="reduce")
        await page.goto(f"{os.environ['CONSOLE_URL']}#/accounts/{ACCOUNT}")
        line = page.locator(".history svg path.line")
        await expect(line).to_be_attached(timeout=WAIT_MS)
        await page.get_by_role("button", name="Verify the chain").click()
        await expect(page.locator(".verified .good")).to_be_visible(timeout=WAIT_MS)
        await page.evaluate("document.activeElement.blur()")
        await page.screenshot(path=PICTURE)
        await browser.close()
    return 0 if PICTURE.stat().st_size <= PICTURE_BYTES_MAX else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
