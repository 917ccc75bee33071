"""HiFi-GAN while its latents arrive: the same samples as at once, as soon as nothing that follows can change them.

(The published streaming decodes all latents again for every chunk and fades from one result to the other.)
Shapes: S latents, W channels, T frames of the generator, n samples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .hifigan import HiFiGAN, stretch

_EDGE = 6  # frames at the end that the interpolation may still move: two latents' half


class HiFiGANStream:
    """voice (1, W)."""

    def __init__(self, model: HiFiGAN, voice: Tensor):
        self.model, self.voice = model, voice
        self.reach = reach(model)
        self._latents: list[Tensor] = []
        self._done = 0  # frames whose samples are out

    def push(self, latents: Tensor) -> np.ndarray:
        """Further latents (S, W) -> the samples (n,) that are certain now."""
        self._latents.append(latents)
        return self._decode(final=False)

    def flush(self) -> np.ndarray:
        """What is still owed."""
        return self._decode(final=True)

    @torch.no_grad()
    def _decode(self, final: bool) -> np.ndarray:
        if not self._latents:
            return np.zeros(0, np.float32)
        # Interpolating is cheap, and its places count from the beginning.
        self._latents = [torch.cat(self._latents)]
        frames = stretch(self._latents[0].T[None])
        n = frames.shape[-1]
        end = n if final else n - self.reach - _EDGE
        if end <= self._done:
            return np.zeros(0, np.float32)
        first = max(0, self._done - self.reach)
        last = min(n, end + self.reach)
        hop = self.model.config.hop
        wav = self.model(frames[..., first:last], self.voice)[0, 0]
        wav = wav[(self._done - first) * hop : (end - first) * hop]
        self._done = end
        return wav.float().cpu().numpy()


def reach(model: HiFiGAN) -> int:
    """Frames on either side that a sample depends on."""
    config = model.config
    frames, rate = 3.0, 1
    for factor, kernel in zip(config.factors, config.kernels, strict=True):
        frames += kernel / factor / rate
        rate *= factor
        widest = max(config.residual_kernels)
        # Of one residual block: its dilated convolutions and the plain ones behind them.
        frames += sum((widest - 1) // 2 * (d + 1) for d in config.dilations) / rate
    return int(frames + 3 / rate) + 1
