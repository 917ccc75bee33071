"""A generator in a thread of its own, working ahead of whoever iterates: the stages of synthesis overlap.

Torch lets go of the interpreter inside its operations, so that two stages fill two cores although both are
Python. Each stage computes on one core: matrices of one frame are too small to be shared out, and threads
that wait for each other would cost more than they bring.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

import torch

from .threads import RUNNING

T = TypeVar("T")
_POLL = 0.1  # seconds after which a thread that waits looks whether it is still wanted


class _End:
    """What follows the last item: the error that ended the source, if any."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


def ahead(source: Generator[T, None, None], depth: int, name: str = "ahead") -> Generator[T, None, None]:
    """The items of `source`, made in a thread at most `depth` items before they are asked for.

    An error in the source is raised here, after the items before it. Closing this generator (or an error in
    whoever iterates) closes the source in its own thread, and waits for that.
    """
    work = _Work(source, depth, name)
    try:
        yield from work.items()
    finally:
        work.stop()


class _SingleThreaded:
    """Within it torch computes in the calling thread only. Torch keeps the number for each thread, but also hands the
    last one set to threads that begin: that is put back when the last of ours has ended."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch.get_num_threads()
            self._inside += 1
            torch.set_num_threads(1)

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.set_num_threads(self._before)


_SINGLE = _SingleThreaded()


class _Work(Generic[T]):
    def __init__(self, source: Generator[T, None, None], depth: int, name: str):
        self.source, self.wanted = source, True
        self.made: queue.Queue[T | _End] = queue.Queue(max(1, depth))
        self.thread = threading.Thread(target=self._run, name=f"myna-{name}", daemon=True)
        RUNNING.begin(self)

    def items(self) -> Iterator[T]:
        while not isinstance(item := self.made.get(), _End):
            yield item
        error = item.error
        del item
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame, see `_run`

    def leave(self) -> None:
        self.wanted = False

    def stop(self) -> None:
        self.leave()
        self.thread.join()
        self._forget()  # an error that nobody has taken, see `_run`

    def _forget(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self.made.get_nowait()

    def _run(self) -> None:
        end = _End()
        try:
            with _SINGLE, torch.inference_mode():
                for item in self.source:
                    if not self._put(item):
                        break
        except BaseException as error:
            end = _End(error)
        finally:
            try:
                self.source.close()
            except BaseException as error:
                end = _End(end.error or error)
            if not self._put(end):
                # At the end of a program whoever takes the items may be a thread that waits for one.
                self._forget()
                self.made.put_nowait(_End(RuntimeError("the program ends")))
            RUNNING.ended(self)
            # An error's traceback has the frames of all stages, this one included: if this one had the error, all that
            # they hold (tens of MB of a decoder's state) would stay until Python's next full collection.
            del end

    def _put(self, item: T | _End) -> bool:
        """False once nobody wants it any more."""
        while self.wanted:
            try:
                self.made.put(item, timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False
