"""Time limits that do not take a cancellation for their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError if the block takes longer; whatever it waits for is cancelled then.

    Not `asyncio.wait_for`: before Python 3.12 it goes on as if nothing had been said where what it waits for comes in
    the moment in which somebody cancels it, and a task that has been told once to end does not end. Nor
    `anyio.fail_after`, which cancels again in every round of the loop until the block is left: what waits there for
    its work to end would keep the loop busy.
    """
    if hasattr(asyncio, "timeout"):
        async with asyncio.timeout(seconds):
            yield
        return
    async with cancelled_after(seconds):
        yield


@contextlib.asynccontextmanager
async def cancelled_after(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, which Python 3.10 does not have; where somebody else cancels the task after the time is
    over, that is a TimeoutError, too."""
    task, late = asyncio.current_task(), False
    assert task is not None

    def cancel() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, cancel)
    try:
        yield
    except asyncio.CancelledError:
        if late:
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
