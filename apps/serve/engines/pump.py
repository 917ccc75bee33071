"""A generator that computes, in a thread of its own, for a coroutine that sends: bounded, ended when nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

from ....tts.threads import RUNNING

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
    waits until that is done: a slot that is held around it is free only when the work has really ended. So does the end
    of a program, also one whose event loop does not run any more.
    """
    pump = _Pump(source, depth, on_cancel, name)
    try:
        while True:
            item, over = await pump.next()
            if over:
                return
            yield item
    finally:
        await pump.stop()


class _Pump(Generic[T]):
    def __init__(
        self,
        source: Callable[[], Generator[T, None, None]],
        depth: int,
        on_cancel: Callable[[], Any] | None,
        name: str,
    ):
        self._source, self._on_cancel, self._wanted = source, on_cancel, True
        self._loop = asyncio.get_running_loop()
        self._made: asyncio.Queue[tuple[Any, bool, BaseException | None]] = asyncio.Queue()
        self._room = threading.Semaphore(depth)
        self._done = asyncio.Event()
        self._over = False  # all has been taken
        self.thread = threading.Thread(target=self._run, name=f"pump-{name}", daemon=True)
        RUNNING.begin(self)

    async def next(self) -> tuple[T, bool]:
        item, over, error = await self._made.get()
        self._room.release()
        self._over = over
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame, see `_run`
        return item, over

    def leave(self) -> None:
        self._wanted = False
        if not self._over and self._on_cancel is not None:
            self._on_cancel()

    async def stop(self) -> None:
        self.leave()
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
                        # Seen only at the end of a program: otherwise nobody takes anything any more.
                        raise RuntimeError("the program ends")
        except BaseException as raised:
            error = raised
        self._tell(partial(self._made.put_nowait, (None, True, error)))
        # An error's traceback has this frame: if the frame had the error, all that the source held (tens of MB of a
        # decoder's state) would stay until Python's next full collection.
        error = None
        self._tell(self._done.set)
        RUNNING.ended(self)

    def _put(self, item: T) -> bool:
        while self._wanted:
            if self._room.acquire(timeout=_POLL):
                self._tell(lambda: self._made.put_nowait((item, False, None)))
                return True
        return False

    def _tell(self, call: Callable[[], Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(call)
