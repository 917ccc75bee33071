"""Codecs side by side with Opus on the same recordings: quality, real bitrate and speed.

>>> report = evaluate_codec(["myna-24k-v2"], ["recordings/"], EvaluationOptions(limit=20))
>>> print(report.to_markdown())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch

from ...codec import Codec
from ...codec.registry import load_codec
from ...errors import UsageError
from ..clips import Clip, find_clips
from ..measures.codebooks import CodebookCounter, CodebookUse
from ..measures.metrics import Metric, choose_metrics, mean_score
from ..report_folder import check_folder, write_report
from . import plots
from .opus import HIGHEST, LOWEST
from .systems import Outcome, device_of, through_codec, through_opus, uncompressed
from .tables import CodecReport, Row, Speed

Progress = Callable[[float, float | None], None]  # seconds of audio done, in all
FILES = ("report.md", "report.json", "rate_quality.png", "spectrograms.png")


@dataclass(frozen=True)
class EvaluationOptions:
    """bitrates: of the models, bits a second; None: an eighth, a quarter, a half and all of the codebooks.
    opus: bitrates of Opus, bits a second; empty leaves it out.   metrics: names, None for the usual ones.
    sample_rate: Hz, at which everything is compared.   limit, source, split, max_seconds: see `load_clips`.
    device: of the models.
    """

    bitrates: tuple[float, ...] | None = None
    opus: tuple[float, ...] = (6000, 8000, 12000, 16000)
    metrics: tuple[str, ...] | None = None
    sample_rate: int = 24000
    limit: int | None = None
    source: str | None = None
    split: str | None = None
    max_seconds: float | None = 30.0
    device: str = "cpu"

    def __post_init__(self):
        if any(not LOWEST <= rate <= HIGHEST for rate in self.opus):
            raise UsageError(f"Opus takes {LOWEST // 1000} to {HIGHEST // 1000} kbps, got {_kbps(self.opus)}")
        if any(rate <= 0 for rate in self.bitrates or ()):
            raise UsageError(f"bitrates must be above 0, got {_kbps(self.bitrates or ())}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"at least one clip is needed, got a limit of {self.limit}")


def evaluate_codec(
    models: Sequence[str | Path | Codec],
    data: Sequence[str | Path],
    options: EvaluationOptions | None = None,
    out_dir: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> CodecReport:
    """Measure models (names, checkpoints or codecs) on recordings (files, folders, patterns, `.tar` shards).

    out_dir: a folder for the report as Markdown and JSON, the plot of rate against quality and the
        spectrograms of the first clip; nothing is written before all is measured.
    Raises UsageError, InputError, MissingModelError and OutputError, each with one line.
    """
    options = options or EvaluationOptions()
    out = None if out_dir is None else Path(out_dir)
    notes: list[str] = []
    if out is not None:
        check_folder(out, FILES, force)
    metrics, missing = choose_metrics(options.metrics)
    notes += missing
    codecs = [m if isinstance(m, Codec) else load_codec(m, device=options.device) for m in models]
    names = _names(models, codecs)
    books = [_codebooks(codec.eval(), options.bitrates) for codec in codecs]
    clips = find_clips(
        data,
        options.sample_rate,
        limit=options.limit,
        source=options.source,
        split=options.split,
        max_seconds=options.max_seconds,
    )
    for codec, ks in zip(codecs, books, strict=True):
        _warm_up(codec, clips[0], ks)

    table = _Table(metrics)
    counters = [CodebookCounter(codec.n_codebooks, codec.codebook_size) for codec in codecs]
    # Decoded once to no end but this: a file that cannot be read is found now, not after hours.
    done, seconds = 0.0, sum(clip.duration for clip in clips)
    for clip in clips:
        table.begin(clip)
        table.add(_Key("uncompressed", None, 16.0 * options.sample_rate), clip, uncompressed(clip))
        for rate in options.opus:
            table.add(_Key("opus", None, rate), clip, through_opus(clip, rate))
        for name, codec, ks, counter in zip(names, codecs, books, counters, strict=True):
            for k, outcome in through_codec(codec, clip, ks):
                table.add(_Key(name, k, codec.bitrates[k - 1]), clip, outcome)
                if k == max(ks) and outcome.codes is not None:
                    counter.add(outcome.codes)
        done += clip.duration
        if progress:
            progress(done, seconds)
    use = {name: _first(n.result(), max(ks)) for name, n, ks in zip(names, counters, books, strict=True)}
    report = CodecReport(
        data=tuple(map(str, data)),
        n_clips=len(clips),
        seconds=seconds,
        sample_rate=options.sample_rate,
        threads=torch.get_num_threads(),
        device=str(device_of(codecs[0])) if codecs else options.device,
        rows=table.rows(),
        use=use,
        notes=tuple(notes),
    )
    if out is not None:
        pictures = {
            "rate_quality.png": plots.rate_quality,
            "spectrograms.png": lambda report: plots.spectrograms(table.panels(), report.sample_rate),
        }
        report = write_report(report, pictures, out, force)
    return report


@dataclass(frozen=True)
class _Key:
    """One row: a system at one bitrate."""

    system: str
    n_codebooks: int | None
    nominal: float

    @property
    def title(self) -> str:
        return (
            self.system if self.system == "uncompressed" else f"{self.system}, {self.nominal / 1000:g} kbps"
        )


class _Table:
    """Outcomes as they come, to rows at the end."""

    def __init__(self, metrics: Sequence[Metric]):
        self.metrics = metrics
        self.clips: list[Clip] = []
        self.seconds = 0.0
        self.scores: dict[_Key, list[list[float]]] = {}
        self.outcomes: dict[_Key, list[Outcome]] = {}
        self.first: dict[_Key, np.ndarray] = {}

    def begin(self, clip: Clip) -> None:
        """What is added next is this clip's. What has been judged need not stay in memory."""
        self.clips.append(replace(clip, wav=clip.wav[:0].copy()))
        self.seconds += clip.duration

    def add(self, key: _Key, clip: Clip, outcome: Outcome) -> None:
        self.first.setdefault(key, outcome.wav)
        self.scores.setdefault(key, []).append([m.score(clip, outcome.wav) for m in self.metrics])
        kept = replace(outcome, wav=np.zeros(0, np.float32), codes=None)
        self.outcomes.setdefault(key, []).append(kept)

    def rows(self) -> tuple[Row, ...]:
        return tuple(self._row(key) for key in self.scores)

    def panels(self) -> list[tuple[str, np.ndarray]]:
        """The first clip through each system."""
        return [(key.title, wav) for key, wav in self.first.items()]

    def _row(self, key: _Key) -> Row:
        outcomes, clips, seconds = self.outcomes[key], self.clips, self.seconds
        scores = np.array(self.scores[key], float).reshape(len(clips), len(self.metrics))
        payloads = [o.payload_bytes for o in outcomes if o.payload_bytes is not None]
        times = [o.times for o in outcomes if o.times is not None]
        speed = None
        if times:
            spent = ((t.encode, t.decode, t.pack, t.unpack) for t in times)
            speed = Speed(*(seconds / max(1e-9, sum(column)) for column in zip(*spent, strict=True)))
        return Row(
            system=key.system,
            n_codebooks=key.n_codebooks,
            nominal=key.nominal,
            bitrate=8 * sum(o.n_bytes for o in outcomes) / seconds,
            payload=8 * sum(payloads) / seconds if len(payloads) == len(outcomes) else None,
            scores={m.name: mean_score(m, clips, scores[:, i].tolist()) for i, m in enumerate(self.metrics)},
            speed=speed,
        )


