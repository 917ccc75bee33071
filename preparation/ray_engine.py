"""The same work on a Ray cluster: an actor a core, the journal on a file system that all machines share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from ..errors import UsageError
from .engine import AHEAD
from .unit import Unit
from .worker import CRASHED, ONE_THREAD, Done, Setup, complete, try_recording


class RayEngine:
    """address: of a running cluster (host:port, or auto); None: what $RAY_ADDRESS says, else a cluster of this machine.

    workers: actors; None: one for every core of the cluster. Raises UsageError without the package ray, or if the
    cluster cannot be reached.
    """

    def __init__(self, address: str | None = None, workers: int | None = None):
        try:
            import ray
            import ray.exceptions
        except ImportError:
            raise UsageError("--engine ray needs the package ray; pip install 'myna[ray]'") from None
        self.address, self.workers = address, workers
        self._ray: Any = ray

    def run(self, units: Iterable[Unit], setup: Setup, on_done: Callable[[Done], None]) -> None:
        ray = self._ray
        ours = not ray.is_initialized()
        if ours:
            self._connect()
        actors: list[Any] = []
        try:
            n = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            work = ray.remote(num_cpus=1, max_restarts=0, runtime_env={"env_vars": ONE_THREAD})(_Actor)
            actors = [work.remote(setup) for _ in range(n)]
            self._hand_out(iter(units), actors, lambda: work.remote(setup), on_done)
        finally:
            if ours:
                ray.shutdown()
            else:
                for actor in actors:
                    ray.kill(actor)

    def _connect(self) -> None:
        local = {} if self.address else {"include_dashboard": False, "num_cpus": self.workers}
        try:
            self._ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(f"no Ray cluster at {self.address or 'this machine'}: {reason}") from None

    def _hand_out(
        self, units: Any, actors: list[Any], make: Callable[[], Any], on_done: Callable[[Done], None]
    ) -> None:
        ray, died = self._ray, self._ray.exceptions.RayActorError
        under_way: dict[Any, tuple[Unit, int]] = {}
        load = [0] * len(actors)
        suspects: list[Unit] = []
        while True:
            for place in range(len(actors)):
                for unit in islice(units, AHEAD - load[place]):
                    under_way[actors[place].complete.remote(unit)] = (unit, place)
                    load[place] += 1
            if not under_way:
                break
            for reference in ray.wait(list(under_way))[0]:
                unit, place = under_way.pop(reference)
                load[place] -= 1
                try:
                    on_done(_result(ray, reference))
                except died:
                    suspects.append(unit)
                    if load[place] == 0:  # its other units have died with it, too
                        actors[place] = make()
        for unit in suspects:
            on_done(self._alone(unit, make))

    def _alone(self, unit: Unit, make: Callable[[], Any]) -> Done:
        """A unit in an actor of its own, without the recordings that end it."""
        ray, died = self._ray, self._ray.exceptions.RayActorError

        def attempt(name: str, *args: Any) -> Any:
            actor = make()
            try:
                return _result(ray, getattr(actor, name).remote(unit, *args))
            finally:
                ray.kill(actor)

        for _ in range(2):  # the first time, the machine may have gone rather than the process
            try:
                return attempt("complete")
            except died:
                pass
        found: dict[str, str] = {}
        for place, recording in enumerate(unit.recordings):
            try:
                attempt("try_recording", place)
            except died:
                found[recording.path] = CRASHED
        return attempt("complete", found or {recording.path: CRASHED for recording in unit.recordings})


class _Actor:
    def __init__(self, setup: Setup):
        self.setup = setup

    def complete(self, unit: Unit, skip: Mapping[str, str] | None = None) -> Done:
        return complete(self.setup, unit, skip)

    def try_recording(self, unit: Unit, place: int) -> None:
        try_recording(self.setup, unit, place)


def _result(ray: Any, reference: Any) -> Any:
    """Errors as the worker raised them, without Ray's traceback in their words."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
