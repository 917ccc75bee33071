"""`myna prepare` as a call: a folder of recordings to a corpus, from the list of files to the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..data.files import output_errors
from ..errors import InputError, UsageError
from ..pretrained import dnsmos
from ..version import __version__
from .assemble import decide, write_corpus
from .engine import Engine, LocalEngine
from .journal import Journal, read_config
from .options import PrepareOptions
from .readers import read_folder
from .records import Listing
from .report import write_report
from .transcribe import BatchRecogniser, whisper_recogniser
from .unit import Unit, plan
from .worker import Done, Setup

FORMAT = 1  # of what the stages write; a new number begins anew
Progress = Callable[[str, int, int], None]  # what is done, bytes done, bytes in all


@dataclass(frozen=True)
class Prepared:
    """facts: of the corpus, as in stats.json.   timings: seconds of work by stage, over all workers, of this run.
    notes: what was left out for want of a package.   finished_before: nothing was to be done."""

    facts: dict[str, Any]
    timings: dict[str, float]
    notes: tuple[str, ...]
    finished_before: bool = False


def prepare(
    folder: str | Path,
    out: str | Path,
    options: PrepareOptions | None = None,
    engine: Engine | None = None,
    force: bool = False,
    progress: Progress = lambda what, done, total: None,
    recogniser: Callable[[PrepareOptions], BatchRecogniser | None] = whisper_recogniser,
) -> Prepared:
    """Make a corpus of the recordings of `folder` in the folder `out`.

    A run that was stopped, however, goes on when it is called again, and ends with the same bytes; so does any number
    of workers, and either engine. recogniser: makes one in a worker (a function that can be imported there).
    Raises InputError for a folder without recordings, UsageError for an `out` that holds something else (or a corpus
    made otherwise, without `force`), MissingModelError, OutputError.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    options, notes = _what_is_installed(options or PrepareOptions())
    if out == folder or out in folder.parents:
        raise UsageError(f"{out} holds the recordings; name another folder for the corpus")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder for the corpus")
    listing = _without(read_folder(folder, options.layout, options.source), folder, out)
    units = list(plan(folder, listing.recordings, options))
    config = _config(folder, units, listing, options)
    journal = Journal(out)
    with journal.locked():
        if not journal.begin(config, force):
            done = read_config(out) or {}
            return Prepared(done.get("facts", {}), {}, notes, finished_before=True)
        setup = Setup(folder, out, options, recogniser)
        timings = _work(units, setup, engine or LocalEngine(), progress)
        facts = _assemble(journal, units, listing, options, notes, progress)
        journal.publish(config)
    return Prepared(facts, timings, notes)


def _work(units: list[Unit], setup: Setup, engine: Engine, progress: Progress) -> dict[str, float]:
    """Complete every unit that is not in the journal. -> seconds by stage."""
    journal = Journal(setup.out)
    total, done = sum(unit.n_bytes for unit in units), 0
    timings: dict[str, float] = {}
    waiting = []
    for unit in units:
        if journal.result(unit) is None:
            waiting.append(unit)
        else:
            done += unit.n_bytes
    progress("preparing", done, total)

    def on_done(one: Done) -> None:
        nonlocal done
        done += one.n_bytes
        for stage, seconds in one.timings.items():
            timings[stage] = timings.get(stage, 0.0) + seconds
        progress("preparing", done, total)

    if waiting:
        engine.run(waiting, setup, on_done)
    return timings


def _assemble(
    journal: Journal,
    units: list[Unit],
    listing: Listing,
    options: PrepareOptions,
    notes: tuple[str, ...],
    progress: Progress,
) -> dict[str, Any]:
    total, done = sum(unit.n_bytes for unit in units), 0

    def on_unit(unit: Unit) -> None:
        nonlocal done
        done += unit.n_bytes
        progress("writing shards", done, total)

    progress("writing shards", 0, total)
    decisions = decide(journal, units, options)
    statistics = write_corpus(journal, units, listing, options, decisions, on_unit)
    write_report(journal.corpus, statistics, options, notes)
    facts = statistics.to_dict()
    if not statistics.n_pieces:
        first = next((one for examples in statistics.examples.values() for one in examples), None)
        with output_errors(journal.root):
            journal.discard()
        raise InputError(
            f"nothing of {len(listing.recordings)} recordings could be kept: {dict(statistics.dropped)}"
            + (f"; {first.path}: {first.detail}" if first else "")
        )
    journal.ready(facts)
    return facts


def _config(folder: Path, units: list[Unit], listing: Listing, options: PrepareOptions) -> dict[str, Any]:
    """What makes two runs the same."""
    told = json.dumps([[unit.content for unit in units], [asdict(one) for one in listing.dropped]])
    return {
        "format": FORMAT,
        "myna": __version__,
        "folder": str(folder),
        "listing": hashlib.sha256(told.encode()).hexdigest()[:16],
        "options": options.to_dict(),
    }


def _without(listing: Listing, folder: Path, out: Path) -> Listing:
    """A corpus inside the folder it is made of is not one of its recordings."""
    if folder not in out.parents:
        return listing
    inside = out.relative_to(folder).as_posix() + "/"
    kept = tuple(one for one in listing.recordings if not one.path.startswith(inside))
    if not kept:
        raise InputError(f"{folder} holds no audio but that in {out}")
    return replace(listing, recordings=kept)


def _what_is_installed(options: PrepareOptions) -> tuple[PrepareOptions, tuple[str, ...]]:
    """The options without the stages whose packages are not here, and a line about each."""
    notes = []
    if options.model and find_spec("rapidfuzz") is None:
        raise UsageError("checking texts needs rapidfuzz; pip install 'myna[prepare]', or give --model none")
    if options.quality and options.min_quality is None and (name := dnsmos.missing()):
        notes.append(f"no quality scores: they need {name} (pip install 'myna[prepare]')")
        options = replace(options, quality=False)
    return options, tuple(notes)
