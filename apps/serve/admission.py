"""Who is worked on and who waits: so many at a time, the others in a queue that is fair to every client.

Clients take turns, whoever has the fewest under way first: one that sends a hundred requests does not keep another
from its one. A queue that is full turns requests away at once, with the seconds after which to try again; a client that
fills it loses its last place to one that has less than its share.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator

from .problems import BusyError, ClosingError


class Admission:
    """All of one event loop.

    slots: requests at a time.   places: that wait.   most: of one client at a time, None: all of them; one that has as
    many is turned away, for what stays (a connection) has no end to wait for.

    >>> async with admission.slot(client):
    ...     work
    """

    def __init__(self, slots: int, places: int, most: int | None = None):
        self.slots, self.places, self.most = slots, places, slots if most is None else most
        self._active: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._typical = 2.0  # seconds of a request, by those of late
        self._closed = False

    @property
    def n_active(self) -> int:
        return self._active.total()

    @property
    def n_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @contextlib.asynccontextmanager
    async def slot(self, client: str) -> AsyncIterator[None]:
        """Raises BusyError where there is neither a slot nor a place, or this client has its most, ClosingError after
        `close`."""
        await self._enter(client)
        began = time.monotonic()
        try:
            yield
        finally:
            self._typical += 0.1 * (time.monotonic() - began - self._typical)
            self._active[client] -= 1
            self._active += Counter()  # those that are 0 go
            self._let_in()

    def check(self, client: str) -> None:
        """Raises what `slot` would: before a body is read that is not to be worked on."""
        if self._closed:
            raise ClosingError
        self._check_share(client)
        if self.n_active >= self.slots and self.n_waiting >= self.places and self._greedy(client) is None:
            raise self._busy()

    def close(self) -> None:
        """Nobody is let in any more; those who wait are told so. Who is worked on stays."""
        self._closed = True
        for waiting in self._waiting.values():
            for place in waiting:
                if not place.done():
                    place.set_exception(ClosingError())
        self._waiting.clear()

    async def _enter(self, client: str) -> None:
        if self._closed:
            raise ClosingError
        self._check_share(client)
        if self.n_active < self.slots and not self._waiting:
            self._active[client] += 1
            return
        if self.n_waiting >= self.places:
            greedy = self._greedy(client)
            if greedy is None:
                raise self._busy()
            self._turn_away(greedy)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                # Let in at the moment at which it went.
                self._active[client] -= 1
                self._active += Counter()
                self._let_in()
            else:
                self._forget(client, place)
            raise

    def _check_share(self, client: str) -> None:
        own = self._active[client] + len(self._waiting.get(client, ()))
        if self.most < self.slots and own >= self.most:
            raise BusyError(
                f"this client has {own} of these under way, as many as one may have; end one of them",
                self._retry_after(),
            )

    def _let_in(self) -> None:
        while self._waiting and self.n_active < self.slots:
            client = min(
                self._waiting, key=lambda name: self._active[name]
            )  # of equals, whose turn was longest ago
            place = self._waiting[client].popleft()
            if self._waiting[client]:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            if not place.done():
                self._active[client] += 1
                place.set_result(None)

    def _greedy(self, client: str) -> str | None:
        """Who has two places or more beyond what `client` has."""
        if not self._waiting:
            return None
        name = max(self._waiting, key=lambda other: len(self._waiting[other]))
        own = len(self._waiting.get(client, ()))
        return name if name != client and len(self._waiting[name]) >= own + 2 else None

    def _turn_away(self, client: str) -> None:
        place = self._waiting[client].pop()
        if not self._waiting[client]:
            del self._waiting[client]
        if not place.done():
            place.set_exception(self._busy())

    def _forget(self, client: str, place: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(client)
        if waiting is not None and place in waiting:
            waiting.remove(place)
            if not waiting:
                del self._waiting[client]

    def _busy(self) -> BusyError:
        retry_after = self._retry_after()
        return BusyError(
            f"the server is busy with {self.n_active} requests and {self.n_waiting} wait; "
            f"try again in {retry_after} s",
            retry_after,
        )

    def _retry_after(self) -> int:
        seconds = self._typical * (self.n_waiting + 1) / self.slots
        return min(60, max(1, round(seconds)))