def _names(models: Sequence[str | Path | Codec], codecs: Sequence[Codec]) -> list[str]:
    """What each is called in the report: by its name, and where several have the same one, those from checkpoints by
    their paths, too."""
    names: list[str] = []
    for model, codec in zip(models, codecs, strict=True):
        several = sum(other.name == codec.name for other in codecs) > 1
        plain = isinstance(model, Codec) or str(model) == codec.name
        name = codec.name if plain or not several else f"{codec.name} ({model})"
        names.append(next(n for i in count(1) if (n := name if i == 1 else f"{name} {i}") not in names))
    return names


def _codebooks(codec: Codec, bitrates: Sequence[float] | None) -> list[int]:
    if bitrates is None:
        return sorted({-(-codec.n_codebooks // share) for share in (8, 4, 2, 1)})
    return sorted({codec.codebooks_for(rate) for rate in bitrates})


def _warm_up(codec: Codec, clip: Clip, n_codebooks: Sequence[int]) -> None:
    """One second, so that the first clip is not charged for what happens only once."""
    for _ in through_codec(codec, replace(clip, wav=clip.wav[: clip.sample_rate]), n_codebooks[:1]):
        pass


def _first(use: CodebookUse, n: int) -> CodebookUse:
    return replace(use, used=use.used[:n], perplexity=use.perplexity[:n])


def _kbps(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate / 1000:g}" for rate in rates) + " kbps"
