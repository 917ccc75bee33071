"""The two pictures of a report, as PNG bytes: rate against quality, and spectrograms side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..measures.metrics import METRICS
from .tables import CodecReport

CURVES = ("pesq", "stoi", "mel")
RANGE_DB = 80.0  # below the loudest point, all is black


def rate_quality(report: CodecReport) -> bytes:
    """A panel a measure: quality over the kbps of the real files, a line a system; the ceiling dotted."""
    figure, axes = new_figure(max(1, len(_curves(report))), 4.6, 3.8)
    systems = list(dict.fromkeys(row.system for row in report.rows if row.system != "uncompressed"))
    for axis, name in zip(axes, _curves(report), strict=False):
        for system in systems:
            points = sorted((r.bitrate / 1000, r.scores[name]) for r in report.rows if r.system == system)
            style = {"color": "0.5", "linestyle": "--"} if system == "opus" else {}
            axis.plot(*zip(*points, strict=True), marker="o", label=system, **style)
        for row in report.rows:
            if row.system == "uncompressed" and METRICS[name].higher_is_better:
                axis.axhline(row.scores[name], color="0.8", linestyle=":")
        axis.set(xlabel="kbps in the file", ylabel=METRICS[name].title, title=METRICS[name].title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    return to_png(figure)


def spectrograms(panels: Sequence[tuple[str, np.ndarray]], sample_rate: int) -> bytes:
    """A panel a waveform (N,): time against frequency in dB below the loudest point of the first."""
    figure, axes = new_figure(len(panels), 5.0, 3.0, columns=2)
    spectra = [power_spectrum(wav) for _, wav in panels]
    top = 10 * np.log10(max(float(spectra[0].max()), 1e-10))
    for axis, (title, wav), power in zip(axes, panels, spectra, strict=False):
        axis.imshow(
            10 * np.log10(np.maximum(power, 1e-12)),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=top - RANGE_DB,
            vmax=top,
            extent=(0, len(wav) / sample_rate, 0, sample_rate / 2000),
        )
        axis.set(title=title, xlabel="s", ylabel="kHz")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return to_png(figure)


def _curves(report: CodecReport) -> list[str]:
    return [name for name in CURVES if name in report.metrics]


def power_spectrum(wav: np.ndarray, window: int = 1024, hop: int = 256) -> np.ndarray:
    """(N,) to (window / 2 + 1, frames)."""
    padded = np.pad(wav, (window // 2, window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(window), axis=1).T) ** 2


def new_figure(n: int, width: float, height: float, columns: int = 3) -> tuple[Any, list[Any]]:
    """A figure that opens no window, and its axes in reading order, at least n."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(n, columns)
    rows = -(-n // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def to_png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
