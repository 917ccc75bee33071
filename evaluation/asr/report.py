"""Recognisers side by side on recordings whose words are known: errors, speed, memory, and whether they agree.

>>> report = evaluate_asr(["../shared/corpus/lj-test-000.tar"], RecognitionEvaluation(limit=20))
>>> print(report.to_markdown())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import InputError, MissingModelError, UsageError
from ..clips import Clip, load_clips
from ..measures.normalizer import normalizer_for
from ..report_folder import check_folder, write_report
from . import plots as asr_plots
from .scores import compare
from .systems import SAMPLE_RATE, Setup, System, choose_systems
from .tables import AsrClip, AsrReport, AsrRow, agreement, row_of
from .worker import InProcess, Isolated, Worker

Progress = Callable[[int, int | None], None]  # clips heard, in all
_PICTURES = {
    "bars.png": asr_plots.bars,
    "speed.png": asr_plots.speed,
    "agreement.png": asr_plots.agreement,
}
FILES = ("report.md", "report.json", *_PICTURES)
_MANY = 6  # names in a note


@dataclass(frozen=True)
class RecognitionEvaluation:
    """What to measure.

    model: the weights' name or path, the same for all systems.   systems: names of SYSTEMS, None: all that are
    installed.   beam_sizes: 1 is greedy.   language: of the recordings, by its code.   limit, source, split: see
    `load_clips`.   fallback: higher temperatures where a result looks wrong; without, temperature 0 only.   seed: of
    these, and of the resamples.   threads: of every system; None: as many as torch has.   worst: clips to list.
    isolate: each system in a process of its own; without, its memory is not known.
    """

    model: str = "tiny.en"
    systems: tuple[str, ...] | None = None
    beam_sizes: tuple[int, ...] = (1, 5)
    language: str = "en"
    limit: int | None = None
    source: str | None = None
    split: str | None = None
    fallback: bool = False
    seed: int = 0
    threads: int | None = None
    worst: int = 10
    isolate: bool = True

    def __post_init__(self) -> None:
        for name, value, least in (
            ("limit", self.limit, 1),
            ("threads", self.threads, 1),
            ("worst", self.worst, 0),
            ("seed", self.seed, 0),
            ("beam-size", min(self.beam_sizes, default=0), 1),
        ):
            if value is not None and value < least:
                raise UsageError(f"--{name} is {value}; give {least} or more")


def evaluate_asr(
    data: Sequence[str | Path],
    options: RecognitionEvaluation | None = None,
    out_dir: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> AsrReport:
    """Measure recognisers on recordings with their texts (files, folders, patterns, `.tar` shards).

    The text is in KEY.txt or KEY.json beside a file, or in the JSON of a shard.
    out_dir: a folder for the report as Markdown and JSON and the pictures, written when all is measured.
    A peer that is not installed, or cannot read the weights, is left out with a note, unless it was named.
    Raises UsageError, InputError, MissingModelError and OutputError, each with one line.
    """
    from ...asr.model.languages import find_language

    options = options or RecognitionEvaluation()
    language = find_language(options.language)
    out = None if out_dir is None else Path(out_dir)
    if out is not None:
        check_folder(out, FILES, force)
    systems, notes = choose_systems(options.systems)
    _check_counting()
    clips = _with_words(data, options, language, notes)
    run = _Run(clips, options, language, progress, len(systems) * len(dict.fromkeys(options.beam_sizes)))
    for system in systems:
        for beam_size in dict.fromkeys(options.beam_sizes):
            try:
                run.listen(system, beam_size)
            except MissingModelError as error:
                # Ours says what there is to do; a peer that cannot read these weights must not end the others.
                if options.systems or system.name.startswith("myna"):
                    raise
                notes.append(f"{system.name} is left out: {error}")
                run.skip(len(set(options.beam_sizes)))
                break
    report = AsrReport(
        data=tuple(map(str, data)),
        model=options.model,
        language=language,
        fallback=options.fallback,
        seed=options.seed,
        threads=run.threads,
        normalizer=run.normalize.name,
        rows=run.rows(),
        clips=tuple(clip for heard in run.heard.values() for clip in heard),
        agreement={
            one: {other: agreement(run.heard[one], run.heard[other]) for other in run.heard}
            for one in run.heard
        },
        worst=options.worst,
        notes=tuple(notes),
    )
    if out is not None:
        report = write_report(report, _PICTURES, out, force)
    return report


class _Run:
    """System after system over the same clips."""

    def __init__(
        self,
        clips: Sequence[Clip],
        options: RecognitionEvaluation,
        language: str,
        progress: Progress | None,
        n_rounds: int,
    ):
        self.heard: dict[str, list[AsrClip]] = {}  # by the label of the system
        self.threads = options.threads or torch.get_num_threads()
        self.normalize = normalizer_for(language)
        self._peaks: dict[str, float] = {}
        self._clips, self._options, self._language = clips, options, language
        self._progress, self._n_rounds = progress, n_rounds
        self._done = 0

    def listen(self, system: System, beam_size: int) -> None:
        """All clips through one system, after one that is not timed."""
        options = self._options
        model = system.find(options.model)
        setup = Setup(model, beam_size, self._language, self.threads, options.fallback, options.seed)
        recogniser: Worker = (Isolated if options.isolate else InProcess)(system, setup)
        try:
            recogniser.hear(self._clips[0].wav)
            clips = []
            for clip in self._clips:
                clips.append(self._judged(recogniser, clip, system.name, beam_size))
                self._done += 1
                self._tell()
            peak = recogniser.peak()
        finally:
            recogniser.close()
        self.heard[clips[0].label] = clips
        self._peaks[clips[0].label] = peak

    def skip(self, n_rounds: int) -> None:
        """So many rounds less to do."""
        self._n_rounds -= n_rounds
        self._tell()

    def rows(self) -> tuple[AsrRow, ...]:
        """A row a source and system, by source."""
        first = next(iter(self.heard.values()))
        rows = []
        for source in dict.fromkeys(clip.source for clip in first):
            ours = [clip for clip in first if clip.source == source]
            for name, clips in self.heard.items():
                theirs = [clip for clip in clips if clip.source == source]
                rows.append(row_of(theirs, ours, self._peaks[name], self._options.seed))
        return tuple(rows)

    def _tell(self) -> None:
        if self._progress:
            self._progress(self._done, self._n_rounds * len(self._clips))

    def _judged(self, recogniser: Worker, clip: Clip, system: str, beam_size: int) -> AsrClip:
        heard = recogniser.hear(clip.wav)
        said = clip.text or ""
        errors = compare(said, heard.text, self.normalize, self.normalize.split_letters)
        assert errors is not None  # clips without words have been left out
        return AsrClip(
            source=_source(clip),
            system=system,
            beam_size=beam_size,
            key=clip.key,
            said=said,
            heard=heard.text,
            errors=errors,
            seconds=clip.duration,
            elapsed=heard.elapsed,
        )


def _with_words(
    data: Sequence[str | Path], options: RecognitionEvaluation, language: str, notes: list[str]
) -> list[Clip]:
    """The recordings whose words are known, with a note of the others. Raises InputError where there is none."""
    found = load_clips(data, SAMPLE_RATE, limit=options.limit, source=options.source, split=options.split)
    normalize = normalizer_for(language)
    clips = [clip for clip in found if clip.text and normalize(clip.text).split()]
    without = [clip.key for clip in found if not (clip.text and normalize(clip.text).split())]
    more = f" and {len(without) - _MANY} more" if len(without) > _MANY else ""
    named = ", ".join(without[:_MANY]) + more
    if not clips:
        raise InputError(
            f"no text is beside the recordings ({named}); put what is said in {without[0]}.txt or its JSON"
        )
    if without:
        notes.append(f"without a text beside them, and left out: {named}")
    return clips


def _source(clip: Clip) -> str:
    return clip.source or "recordings"


def _check_counting() -> None:
    try:
        import rapidfuzz  # noqa: F401
    except ImportError:
        raise MissingModelError(
            "errors are counted by rapidfuzz, which is not installed (pip install 'myna[evaluate]')"
        ) from None
