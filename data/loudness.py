"""Loudness of speech and programmes in LUFS (ITU-R BS.1770-4), measured in a stream.

Shapes: C channels, n samples.
"""

from __future__ import annotations

import math

import numpy as np

from .filters import Biquad, filtered

SILENCE = -70.0  # LUFS: the absolute gate, and what silence is said to measure
_CONTEXT = 1.0  # seconds of the past that the filters are given anew: they forget within a tenth of it


class LoudnessMeter:
    """Feed blocks (C, n) in order, then ask for `loudness`. `peak` is the largest magnitude so far."""

    def __init__(self, sample_rate: int, channels: int):
        self.rate, self.step = sample_rate, max(1, round(sample_rate / 10))  # a step is a quarter of a block
        self.gains = np.array([1.41 if c in (3, 4) else 1.0 for c in range(channels)])[:, None]
        self.peak = 0.0
        self.n_samples = 0
        self._past = np.zeros((channels, 0), np.float32)
        self._rest = np.zeros((channels, 0), np.float32)
        self._energies: list[np.ndarray] = []  # of each step, channels weighted and summed

    def push(self, block: np.ndarray) -> None:
        if not block.shape[1]:
            return
        self.n_samples += block.shape[1]
        self.peak = max(self.peak, float(np.abs(block).max()))
        heard = np.concatenate([self._past, block], axis=1)
        weighted = k_weighting(heard, self.rate)[:, self._past.shape[1] :]
        self._past = heard[:, -round(_CONTEXT * self.rate) :]
        waiting = np.concatenate([self._rest, weighted], axis=1)
        whole = waiting.shape[1] // self.step * self.step
        self._rest = waiting[:, whole:]
        steps = np.square(waiting[:, :whole], dtype=np.float64).reshape(len(waiting), -1, self.step)
        self._energies.append((steps.sum(axis=2) * self.gains).sum(axis=0))

    @property
    def loudness(self) -> float:
        """Integrated loudness in LUFS with both gates; shorter than 0.4 s counts as filled up with
        silence."""
        energies = np.concatenate(self._energies) if self._energies else np.zeros(0)
        if len(energies) < 4:
            rest = (np.square(self._rest, dtype=np.float64).sum(axis=1) * self.gains[:, 0]).sum()
            energies = np.array([energies.sum() + rest, 0, 0, 0])
        blocks = np.convolve(energies, np.ones(4), mode="valid") / (4 * self.step)
        blocks = blocks[_lufs(blocks) > SILENCE]
        if len(blocks):
            blocks = blocks[_lufs(blocks) > _lufs(blocks.mean()) - 10]
        return max(SILENCE, float(_lufs(blocks.mean()))) if len(blocks) else SILENCE


def k_weighting(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """(C, n) through the two filters of BS.1770: a shelf for the head, a high-pass for low frequencies.

    The standard gives coefficients at 48 kHz; these are the analogue filters behind them, at any rate.
    """
    sections = []
    shelf, high_pass = (1681.9744509, 0.7071752370, 3.9998438540), (38.1354708, 0.5003270374, None)
    for frequency, q, gain_db in (shelf, high_pass):
        k = math.tan(math.pi * min(frequency, 0.49 * sample_rate) / sample_rate)
        a0 = 1 + k / q + k * k
        a = (1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0)
        if gain_db is None:
            b = (1.0, -2.0, 1.0)
        else:
            high = 10 ** (gain_db / 20)
            band = high**0.4996667741545416
            b = (
                (high + band * k / q + k * k) / a0,
                2 * (k * k - high) / a0,
                (high - band * k / q + k * k) / a0,
            )
        sections.append(Biquad(b, a))
    return filtered(x, sections).astype(np.float32)


def _lufs(mean_square: np.ndarray | float) -> np.ndarray:
    return -0.691 + 10 * np.log10(np.maximum(mean_square, 1e-12))
