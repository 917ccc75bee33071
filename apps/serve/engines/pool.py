"""Several models in one server: loaded when they are asked for, let go by least use, or when nobody uses them any more.

Loading is done in a thread, once for all who ask at the same time; a model that is in use is never let go.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class _Entry(Generic[T]):
    loading: asyncio.Task[T]
    n_users: int = 0
    leaving: asyncio.TimerHandle | None = None


class Pool(Generic[T]):
    """load: from a name, in a thread; what it raises is raised to all who wait.   size: models that are kept.
    idle: seconds after its last use after which a model is let go; None: only when another needs its place.

    >>> async with pool.use("tiny.en") as model: ...
    """

    def __init__(self, load: Callable[[str], T], size: int, idle: float | None = None):
        self._load, self.size, self.idle = load, size, idle
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()

    @property
    def loaded(self) -> list[str]:
        """Names, the one used last at the end."""
        return [name for name, entry in self._entries.items() if entry.loading.done()]

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[T]:
        entry = self._entries.get(name)
        if entry is None:
            self._make_room()
            entry = self._begin(name)
        self._entries.move_to_end(name)
        entry.n_users += 1
        if entry.leaving is not None:
            entry.leaving.cancel()
        try:
            # Shielded: others may wait for the same, and a thread cannot be cancelled.
            yield await asyncio.shield(entry.loading)
        finally:
            entry.n_users -= 1
            self._make_room(self.size)
            if not entry.n_users:
                self._leave_later(name, entry)

    def _begin(self, name: str) -> _Entry[T]:
        loading = asyncio.create_task(asyncio.to_thread(self._load, name))
        entry = self._entries[name] = _Entry(loading)

        def loaded(task: asyncio.Task[T]) -> None:
            if task.cancelled() or task.exception() is not None:
                self._forget(name, entry)  # the next who asks tries again
            elif not entry.n_users:  # all who asked for it have gone
                self._leave_later(name, entry)

        loading.add_done_callback(loaded)
        return entry

    def _leave_later(self, name: str, entry: _Entry[T]) -> None:
        if self.idle is not None and entry.loading.done() and self._entries.get(name) is entry:
            later = asyncio.get_running_loop().call_later
            entry.leaving = later(self.idle, self._forget, name, entry)

    def _forget(self, name: str, entry: _Entry[T]) -> None:
        if entry.leaving is not None:
            entry.leaving.cancel()  # it would hold the model until then
        if self._entries.get(name) is entry:
            del self._entries[name]

    def _make_room(self, size: int | None = None) -> None:
        most = self.size - 1 if size is None else size
        unused = [one for one in self._entries.items() if not one[1].n_users and one[1].loading.done()]
        for name, entry in unused[: max(0, len(self._entries) - most)]:
            self._forget(name, entry)
