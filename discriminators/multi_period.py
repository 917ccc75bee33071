"""The multi-period discriminator of HiFi-GAN (Kong et al. 2020, section 2.3), as DAC uses it.

Each sub-discriminator folds the waveform into rows of `period` samples and convolves down the columns only:
it sees samples that lie one period apart, and with coprime periods no two of them see the same ones.

Shapes: B batch, C audio channels, N samples, P period.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Discriminator, Judgement, norm_conv2d


class PeriodDiscriminator(nn.Module):
    """One period. width: channels of the first layer; the next ones have 4, 16, 32 and 32 times as many."""

    def __init__(self, period: int, width: int, channels: int = 1):
        super().__init__()
        self.period = period
        widths = [channels, width, 4 * width, 16 * width, 32 * width, 32 * width]
        strides = [3, 3, 3, 3, 1]
        self.layers = nn.ModuleList(
            norm_conv2d(i, o, (5, 1), stride=(s, 1))
            for i, o, s in zip(widths, widths[1:], strides, strict=False)
        )
        self.to_logits = norm_conv2d(widths[-1], 1, (3, 1))

    def forward(self, wav: Tensor) -> Judgement:
        x, features = self._fold(wav), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return Judgement(self.to_logits(x), tuple(features))

    def _fold(self, wav: Tensor) -> Tensor:
        """wav (B, C, N) to (B, C, ceil(N / P), P), the last row completed by reflection."""
        missing = -wav.shape[-1] % self.period
        if missing:
            wav = F.pad(wav, (0, missing), mode="reflect")
        return wav.unflatten(-1, (-1, self.period))


class MultiPeriodDiscriminator(Discriminator):
    """periods: in samples. width: of the first layer of each (HiFi-GAN and DAC: 32, 41 M parameters in
    all)."""

    def __init__(self, periods: tuple[int, ...] = (2, 3, 5, 7, 11), width: int = 32, channels: int = 1):
        super().__init__()
        self.periods = nn.ModuleList(PeriodDiscriminator(period, width, channels) for period in periods)

    def forward(self, wav: Tensor) -> list[Judgement]:
        return [period(wav) for period in self.periods]
