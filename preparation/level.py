"""The loudness of a piece, and the gain that brings it to that of the corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.loudness import SILENCE, LoudnessMeter

PEAK = 0.891  # -1 dB of full scale: no gain goes beyond


@dataclass(frozen=True)
class Level:
    """loudness: LUFS as recorded.   gain_db: what brings it to the target, as far as its peak allows."""

    loudness: float
    gain_db: float


def measure(wav: np.ndarray, rate: int, target: float | None) -> Level:
    """wav (N,) at `rate` Hz. target: LUFS, or None for no gain."""
    meter = LoudnessMeter(rate, 1)
    meter.push(wav[None])
    loudness = round(meter.loudness, 2)
    if target is None or loudness <= SILENCE:
        return Level(loudness, 0.0)
    headroom = 20 * np.log10(PEAK / max(meter.peak, 1e-9))
    return Level(loudness, round(float(min(target - loudness, headroom)), 2))


def apply(wav: np.ndarray, gain_db: float) -> np.ndarray:
    """wav (N,) at the new level."""
    return wav * np.float32(10 ** (gain_db / 20))
