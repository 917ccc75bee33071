"""Memory that requests have freed, given back to the system.

glibc serves threads from up to eight arenas a core. Each keeps the most that was ever in use in it at a time, and
streams and transcriptions move from thread to thread, so that in time every arena has what a large request takes. Two
things keep it down: fewer arenas from the start, and `malloc_trim` after requests have ended. Where there is no glibc,
the allocator is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
from collections.abc import Callable, Mapping

ARENAS = 2  # the main one, and one for all threads beside it
PAUSE = 10.0  # seconds from the end of a request until memory is given back
_M_ARENA_MAX = -8  # of malloc.h


def few_arenas(environment: Mapping[str, str] = os.environ) -> None:
    """At most `ARENAS` of them, unless whoever starts the program has said how many. For a process that is a server and
    nothing else, before its threads are there."""
    told = "MALLOC_ARENA_MAX" in environment or "glibc.malloc.arena_max" in environment.get(
        "GLIBC_TUNABLES", ""
    )
    libc = _glibc()
    if libc is not None and not told:
        libc.mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """What nobody uses any more, cycles of Python's objects too."""
    gc.collect()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


class GivingBack:
    """Gives memory back after requests have ended, at most every `pause` seconds. Belongs to one event loop.

    work: what it does, in a thread.
    """

    def __init__(self, pause: float = PAUSE, work: Callable[[], None] = give_back):
        self.pause, self._work = pause, work
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def ended(self) -> None:
        """A request has."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.pause, self._begin)

    def _begin(self) -> None:
        self._timer = None  # requests that end from now on are for the next time
        self._task = asyncio.create_task(asyncio.to_thread(self._work))

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await self._task


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # TypeError: Windows
        library = ctypes.CDLL(None)
        if library.gnu_get_libc_version is not None:
            return library
    return None
