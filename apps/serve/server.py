"""uvicorn as this server wants it: quiet, with bounds, and ended within seconds."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Generator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.server import HANDLED_SIGNALS

GRACE = 5.0  # seconds that requests have to end when the server does
_PATIENCE = 4.0  # seconds that the program has then: Docker kills it after ten


class Server(uvicorn.Server):
    """app: of `build_app`.   grace: seconds.

    SIGTERM and Ctrl-C end it after what is under way, at most `grace` seconds later; a second Ctrl-C at once. Both are
    how a server is meant to end: neither is raised again.

    is_program: the process is the server and nothing else. Once it has ended, signals find nobody any more (it may be
    told twice), and what still computes in a thread some seconds later is not waited for.
    """

    def __init__(
        self,
        app: FastAPI,
        host: str,
        port: int,
        grace: float = GRACE,
        is_program: bool = False,
        **more: Any,
    ):
        self.draining, self.grace, self.is_program = app.state.draining, grace, is_program
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                # Not whatever else is installed (uvloop, httptools): the server behaves the same everywhere.
                loop="asyncio",
                http="h11",
                log_level="warning",
                access_log=False,  # addresses and queries of others are nobody's business
                ws_max_size=4 << 20,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=round(grace) + 5,
                server_header=False,
                **more,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_news)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.draining.begin(self.grace)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if not self.is_program:
            with super().capture_signals():
                yield
            return
        for sign in HANDLED_SIGNALS:
            signal.signal(sign, self.handle_exit)
        try:
            yield
        finally:
            for sign in HANDLED_SIGNALS:
                signal.signal(sign, signal.SIG_IGN)
        if self.started:  # otherwise its exit code says why not
            at_last = threading.Timer(_PATIENCE, os._exit, (0,))
            at_last.daemon = True
            at_last.start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def _is_news(record: logging.LogRecord) -> bool:
    """An answer that was cut off has a line of ours already, which says why."""
    return "without completing response" not in record.getMessage()
