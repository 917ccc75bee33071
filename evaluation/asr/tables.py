"""The report of `myna evaluate asr`: tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..measures.bootstrap import RESAMPLES, interval
from ..table import Column, Report, Table
from .scores import Errors


@dataclass(frozen=True)
class AsrClip:
    """One recording as one system heard it.

    source: of the recording.   system, beam_size: who listened, and how; 1 is greedy.   said, heard: texts as they
    are.   errors: of them, normalised.   seconds: of audio.   elapsed: seconds of work.
    """

    source: str
    system: str
    beam_size: int
    key: str
    said: str
    heard: str
    errors: Errors
    seconds: float
    elapsed: float

    @property
    def label(self) -> str:
        return label(self.system, self.beam_size)


@dataclass(frozen=True)
class AsrRow:
    """One system on one source, over all of its clips.

    wer, cer: errors over all words (characters), 0 is perfect.   wer_low, wer_high: 95 % of resamples of the clips.
    substitutions, deletions, insertions: over all words; they add up to wer.   real_time_factor: seconds of work for a
    second of audio.   peak_memory: bytes of the process while it transcribed everything, nan if not known.
    same_text: share of the clips with the text of the first system.
    """

    source: str
    system: str
    beam_size: int
    n_clips: int
    seconds: float
    wer: float
    wer_low: float
    wer_high: float
    cer: float
    substitutions: float
    deletions: float
    insertions: float
    real_time_factor: float
    peak_memory: float
    same_text: float

    @property
    def label(self) -> str:
        return label(self.system, self.beam_size)


def label(system: str, beam_size: int) -> str:
    return f"{system}, greedy" if beam_size == 1 else f"{system}, beam {beam_size}"


def row_of(clips: Sequence[AsrClip], first: Sequence[AsrClip], peak_memory: float, seed: int) -> AsrRow:
    """The clips of one system on one source; first: the same recordings as the first system heard them."""
    errors = [clip.errors for clip in clips]
    wrong, n_words = [e.word_errors for e in errors], [e.n_words for e in errors]
    low, high = interval(wrong, n_words, seed)
    total = sum(n_words)
    seconds = sum(clip.seconds for clip in clips)
    return AsrRow(
        source=clips[0].source,
        system=clips[0].system,
        beam_size=clips[0].beam_size,
        n_clips=len(clips),
        seconds=seconds,
        wer=sum(wrong) / total,
        wer_low=low,
        wer_high=high,
        cer=sum(e.character_errors for e in errors) / sum(e.n_characters for e in errors),
        substitutions=sum(e.substitutions for e in errors) / total,
        deletions=sum(e.deletions for e in errors) / total,
        insertions=sum(e.insertions for e in errors) / total,
        real_time_factor=sum(clip.elapsed for clip in clips) / seconds,
        peak_memory=peak_memory,
        same_text=agreement(clips, first),
    )


def agreement(clips: Sequence[AsrClip], others: Sequence[AsrClip]) -> float:
    """Share of the recordings, the same in the same order, that two systems gave the same text for."""
    return sum(a.heard == b.heard for a, b in zip(clips, others, strict=True)) / len(clips)


@dataclass(frozen=True)
class AsrReport(Report):
    """data: where the recordings came from.   model: the weights, as given.   language, fallback, seed, threads: how.
    normalizer: what both texts were brought to.   rows: by source.   clips: by system, each in the same order.
    agreement: share of the clips with equal text, by the labels of two systems.   worst: so many are listed.
    """

    data: tuple[str, ...]
    model: str
    language: str
    fallback: bool
    seed: int
    threads: int
    normalizer: str
    rows: tuple[AsrRow, ...]
    clips: tuple[AsrClip, ...]
    agreement: dict[str, dict[str, float]]
    worst: int

    @property
    def first(self) -> str:
        """The label of the first system: others are compared with its texts, and its worst clips are listed."""
        return next(iter(self.agreement))

    def worst_clips(self) -> list[AsrClip]:
        """The clips with the highest word error rates of the first system; of equal ones those with more errors."""
        wrong = [clip for clip in self.clips if clip.label == self.first and clip.errors.word_errors]
        return sorted(wrong, key=lambda c: (-c.errors.wer, -c.errors.word_errors, c.key))[: self.worst]

    def tables(self) -> list[Table]:
        tables = [self._systems()]
        if len(self.agreement) > 1:
            tables.append(self._agreement())
        if worst := self.worst_clips():
            tables.append(_worst(worst, f"Worst clips of {self.first}"))
        return tables

    def summary(self) -> str:
        """What the table was measured on, and how."""
        heard = [clip for clip in self.clips if clip.label == self.first]
        seconds = sum(clip.seconds for clip in heard)
        threads = f"{self.threads} thread" + ("s" if self.threads != 1 else "")
        temperature = f"temperatures from 0 to 1, seed {self.seed}" if self.fallback else "temperature 0"
        return (
            f"{len(heard)} clips, {seconds:.0f} s, from {', '.join(self.data)}; weights {self.model}, language "
            f"{self.language}, {temperature}, {threads}, one process a system; texts compared by {self.normalizer}; "
            f"in brackets 95 % of {RESAMPLES} resamples."
        )

    def _systems(self) -> Table:
        header = [
            "recordings",
            "system",
            *(column.title for column in _COLUMNS),
            f"same text as {self.first} %",
        ]
        shown = [column.cell for column in _COLUMNS]
        body = [
            [row.source, row.label, *(cell(row) for cell in shown), f"{100 * row.same_text:.1f}"]
            for row in self.rows
        ]
        return Table(header, body, 2)

    def _agreement(self) -> Table:
        """Systems by number in the columns: their names are too long for as many."""
        header = ["", *(str(i) for i in range(1, len(self.agreement) + 1))]
        body = [
            [f"{i} {name}", *(f"{100 * share:.1f}" for share in shares.values())]
            for i, (name, shares) in enumerate(self.agreement.items(), 1)
        ]
        return Table(header, body, title="Clips with equal text, %")


_COLUMNS = (
    Column("clips", ("n_clips",), "{:.0f}"),
    Column("WER % ↓", ("wer", "wer_low", "wer_high"), "{:.2f} ({:.2f}-{:.2f})", 100),
    Column("CER % ↓", ("cer",), "{:.2f}", 100),
    Column("sub %", ("substitutions",), "{:.2f}", 100),
    Column("del %", ("deletions",), "{:.2f}", 100),
    Column("ins %", ("insertions",), "{:.2f}", 100),
    Column("real-time factor ↓", ("real_time_factor",), "{:.4f}"),
    Column("peak memory MB ↓", ("peak_memory",), "{:.0f}", 1e-6),
)


def _worst(clips: Sequence[AsrClip], title: str) -> Table:
    header = ["recordings", "clip", "said", "heard", "s", "WER %"]
    body = [
        [c.source, c.key, _short(c.said), _short(c.heard), f"{c.seconds:.1f}", f"{100 * c.errors.wer:.0f}"]
        for c in clips
    ]
    return Table(header, body, 4, title)


def _short(text: str, most: int = 300) -> str:
    """On one line, and not for ever."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."
