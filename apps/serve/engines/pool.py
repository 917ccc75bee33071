"""Several models in one server: loaded when they are asked for, let go by least use.

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


class Pool(Generic[T]):
    """load: from a name, in a thread; what it raises is raised to all who wait.   size: models that are kept.

    >>> async with pool.use("tiny.en") as model: ...
    """

    def __init__(self, load: Callable[[str], T], size: int):
        self._load, self.size = load, size
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
            entry = self._entries[name] = _Entry(asyncio.create_task(asyncio.to_thread(self._load, name)))
        self._entries.move_to_end(name)
        entry.n_users += 1
        try:
            try:
                # Shielded: others may wait for the same, and a thread cannot be cancelled.
                model = await asyncio.shield(entry.loading)
            except Exception:
                self._entries.pop(name, None)  # the next who asks tries again
                raise
            yield model
        finally:
            entry.n_users -= 1
            self._make_room(self.size)

    def _make_room(self, size: int | None = None) -> None:
        most = self.size - 1 if size is None else size
        unused = [name for name, entry in self._entries.items() if not entry.n_users and entry.loading.done()]
        for name in unused[: max(0, len(self._entries) - most)]:
            del self._entries[name]
