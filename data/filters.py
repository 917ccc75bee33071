"""Recursive filters of the second order (biquads), applied as one product of spectra.

The signal is padded by the time in which the filters' response fades to 1e-12 of itself, so that the product is the
recursion from rest to the precision of float64. scipy.signal has the recursion, and takes most of a second to import.

Shapes: N samples, time last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_FADED = 1e-12


@dataclass(frozen=True)
class Biquad:
    """(b[0] + b[1] / z + b[2] / z^2) / (a[0] + a[1] / z + a[2] / z^2), its poles within the unit circle."""

    b: tuple[float, float, float]
    a: tuple[float, float, float]


def filtered(x: np.ndarray, sections: Sequence[Biquad]) -> np.ndarray:
    """(..., N) -> (..., N) in float64, through all sections, one after the other, beginning at rest."""
    n = x.shape[-1]
    size = _fft_size(n + _fade(sections))
    return np.fft.irfft(np.fft.rfft(x, size) * _response(tuple(sections), size), size)[..., :n]


def butterworth_high_pass(frequency: float, sample_rate: int) -> tuple[Biquad, Biquad]:
    """Of the fourth order, 3 dB down at `frequency` in Hz: the bilinear transform of the analogue filter."""
    k = math.tan(math.pi * frequency / sample_rate)
    first, second = (_high_pass(k, 2 * math.cos(angle)) for angle in (math.pi / 8, 3 * math.pi / 8))
    return first, second


@lru_cache(maxsize=2)
def _response(sections: tuple[Biquad, ...], size: int) -> np.ndarray:
    """(size // 2 + 1,) of all sections together, at the frequencies of a transform of `size` samples."""
    unit = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)  # 1 / z on the unit circle
    response = np.ones(len(unit), np.complex128)
    for section in sections:
        response *= np.polyval(section.b[::-1], unit) / np.polyval(section.a[::-1], unit)
    return response


def _high_pass(k: float, damping: float) -> Biquad:
    """s^2 / (s^2 + damping s + 1) where s = (1 - 1 / z) / (1 + 1 / z) / k."""
    return Biquad((1.0, -2.0, 1.0), (1 + damping * k + k * k, 2 * (k * k - 1), 1 - damping * k + k * k))


def _fade(sections: Sequence[Biquad]) -> int:
    """Samples in which the slowest response fades; a double pole fades later than its radius says, by its factor n."""
    radius = max(float(np.abs(np.roots(section.a)).max()) for section in sections)
    return math.ceil(1.5 * math.log(_FADED) / math.log(radius)) if radius > 0 else 0


def _fft_size(n: int) -> int:
    """The next product of a power of two and 1, 3, 5, 9 or 15, for which transforms are fast."""
    return min(factor << max(1, math.ceil(math.log2(n / factor))) for factor in (1, 3, 5, 9, 15))
