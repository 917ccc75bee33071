"""All units to one corpus: what is known only when everything is there.

    results --duplicates--> kept --voices--> speakers --seconds--> splits         (a first pass, small facts only)
            --> shards, manifest.jsonl, dropped.jsonl, statistics                 (a second pass, with the audio)

Units are taken in the order of the recordings, whoever made them and when.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ..data.clustering import cluster
from ..data.files import atomic_output, output_errors
from ..errors import OutputError
from .duplicates import Seen
from .journal import Journal
from .options import PrepareOptions
from .records import Dropped, Listing, Piece
from .report import Statistics
from .shards import ShardWriter
from .speakers import voice_of
from .splits import assign, most_held_out
from .unit import Unit, UnitResult

MANIFEST, DROPPED = "manifest.jsonl", "dropped.jsonl"


@dataclass(frozen=True)
class Decisions:
    """repeats: keys of pieces that repeat another, and of which.   speakers, splits: of every other piece, by key."""

    repeats: dict[str, str]
    speakers: dict[str, str]
    splits: dict[str, str]


def decide(journal: Journal, units: Sequence[Unit], options: PrepareOptions) -> Decisions:
    """The first pass: duplicates, speakers, splits."""
    seen = Seen()
    names: dict[str, str] = {}  # one string a speaker, however many pieces are theirs
    repeats: dict[str, str] = {}
    speakers: dict[str, str] = {}
    voices: list[np.ndarray] = []
    unknown: list[str] = []
    facts: list[tuple[str, str, float, str | None]] = []
    for _, made in results(journal, units):
        for piece in made.pieces:
            if options.duplicates:
                first = seen.first(piece.key, piece.duration, piece.audio_hash, piece.fingerprint, piece.text)
                if first is not None:
                    repeats[piece.key] = first
                    continue
            facts.append((piece.key, piece.path, piece.duration, piece.split))
            if piece.speaker is not None:
                name = f"{options.source}_{piece.speaker}"
                speakers[piece.key] = names.setdefault(name, name)
            elif piece.embedding is not None:
                unknown.append(piece.key)
                voices.append(voice_of(piece.embedding))
            else:  # nothing is known, but that what is in one file may well be one person
                speakers[piece.key] = f"{options.source}_{PurePosixPath(piece.path).with_suffix('')}"
    if unknown:
        groups = cluster(np.stack(voices), options.speaker_threshold)
        for key, group in zip(unknown, groups, strict=True):
            speakers[key] = f"{options.source}_voice{group:05d}"
    return Decisions(repeats, speakers, _splits(facts, speakers, options))


def _splits(
    facts: list[tuple[str, str, float, str | None]], speakers: dict[str, str], options: PrepareOptions
) -> dict[str, str]:
    """facts: key, path, seconds and given split of every piece. -> the split of every key."""
    # Who speaks in a recording may be a guess: all whom it holds stay together, and with whomever they share another.
    together = _Together()
    for key, path, _, _ in facts:
        together.join(f"speaker {speakers[key]}", f"recording {path}")
    names = {key: together.first(f"recording {path}") for key, path, _, _ in facts}
    if len(set(names.values())) < 3:
        names = {key: path for key, path, _, _ in facts}
    seconds: dict[str, float] = defaultdict(float)
    given: dict[str, str] = {}
    for key, _, duration, split in facts:
        seconds[names[key]] += duration
        known = most_held_out(split, given.get(names[key]))
        if known is not None:
            given[names[key]] = known
    splits = assign(seconds, given, options)
    return {key: splits[name] for key, name in names.items()}


class _Together:
    """Sets that grow together."""

    def __init__(self):
        self._parents: dict[str, str] = {}

    def first(self, name: str) -> str:
        """The same for all in one set."""
        parent = self._parents.setdefault(name, name)
        while parent != name:
            grandparent = self._parents[parent]
            self._parents[name] = grandparent
            name, parent = parent, grandparent
        return name

    def join(self, one: str, other: str) -> None:
        one, other = sorted((self.first(one), self.first(other)))
        self._parents[other] = one


def write_corpus(
    journal: Journal,
    units: Sequence[Unit],
    listing: Listing,
    options: PrepareOptions,
    decisions: Decisions,
    on_unit: Callable[[Unit], None] = lambda unit: None,
) -> Statistics:
    """The second pass: shards, manifest and list of what is missing, in the journal's `corpus` folder."""
    folder = journal.corpus
    statistics = Statistics(listing.layout, len(listing.recordings))
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix != ".tar":  # the shards that are there are whole
                path.unlink()
    with ExitStack() as stack:
        manifest = stack.enter_context(atomic_output(folder / MANIFEST))
        dropped = stack.enter_context(atomic_output(folder / DROPPED))
        writers: dict[str, ShardWriter] = {}

        def drop(one: Dropped) -> None:
            statistics.drop(one)
            dropped.write(_line(asdict(one)))

        for one in listing.dropped:
            drop(one)
        for unit, made in results(journal, units):
            statistics.seconds_in += made.seconds
            for one in made.dropped:
                drop(one)
            with output_errors(journal.audio(unit)), open(journal.audio(unit), "rb") as audio:
                for piece in made.pieces:
                    if piece.key in decisions.repeats:
                        detail = f"it repeats {decisions.repeats[piece.key]}"
                        drop(Dropped(piece.path, "duplicate", detail, piece.start, piece.end))
                        continue
                    facts = _facts(piece, decisions, options)
                    split = facts["split"]
                    if split not in writers:
                        name = f"{options.source}-{split}"
                        writers[split] = stack.enter_context(
                            ShardWriter(folder, name, options.shard_mb * 1_000_000)
                        )
                    audio.seek(piece.offset)
                    shard = writers[split].add(piece.key, options.format, audio.read(piece.size), facts)
                    manifest.write(_line({**facts, "shard": shard}))
                    statistics.keep(facts)
            on_unit(unit)
    return statistics


def results(journal: Journal, units: Sequence[Unit]) -> Iterator[tuple[Unit, UnitResult]]:
    """Every unit with its result. Raises OutputError if one is gone."""
    for unit in units:
        made = journal.result(unit)
        if made is None:
            raise OutputError(
                f"{journal.audio(unit)} was removed or damaged while we worked; start again to go on"
            )
        yield unit, made


def _facts(piece: Piece, decisions: Decisions, options: PrepareOptions) -> dict[str, Any]:
    """The .json of a sample: the fields of the corpus format, and those that this program adds."""
    facts: dict[str, Any] = {
        "key": piece.key,
        "source": options.source,
        "split": decisions.splits[piece.key],
        "speaker": decisions.speakers[piece.key],
        "text": piece.text,
        "language": piece.language,
        "duration": piece.duration,
        "sample_rate": piece.sample_rate,
        "text_from": piece.text_from,
        "cer": piece.cer,
        "logprob": piece.logprob,
        "phonemes": piece.phonemes,
        "quality": piece.quality,
        "loudness": piece.loudness,
        "gain_db": piece.gain_db,
        "recording": piece.path,
        "start": piece.start,
        "end": piece.end,
    }
    return {**facts, **{name: value for name, value in piece.extra.items() if name not in facts}}


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
