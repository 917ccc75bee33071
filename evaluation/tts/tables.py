"""The report of `myna evaluate tts`: tables and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..measures.bootstrap import RESAMPLES, interval
from ..table import Column, Report, Table
from .scores import HeardText, Likeness

GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class SpokenClip:
    """One clip of one system.

    system: GROUND_TRUTH, the codec's, or Myna's.   key: of the recording with this text, or of the hard sentence.
    heard: by the recogniser.   likeness: to recordings of the speaker that are neither in the prompt nor of this text,
    and to those of other speakers.   dnsmos: nan if not judged.   seconds: of audio.   elapsed, first_audio: seconds of
    work in all and until the first sound, for what was synthesised.   hit_bound: it was stopped at a longest duration.
    prompt_seconds: of the voice.
    """

    source: str
    system: str
    speaker: str
    key: str
    text: str
    heard: HeardText
    likeness: Likeness
    dnsmos: float
    seconds: float
    elapsed: float | None = None
    first_audio: float | None = None
    hit_bound: bool | None = None
    prompt_seconds: float | None = None
    kind: str | None = None


@dataclass(frozen=True)
class SpeechRow:
    """One system on one source, over all of its clips. nan: not judged; None: does not apply.

    wer, cer: errors over all words (characters), 0 is perfect.   wer_low, wer_high: 95 % of resamples of the clips.
    similarity, other_similarity: to the speaker's other recordings, to other speakers'.   judge, other_judge: the same
    by the second judge.   real_time_factor: seconds of work for a second of speech.   first_audio, first_audio_p90:
    median and 90th percentile, seconds.
    bound: share of the clips that hit the length bound.
    """

    source: str
    system: str
    n_clips: int
    n_speakers: int
    seconds: float
    wer: float
    wer_low: float
    wer_high: float
    cer: float
    similarity: float
    other_similarity: float
    dnsmos: float
    real_time_factor: float | None = None
    first_audio: float | None = None
    first_audio_p90: float | None = None
    bound: float | None = None
    judge: float = math.nan
    other_judge: float = math.nan


def row_of(clips: Sequence[SpokenClip]) -> SpeechRow:
    """The clips of one system on one source."""
    said = [c for c in clips if c.elapsed is not None and c.first_audio is not None]
    seconds = sum(c.seconds for c in clips)
    first = [c.first_audio for c in said if c.first_audio is not None]
    low, high = _interval(clips)
    return SpeechRow(
        source=clips[0].source,
        system=clips[0].system,
        n_clips=len(clips),
        n_speakers=len({c.speaker for c in clips}),
        seconds=seconds,
        wer=_ratio([(c.heard.word_errors, c.heard.n_words) for c in clips]),
        wer_low=low,
        wer_high=high,
        cer=_ratio([(c.heard.character_errors, c.heard.n_characters) for c in clips]),
        similarity=_mean([c.likeness.same for c in clips]),
        other_similarity=_mean([c.likeness.different for c in clips]),
        dnsmos=_mean([c.dnsmos for c in clips]),
        real_time_factor=sum(c.elapsed or 0 for c in said) / max(1e-9, seconds) if said else None,
        first_audio=float(np.median(first)) if first else None,
        first_audio_p90=float(np.quantile(first, 0.9)) if first else None,
        bound=float(np.mean([bool(c.hit_bound) for c in said])) if said else None,
        judge=_mean([c.likeness.judge for c in clips]),
        other_judge=_mean([c.likeness.judge_different for c in clips]),
    )


@dataclass(frozen=True)
class SpeechReport(Report):
    """data: where the voices came from.   models: what spoke, by its part, as given.   preset, seed, candidates,
    threads, device: how.   repeats: times each text was said by a voice, with seeds from `seed` on.   recogniser: and
    how texts were compared.   clips: in the order of the rows, hard sentences last.
    """

    data: tuple[str, ...]
    models: dict[str, str]
    preset: str
    seed: int
    candidates: int
    threads: int
    device: str
    recogniser: str | None
    rows: tuple[SpeechRow, ...]
    hard: SpeechRow | None
    clips: tuple[SpokenClip, ...]
    repeats: int = 1

    def tables(self) -> list[Table]:
        hard = self.hard_clips()
        return [self._systems(), *([_hard(hard)] if hard else [])]

    def hard_clips(self) -> list[SpokenClip]:
        return [clip for clip in self.clips if clip.kind is not None]

    def summary(self) -> str:
        """What the table was measured on, and how."""
        spoken = [c for c in self.clips if c.kind is None]
        spoken = [c for c in spoken if c.prompt_seconds is not None] or spoken
        n = len({(c.source, c.speaker) for c in spoken})
        prompts = [c.prompt_seconds for c in self.clips if c.prompt_seconds is not None]
        voices = f"{n} voice{'s' if n != 1 else ''} from {', '.join(self.data)}"
        parts = [voices if not prompts else f"{voices}, prompts of {np.mean(prompts):.1f} s on average"]
        if prompts:
            tries = f", {self.candidates} candidates" if self.candidates > 1 else ""
            threads = f"{self.threads} thread" + ("s" if self.threads != 1 else "")
            last = f" to {self.seed + self.repeats - 1}" if self.repeats > 1 else ""
            parts.append(f"preset {self.preset}{tries}, seed {self.seed}{last}, on {self.device}, {threads}")
        if self.recogniser:
            parts.append(f"words as heard by {self.recogniser}; in brackets 95 % of {RESAMPLES} resamples")
        return "; ".join(parts) + "."

    def _systems(self) -> Table:
        rows = [*self.rows, *([self.hard] if self.hard else [])]
        shown = [
            column
            for column in _COLUMNS
            if any(_known(getattr(row, field)) for row in rows for field in column.fields)
        ]
        header = ["voices", "speech", "clips", *(column.title for column in shown)]
        body = [[r.source, r.system, str(r.n_clips), *(column.cell(r) for column in shown)] for r in rows]
        return Table(header, body, 2)


_COLUMNS = (
    Column("WER % ↓", ("wer", "wer_low", "wer_high"), "{:.1f} ({:.1f}-{:.1f})", 100),
    Column("CER % ↓", ("cer",), "{:.1f}", 100),
    Column("similarity ↑", ("similarity",), "{:.3f}"),
    Column("to others ↓", ("other_similarity",), "{:.3f}"),
    Column("second judge ↑", ("judge",), "{:.3f}"),
    Column("its to others ↓", ("other_judge",), "{:.3f}"),
    Column("DNSMOS ↑", ("dnsmos",), "{:.2f}"),
    Column("real-time factor ↓", ("real_time_factor",), "{:.2f}"),
    Column("first audio ms ↓", ("first_audio",), "{:.0f}", 1000),
    Column("p90 ms ↓", ("first_audio_p90",), "{:.0f}", 1000),
    Column("hit the bound % ↓", ("bound",), "{:.0f}", 100),
)


def _hard(clips: Sequence[SpokenClip]) -> Table:
    header = ["kind", "voice", "text", "heard", "WER %", "s", "bound"]
    body = []
    for c in clips:
        judged = c.heard.text is not None
        error = f"{100 * c.heard.word_errors / max(1, c.heard.n_words):.0f}" if judged else ""
        bound = "hit" if c.hit_bound else ""
        body.append([c.kind or "", c.speaker, c.text, c.heard.text or "", error, f"{c.seconds:.1f}", bound])
    return Table(header, body, 4, "Hard sentences")


def _interval(clips: Sequence[SpokenClip]) -> tuple[float, float]:
    """The middle 95 % of the word error rate over resamples of what was said; a text that a voice says several times
    counts as one clip, since it is hard or easy every time."""
    texts: dict[tuple[str, ...], list[HeardText]] = {}
    for clip in clips:
        texts.setdefault((clip.source, clip.speaker, clip.key, clip.text), []).append(clip.heard)
    errors = [sum(h.word_errors for h in heard) for heard in texts.values()]
    return interval(errors, [sum(h.n_words for h in heard) for heard in texts.values()])


def _ratio(pairs: Sequence[tuple[int, int]]) -> float:
    errors, total = (sum(column) for column in zip(*pairs, strict=True))
    return errors / total if total else math.nan


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
