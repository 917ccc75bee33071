"""Ctrl-C and SIGTERM ask a run to stop after the step it is in; a second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupt:
    """`requested` turns true at the first signal. Only the main thread can listen; elsewhere nothing
    happens."""

    def __init__(self):
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
