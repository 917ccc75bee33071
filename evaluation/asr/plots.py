"""The pictures of an evaluation of recognisers, as PNG bytes: bars, errors against speed, agreement."""

from __future__ import annotations

import math

import numpy as np

from ..codec.plots import new_figure, to_png
from .tables import AsrReport

_BARS = (
    ("WER, %", "wer", 100.0),
    ("CER, %", "cer", 100.0),
    ("real-time factor", "real_time_factor", 1.0),
    ("peak memory, MB", "peak_memory", 1e-6),
)


def bars(report: AsrReport) -> bytes:
    """A panel a measure, a bar a system, a colour a source; whiskers: 95 % of resamples of the clips."""
    shown = [bar for bar in _BARS if any(not math.isnan(getattr(row, bar[1])) for row in report.rows)]
    labels, sources = list(report.agreement), list(dict.fromkeys(row.source for row in report.rows))
    figure, axes = new_figure(len(shown), 5.2, 1.2 + 0.34 * len(labels) * max(1, len(sources)), columns=2)
    height = 0.8 / len(sources)
    for axis, (title, field, scale) in zip(axes, shown, strict=False):
        for i, source in enumerate(sources):
            rows = [row for row in report.rows if row.source == source]
            places = [labels.index(row.label) + (i - (len(sources) - 1) / 2) * height for row in rows]
            lengths = np.array([scale * getattr(row, field) for row in rows])
            spread = None
            if field == "wer":
                low, high = (np.array([scale * getattr(r, f) for r in rows]) for f in ("wer_low", "wer_high"))
                spread = np.maximum(0, [lengths - low, high - lengths])
            drawn = axis.barh(places, lengths, height, xerr=spread, label=source, error_kw={"lw": 0.8})
            axis.bar_label(drawn, [_short(v) for v in lengths], fontsize=7, padding=2)
        axis.set(title=title, yticks=range(len(labels)), yticklabels=labels)
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
        axis.margins(x=0.15)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize=7)
    return to_png(figure)


def speed(report: AsrReport) -> bytes:
    """A panel a source, a point a system: word error rate against how many times faster than real time."""
    sources = list(dict.fromkeys(row.source for row in report.rows))
    figure, axes = new_figure(len(sources), 5.6, 4.0)
    systems = list(dict.fromkeys(row.system for row in report.rows))
    for axis, source in zip(axes, sources, strict=False):
        for row in report.rows:
            if row.source != source:
                continue
            x, y = 1 / max(row.real_time_factor, 1e-9), 100 * row.wer
            marker, colour = ("o" if row.beam_size == 1 else "s"), f"C{systems.index(row.system)}"
            axis.plot(x, y, marker, color=colour, label=row.label)
        axis.set(title=source, xlabel="times real time", ylabel="WER, %")
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.margins(0.15)
    axes[len(sources) - 1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return to_png(figure)


def agreement(report: AsrReport) -> bytes:
    """Share of the clips with equal text, each system against each."""
    labels = list(report.agreement)
    shares = np.array([[100 * share for share in shares.values()] for shares in report.agreement.values()])
    size = 2.4 + 0.5 * len(labels)
    figure, axes = new_figure(1, size + 0.8, size)
    axes[0].imshow(shares, vmin=0, vmax=100, cmap="viridis")
    axes[0].set(title="clips with equal text, %", xticks=range(len(labels)), yticks=range(len(labels)))
    axes[0].set_xticklabels(labels, rotation=40, ha="right")
    axes[0].set_yticklabels(labels)
    for (i, j), share in np.ndenumerate(shares):
        axes[0].text(
            j, i, f"{share:.0f}", ha="center", va="center", color="w" if share < 60 else "k", fontsize=8
        )
    return to_png(figure)


def _short(value: float) -> str:
    """Three digits, of large numbers all."""
    return "" if math.isnan(value) else f"{value:.0f}" if value >= 100 else f"{value:.3g}"
