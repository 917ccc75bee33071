"""Codes in place of lost ones: the last frames again, back and forth, fading out."""

from __future__ import annotations

import torch
from torch import Tensor

_MEMORY = 8  # frames that are played back and forth: long enough not to buzz, short enough to stay one sound
_HOLD, _FADE = 3, 9  # frames at full loudness, then down to silence (0.24 s in all at 50 frames a second)


class Concealer:
    """Remembers the latest frames and stands in for missing ones.

    Shapes: S streams, K codebooks, T frames.
    """

    def __init__(self, streams: int, n_codebooks: int):
        self._recent = torch.zeros(streams, n_codebooks, 0, dtype=torch.long)
        self._lost = 0  # frames since the last good one

    def good(self, codes: Tensor) -> None:
        """Note codes (S, K, T) that arrived whole."""
        self._recent = torch.cat([self._recent, codes[..., -_MEMORY:]], dim=-1)[..., -_MEMORY:]
        self._lost = 0

    def conceal(self, frames: int) -> tuple[Tensor, Tensor]:
        """Codes (S, K, frames) for the next lost frames, and the gain (frames,) to play each of them with.

        Before the first good frame there is nothing to repeat: code 0 throughout, at gain 0.
        """
        index = torch.arange(self._lost, self._lost + frames)
        self._lost += frames
        length = self._recent.shape[-1]
        if length == 0:
            return self._recent.new_zeros(*self._recent.shape[:2], frames), torch.zeros(frames)
        period = max(2 * (length - 1), 1)  # last frame, the ones before it, and forth again
        phase = (index + 1) % period
        back = torch.where(phase < length, phase, period - phase)
        gain = (1 - (index - _HOLD + 1).clamp(min=0) / _FADE).clamp(min=0)
        return self._recent[..., length - 1 - back], gain
