"""Time limits."""

from __future__ import annotations

import asyncio

import pytest
from myna.apps.serve.deadlines import within


def test_what_takes_too_long_is_cancelled():
    async def main() -> None:
        never = asyncio.get_running_loop().create_future()
        with pytest.raises(TimeoutError):
            async with within(0.01):
                await never
        assert never.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("n", range(4))
def test_a_cancellation_is_not_lost_where_what_is_waited_for_comes_in_the_same_moment(n):
    """Nor n rounds of the loop later. `asyncio.wait_for` of Python 3.11 would go on after two."""

    async def main() -> None:
        queue: asyncio.Queue[str] = asyncio.Queue()

        async def work() -> None:
            async with within(60.0):
                await queue.get()
            await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        queue.put_nowait("an event")
        for _ in range(n):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,), timeout=5)
        assert task.cancelled()

    asyncio.run(main())
