"""Time limits that do not take a cancellation for their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError if the block takes longer; whatever it waits for is cancelled then.

    Not `asyncio.wait_for`: before Python 3.12 it goes on as if nothing had been said where what it waits for comes in
    the moment in which somebody cancels it, and a task that has been told once to end does not end.
    """
    if hasattr(asyncio, "timeout"):
        async with asyncio.timeout(seconds):
            yield
        return
    import anyio  # Python 3.10 has no timeout of its own

    with anyio.fail_after(seconds):
        yield
