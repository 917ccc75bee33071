"""The end of a server: who waits is turned away, who is answered has some seconds more, and then all is cut.

signal --> no new connections --> 503 to who waits --> what is under way ends --> after `grace` seconds, cut
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from .problems import ClosingError, envelope
from .security import App, Receive, Scope, Send


class Draining:
    """What is under way in one server, so that it can be ended. Belongs to one event loop."""

    def __init__(self) -> None:
        self.begun = self.cut_off = False
        self.then: list[Callable[[], None]] = []  # called when it begins
        self._running: set[asyncio.Task[Any]] = set()

    def begin(self, grace: float) -> None:
        """From now on requests are refused; those under way have `grace` seconds."""
        if self.begun:
            return
        self.begun = True
        for call in self.then:
            call()
        asyncio.get_running_loop().call_later(grace, self.cut)

    def cut(self) -> None:
        """End what is left now."""
        self.cut_off = True
        for task in self._running:
            task.cancel()


class Drained:
    """The middleware around all others. A request that is cut before its answer has begun is answered with 503."""

    def __init__(self, app: App, draining: Draining):
        self.app, self.draining = app, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        answered = False

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal answered
            answered = True
            await send(message)

        async def refuse() -> None:
            if scope["type"] == "http" and not answered:
                problem = ClosingError()
                response = JSONResponse(envelope(problem), problem.status, dict(problem.headers))
                await response(scope, receive, send)

        if self.draining.begun:
            await refuse()
            return
        task = asyncio.current_task()
        assert task is not None
        self.draining._running.add(task)
        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:
            if not self.draining.cut_off:
                raise
            await refuse()
        finally:
            self.draining._running.discard(task)
