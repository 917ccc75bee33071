"""An answer that is made while it is sent, and given up when its client goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .deadlines import within
from .house import House
from .problems import ClosingError, TooLateError, envelope, log, problem_of

# Proxies that collect a stream before they pass it on would undo it.
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Head:
    """What comes before the first byte. whole: all of the body follows in one piece, its length is known."""

    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    whole: bool = False


Answer = AsyncGenerator["Head | bytes", None]


class Live(Response):
    """answer: a `Head` and then bytes. What it raises before the head becomes an envelope of its own status; after it,
    the connection is cut, so that the client knows that something is missing.   route: for the counters.
    files: what the answer reads of the request, closed when it has ended in any way; also one that never began.
    """

    def __init__(self, house: House, route: str, answer: Answer, files: contextlib.ExitStack | None = None):
        super().__init__()
        self.house, self.route, self.answer = house, route, answer
        self.files = files or contextlib.ExitStack()
        self.status = 0  # of the head that was sent
        self.began = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.files:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        working = asyncio.create_task(self._work(scope, receive, send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _ended(working)
            if self.status:
                log.warning("%s: cut off: the server is closing", self.route)
            self.status = ClosingError.status
            raise
        finally:
            leaving.cancel()
            if not working.done():
                await _ended(working)
                self.house.metrics.cancelled.labels(self.route).inc()
                self.status = 499  # as nginx counts clients that went
            self.house.metrics.requests.labels(self.route, str(self.status)).inc()
            self.house.metrics.seconds.labels(self.route).observe(time.monotonic() - self.began)
        if not working.cancelled():
            working.result()

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with contextlib.aclosing(self.answer):
                await self._send_all(send)
        except Exception as error:
            problem = problem_of(error)
            if self.status:
                # Returning without the end of the body closes the connection.
                log.warning("%s: cut off: %s", self.route, problem)
                return
            self.status = problem.status
            response = JSONResponse(envelope(problem), problem.status, dict(problem.headers))
            await response(scope, receive, send)

    async def _send_all(self, send: Send) -> None:
        head = await anext(self.answer)
        assert isinstance(head, Head)
        body = await anext(self.answer, b"") if head.whole else b""
        assert isinstance(body, bytes)
        headers = {"content-type": head.media_type, **head.headers}
        if head.whole:
            headers["content-length"] = str(len(body))
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send(send, {"type": "http.response.start", "status": head.status, "headers": raw})
        self.status = head.status
        if not head.whole:
            async for part in self.answer:
                if part:
                    await self._send(send, {"type": "http.response.body", "body": part, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": body, "more_body": False})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        """Raises TooLateError if the client takes nothing for too long."""
        try:
            async with within(self.house.options.limits.stall):
                await send(message)
        except TimeoutError:
            raise TooLateError("the client does not read what it has asked for") from None


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
