"""Who does the work: a pool of processes on this machine. ray_engine.py does the same on a cluster.

Engines give units to workers in any order and number; what they write does not depend on it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Protocol

from ..data.environment import environment
from .unit import Unit
from .worker import CRASHED, ONE_THREAD, Done, Setup, complete, try_recording

AHEAD = 2  # units a worker that are handed out


class Engine(Protocol):
    """Completes units: each is in the journal when `on_done` hears of it."""

    def run(self, units: Iterable[Unit], setup: Setup, on_done: Callable[[Done], None]) -> None: ...


class LocalEngine:
    """workers: processes; None: as many as this process may use cores."""

    def __init__(self, workers: int | None = None):
        self.workers = workers or available_cores()

    def run(self, units: Iterable[Unit], setup: Setup, on_done: Callable[[Done], None]) -> None:
        waiting = iter(units)
        with environment(ONE_THREAD):
            while suspects := self._run(waiting, setup, on_done):
                # A worker died; of the units that were under way, one is to blame.
                for unit in suspects:
                    on_done(self._alone(unit, setup))

    def _run(self, units: Iterator[Unit], setup: Setup, on_done: Callable[[Done], None]) -> list[Unit]:
        """Until there is nothing left, or a worker dies: then the units that were under way."""
        with pool(self.workers) as workers:
            under_way: dict[Future[Done], Unit] = {}
            taken: Unit | None = None  # from `units`, not yet under way
            try:
                while True:
                    for unit in islice(units, AHEAD * self.workers - len(under_way)):
                        taken = unit
                        under_way[workers.submit(complete, setup, unit)] = unit
                        taken = None
                    if not under_way:
                        return []
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        done = future.result()
                        del under_way[future]
                        on_done(done)
            except BrokenProcessPool:
                return [*under_way.values(), *([taken] if taken else [])]

    def _alone(self, unit: Unit, setup: Setup) -> Done:
        """A unit in a process of its own, without the recordings that end it."""

        def attempt(work, *args):
            with pool(1) as worker:
                return worker.submit(work, *args).result()

        try:
            return attempt(complete, setup, unit)
        except BrokenProcessPool:
            return attempt(complete, setup, unit, self._culprits(unit, setup, attempt))

    def _culprits(self, unit: Unit, setup: Setup, attempt) -> Mapping[str, str]:
        found = {}
        for place, recording in enumerate(unit.recordings):
            try:
                attempt(try_recording, setup, unit, place)
            except BrokenProcessPool:
                found[recording.path] = CRASHED
        return found or {recording.path: CRASHED for recording in unit.recordings}


def available_cores() -> int:
    """Those this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once when the block is left by an exception, and by themselves when we are killed."""
    # Spawned rather than forked: torch's threads do not survive a fork.
    executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_settle, initargs=(os.getpid(),)
    )
    try:
        yield executor
    except BaseException:
        for process in list((executor._processes or {}).values()):
            process.kill()
        executor.shutdown(cancel_futures=True)
        raise
    executor.shutdown()


def _settle(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, too, and decides

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # nobody waits for our work any more

    threading.Thread(target=watch, daemon=True).start()
