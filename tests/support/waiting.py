"""Waiting for a condition with a deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


DEADLINE_S = 120.0
LOOK_S = 0.05


async def until_true(
    condition: Callable[[], Awaitable[object]], what: str, deadline_s: float = DEADLINE_S
) -> None:
    """Wait until ``condition`` holds; AssertionError, naming ``what``, when it does not in time."""
    try:
        async with asyncio.timeout(deadline_s):
            while not await condition():  # noqa: ASYNC110 - it happens in other processes
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:.0f} s: {what}") from None
