"""Turns on the processor for work that does not share steps: whoever is heard soonest goes first."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Iterator


class Turns:
    """At most `n` threads work within it at a time; the others wait, the smallest priority first.

    >>> with turns.turn((0, lead)):
    ...     compute
    """

    def __init__(self, n: int):
        self._free, self._lock = n, threading.Lock()
        self._order = itertools.count()
        # Each with an event of its own: whoever ends a turn wakes the next one and nobody else.
        self._waiting: list[tuple[tuple[float, ...], int, threading.Event]] = []

    @contextlib.contextmanager
    def turn(self, priority: tuple[float, ...]) -> Iterator[None]:
        with self._lock:
            event = None
            if self._free:
                self._free -= 1
            else:
                event = threading.Event()
                heapq.heappush(self._waiting, (priority, next(self._order), event))
        if event is not None:
            event.wait()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    heapq.heappop(self._waiting)[2].set()
                else:
                    self._free += 1
