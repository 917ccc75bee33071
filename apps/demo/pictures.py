"""Waveform and mel spectrogram of a recording, one above the other over the same seconds.

Shapes: N samples, F mel bands, T frames.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

WINDOW, HOP, BANDS = 1024, 256, 80  # at 24 kHz: 43 ms, 11 ms
RANGE_DB = 80.0  # below the loudest point, all is black
INK, WAVE = "#8a8f98", "#d99a00"  # readable on light and on dark: the picture has no background
LONGEST = 60.0  # seconds drawn: a picture 900 points wide shows no more


def mel_spectrogram(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """wav (N,) to power in dB (F, T), F mel bands up to half the sample rate."""
    padded = np.pad(np.asarray(wav, np.float32), (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=1)) ** 2
    return 10 * np.log10(np.maximum(power @ _mel_bank(sample_rate), 1e-10)).T


def draw(wav: np.ndarray, sample_rate: int, title: str) -> Image:
    """A picture of wav (N,), its first minute; the background is transparent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    cut = len(wav) > LONGEST * sample_rate
    wav = wav[: int(LONGEST * sample_rate)]
    seconds = max(len(wav), 1) / sample_rate
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    wave, mel = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    low, high = _envelope(wav)
    times = (np.arange(len(low)) + 0.5) * seconds / len(low)
    wave.fill_between(times, low, high, color=WAVE, linewidth=0)
    top = max(0.05, 1.05 * float(np.abs(wav).max(initial=0)))
    wave.set(ylim=(-top, top), yticks=[])
    wave.set_title(title + (" (the first minute)" if cut else ""), color=INK, fontsize=10, loc="left")
    power = mel_spectrogram(wav, sample_rate)
    loudest = float(power.max())
    mel.imshow(
        power,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=loudest - RANGE_DB,
        vmax=loudest,
        extent=(0, seconds, 0, BANDS),
    )
    hertz = [f for f in (500, 1000, 2000, 4000, 8000) if f < sample_rate / 2]
    places = [float(_mel(f) / _mel(sample_rate / 2)) * BANDS for f in hertz]
    mel.set_yticks(places, [f"{f / 1000:g} kHz" for f in hertz])
    mel.set(xlim=(0, seconds), xlabel="seconds")
    for axis in (wave, mel):
        axis.patch.set_alpha(0)
        axis.tick_params(colors=INK, labelsize=8)
        axis.xaxis.label.set(color=INK, fontsize=8)
        for spine in axis.spines.values():
            spine.set_visible(False)
    wave.tick_params(length=0)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, transparent=True)
    file.seek(0)
    image = Image.open(file)
    image.load()
    return image


def _envelope(wav: np.ndarray, columns: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest sample of each column."""
    n = max(1, min(columns, len(wav)))
    parts = np.array_split(wav if len(wav) else np.zeros(1, np.float32), n)
    return np.array([p.min() for p in parts]), np.array([p.max() for p in parts])


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


@lru_cache(maxsize=8)
def _mel_bank(sample_rate: int) -> np.ndarray:
    """(WINDOW / 2 + 1, F) triangles, evenly spaced in mel, each of area one so that noise is even.

    Triangles narrower than a bin, at the low end, are widened to one: no band is empty.
    """
    edges = 700 * (10 ** (np.linspace(0, _mel(sample_rate / 2), BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(WINDOW, 1 / sample_rate)[:, None]
    step = sample_rate / WINDOW
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    left, right = np.minimum(left, centre - step), np.maximum(right, centre + step)
    bank = np.maximum(0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    return (bank / bank.sum(axis=0)).astype(np.float32)
