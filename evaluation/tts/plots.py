"""The pictures of an evaluation of cloned speech, as PNG bytes: bars, a scatter of clips, mel spectrograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...layers.mel import mel_filterbank
from ..codec.plots import RANGE_DB, new_figure, power_spectrum, to_png
from .tables import GROUND_TRUTH, SpeechReport

N_FFT, N_MELS = 1024, 80


@dataclass(frozen=True)
class Panels:
    """One voice: the prompt, a recording of the text, and the text as it was synthesised; each (N,)."""

    title: str
    prompt: np.ndarray
    truth: np.ndarray | None
    ours: np.ndarray | None


_BARS = (
    ("WER, %", "wer", 100.0, "ceiling (recordings)"),
    ("speaker similarity", "similarity", 1.0, "ceiling (recordings)"),
    ("DNSMOS", "dnsmos", 1.0, "ceiling (recordings)"),
)


def bars(report: SpeechReport) -> bytes:
    """A panel a measure, a group of bars a source; dashed: what real recordings measure, dotted: other speakers."""
    shown = [bar for bar in _BARS if any(not math.isnan(getattr(row, bar[1])) for row in report.rows)]
    figure, axes = new_figure(max(1, len(shown)), 4.6, 3.8)
    sources = list(dict.fromkeys(row.source for row in report.rows))
    systems = list(dict.fromkeys(row.system for row in report.rows))
    width = 0.8 / max(1, len(systems))
    for axis, (title, field, scale, ceiling) in zip(axes, shown, strict=False):
        for i, system in enumerate(systems):
            rows = {row.source: row for row in report.rows if row.system == system}
            places = [sources.index(source) + (i - (len(systems) - 1) / 2) * width for source in rows]
            heights = [scale * getattr(row, field) for row in rows.values()]
            drawn = axis.bar(places, heights, width, label=system)
            axis.bar_label(drawn, ["" if math.isnan(h) else f"{h:.3g}" for h in heights], fontsize=7)
        for row in report.rows:
            if row.system != GROUND_TRUTH:
                continue
            at = sources.index(row.source)
            span = at - 0.45, at + 0.45
            axis.hlines(scale * getattr(row, field), *span, "0.3", "--", label=ceiling if at == 0 else None)
            if field == "similarity" and not math.isnan(row.other_similarity):
                axis.hlines(
                    row.other_similarity, *span, "0.3", ":", label="other speakers" if at == 0 else None
                )
        axis.set(title=title, xticks=range(len(sources)), xticklabels=sources)
        axis.grid(axis="y", alpha=0.3)
        axis.margins(y=0.15)
        axis.legend(fontsize=7, loc="lower right" if field != "wer" else "upper left")
    return to_png(figure)


def scatter(report: SpeechReport) -> bytes:
    """A point a clip, a large one a voice's mean: word error rate against speaker similarity; a panel a source."""
    clips = [
        c for c in report.clips if c.kind is None and c.heard.n_words and not math.isnan(c.likeness.same)
    ]
    sources = list(dict.fromkeys(c.source for c in clips))
    figure, axes = new_figure(max(1, len(sources)), 4.6, 3.8)
    systems = list(dict.fromkeys(c.system for c in clips))
    for axis, source in zip(axes, sources, strict=False):
        for i, system in enumerate(systems):
            points = [c for c in clips if (c.source, c.system) == (source, system)]
            if not points:
                continue
            x = np.array([100 * c.heard.word_errors / c.heard.n_words for c in points])
            y = np.array([c.likeness.same for c in points])
            axis.scatter(x, y, 8, f"C{i}", alpha=0.35, linewidths=0)
            people = np.array([c.speaker for c in points])
            means = [(x[people == p].mean(), y[people == p].mean()) for p in dict.fromkeys(people)]
            axis.scatter(*zip(*means, strict=True), s=45, c=f"C{i}", edgecolors="w", label=system)
        axis.set(title=source, xlabel="WER of a clip, %", ylabel="speaker similarity")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return to_png(figure)


def mels(voices: Sequence[Panels], sample_rate: int) -> bytes:
    """A row a voice: prompt, recording and ours, in dB below the loudest point of each."""
    figure, axes = new_figure(3 * len(voices), 4.2, 2.4)
    for row, voice in enumerate(voices):
        panels = (("prompt", voice.prompt), ("recording", voice.truth), ("Myna", voice.ours))
        for axis, (name, wav) in zip(axes[3 * row :], panels, strict=False):
            if wav is None or not wav.any():
                axis.set_axis_off()
                continue
            draw_mel(axis, wav, sample_rate, f"{voice.title}: {name}")
    return to_png(figure)


def draw_mel(axis: Any, wav: np.ndarray, sample_rate: int, title: str) -> None:
    """The mel spectrogram of (N,), in dB below its loudest point."""
    level = mel_spectrogram(wav, sample_rate)
    top = float(level.max())
    axis.imshow(
        level,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=top - RANGE_DB,
        vmax=top,
        extent=(0, len(wav) / sample_rate, 0, N_MELS),
    )
    axis.set(title=title, xlabel="s", ylabel="mel band")


def mel_spectrogram(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """(N,) to dB (N_MELS, frames)."""
    bank = mel_filterbank(sample_rate, N_FFT, N_MELS).numpy()
    return 10 * np.log10(np.maximum(bank @ power_spectrum(wav, N_FFT), 1e-10))
