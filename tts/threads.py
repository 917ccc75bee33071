"""Threads that compute, and have ended before Python is taken apart.

A thread that comes out of torch's code while that happens is ended in the middle of C++, which aborts the program
("terminate called without an active exception"). Daemons all of them: a program that ends is not kept alive by them.
"""

from __future__ import annotations

import atexit
import threading
import time
from typing import Protocol

_PATIENCE = 10.0  # seconds for which the end of a program waits for them


class Work(Protocol):
    """What a thread does."""

    @property
    def thread(self) -> threading.Thread: ...

    def leave(self) -> None:
        """Nobody wants it any more: it ends at its next step. Called from any thread, perhaps more than once."""
        ...


class Running:
    """The work that is under way. Safe to use from several threads.

    >>> RUNNING.begin(work)
    >>> RUNNING.ended(work)  # the last thing that its thread does
    """

    def __init__(self) -> None:
        self._lock, self._closed = threading.Lock(), False
        self._works: set[Work] = set()
        atexit.register(self.close)

    def begin(self, work: Work) -> None:
        """Start its thread. Raises RuntimeError where the program ends."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the program ends")
            self._works.add(work)
            work.thread.start()

    def ended(self, work: Work) -> None:
        with self._lock:
            self._works.discard(work)

    def close(self) -> None:
        """Wait until all have ended. All at once: one may wait for another."""
        with self._lock:
            self._closed, works = True, list(self._works)
        for work in works:
            work.leave()
        end = time.monotonic() + _PATIENCE
        for work in works:
            work.thread.join(max(0.0, end - time.monotonic()))


RUNNING = Running()
