"""Time limits."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from myna.apps.serve.deadlines import cancelled_after, within

both = pytest.mark.parametrize("limit", [within, cancelled_after])


@both
def test_what_takes_too_long_is_cancelled(limit):
    async def main() -> None:
        never = asyncio.get_running_loop().create_future()
        with pytest.raises(TimeoutError):
            async with limit(0.01):
                await never
        assert never.cancelled()

    asyncio.run(main())


@both
def test_what_waits_for_its_work_to_end_is_cancelled_once(limit):
    async def main() -> int:
        n, ended = 0, asyncio.Event()

        async def end() -> None:
            for _ in range(20):
                await asyncio.sleep(0)
            ended.set()

        with contextlib.suppress(TimeoutError):
            async with limit(0.01):
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    ending = asyncio.create_task(end())
                    while not ended.is_set():
                        try:
                            await ended.wait()
                        except asyncio.CancelledError:
                            n += 1
                    await ending
        return n

    assert asyncio.run(main()) == 0


@both
@pytest.mark.parametrize("n", range(4))
def test_a_cancellation_is_not_lost_where_what_is_waited_for_comes_in_the_same_moment(n, limit):
    """Nor n rounds of the loop later. `asyncio.wait_for` of Python 3.11 would go on after two."""

    async def main() -> None:
        queue: asyncio.Queue[str] = asyncio.Queue()

        async def work() -> None:
            async with limit(60.0):
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
