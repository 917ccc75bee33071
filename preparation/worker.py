"""What a worker is given, and how it works: one thread, so that its results depend on nothing but the unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import InputError, MynaError
from .journal import Journal
from .options import PrepareOptions
from .transcribe import BatchRecogniser
from .unit import Pipeline, Unit, UnitResult

# Before a worker starts: libraries count their threads when they are loaded.
ONE_THREAD: dict[str, str] = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)

CRASHED = "reading it ends the process that does"


@dataclass(frozen=True)
class Setup:
    """folder: of the recordings.   out: of the corpus.   recogniser: makes one, in the worker."""

    folder: Path
    out: Path
    options: PrepareOptions
    recogniser: Callable[[PrepareOptions], BatchRecogniser | None]


@dataclass(frozen=True)
class Done:
    """What the engine reports of a unit.   seconds: of audio.   timings: seconds of work by stage."""

    key: str
    n_bytes: int
    seconds: float
    timings: Mapping[str, float]


def complete(setup: Setup, unit: Unit, skip: Mapping[str, str] | None = None) -> Done:
    """Run a unit and write it to the journal, unless it is there. skip: as in `Pipeline.run`."""
    if not setup.folder.is_dir() or not setup.out.is_dir():
        raise InputError(
            f"{setup.folder} or {setup.out} is not there where a worker runs; all machines need both at the same path"
        )
    journal = Journal(setup.out)
    made = None if skip else journal.result(unit)
    if made is None:
        made = _complete(journal, setup, unit, skip)
    return Done(unit.key, unit.n_bytes, made.seconds, made.timings)


def _complete(journal: Journal, setup: Setup, unit: Unit, skip: Mapping[str, str] | None) -> UnitResult:
    """As `Journal.complete`; a recording that no stage was ready for is found and left out, and named."""
    try:
        return journal.complete(unit, _pipeline(setup), skip)
    except (MynaError, OSError, MemoryError):
        raise
    except Exception:
        found: dict[str, str] = dict(skip or {})
        for place, recording in enumerate(unit.recordings):
            try:
                try_recording(setup, unit, place)
            except (MynaError, OSError, MemoryError):
                raise
            except Exception as error:
                found[recording.path] = (
                    f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                )
        if len(found) == len(skip or {}):
            raise
        return journal.complete(unit, _pipeline(setup), found)


def try_recording(setup: Setup, unit: Unit, place: int) -> None:
    """One recording of a unit, its result thrown away: to see whether it ends the process."""
    import os

    with open(os.devnull, "wb") as nowhere:
        _pipeline(setup).run(Unit(unit.key, unit.content, unit.recordings[place : place + 1], 0), nowhere)


@lru_cache(maxsize=1)
def _pipeline(setup: Setup) -> Pipeline:
    import torch

    torch.set_num_threads(1)
    return Pipeline(setup.folder, setup.options, setup.recogniser(setup.options))
