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
        self._free, self._changed = n, threading.Condition()
        self._order = itertools.count()
        self._waiting: list[tuple[tuple[float, ...], int]] = []

    @contextlib.contextmanager
    def turn(self, priority: tuple[float, ...]) -> Iterator[None]:
        own = (priority, next(self._order))
        with self._changed:
            heapq.heappush(self._waiting, own)
            while not (self._free and self._waiting[0] == own):
                self._changed.wait()
            heapq.heappop(self._waiting)
            self._free -= 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
