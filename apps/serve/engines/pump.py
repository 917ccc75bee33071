"""A generator that computes, in a thread of its own, for a coroutine that sends: bounded, ended when nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_POLL = 0.1  # seconds after which a thread that waits looks whether it is still wanted


async def pumped(
    source: Callable[[], Generator[T, None, None]],
    depth: int = 8,
    on_cancel: Callable[[], Any] | None = None,
    name: str = "pump",
) -> AsyncGenerator[T, None]:
    """The items of `source()`, at most `depth` ahead of whoever takes them. An error is raised after them.

    Closing this generator, or cancelling who iterates, calls `on_cancel` at once, closes the source in its thread and
    waits until that is done: a slot that is held around it is free only when the work has really ended.
    """
    pump = _Pump(source, depth, name)
    ended = False
    try:
        while True:
            item, over = await pump.next()
            if over:
                ended = True
                return
            yield item
    finally:
        if not ended and on_cancel is not None:
            on_cancel()
        await pump.stop()


class _Pump(Generic[T]):
    def __init__(self, source: Callable[[], Generator[T, None, None]], depth: int, name: str):
        self._source, self._wanted = source, True
        self._loop = asyncio.get_running_loop()
        self._made: asyncio.Queue[tuple[Any, bool, BaseException | None]] = asyncio.Queue()
        self._room = threading.Semaphore(depth)
        self._done = asyncio.Event()
        threading.Thread(target=self._run, name=f"pump-{name}", daemon=True).start()

    async def next(self) -> tuple[T, bool]:
        item, over, error = await self._made.get()
        self._room.release()
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame, see `_run`
        return item, over

    async def stop(self) -> None:
        self._wanted = False
        waiting = asyncio.ensure_future(self._done.wait())
        cancelled = False
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                cancelled = True
        while not self._made.empty():  # an error that nobody has taken, see `_run`
            self._made.get_nowait()
        if cancelled:
            raise asyncio.CancelledError

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with contextlib.closing(self._source()) as items:
                for item in items:
                    if not self._put(item):
                        break
        except BaseException as raised:
            error = raised
        self._tell(partial(self._made.put_nowait, (None, True, error)))
        # An error's traceback has this frame: if the frame had the error, all that the source held (tens of MB of a
        # decoder's state) would stay until Python's next full collection.
        error = None
        self._tell(self._done.set)

    def _put(self, item: T) -> bool:
        while self._wanted:
            if self._room.acquire(timeout=_POLL):
                self._tell(lambda: self._made.put_nowait((item, False, None)))
                return True
        return False

    def _tell(self, call: Callable[[], Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(call)
