"""The multi-resolution spectrogram discriminator of UnivNet (Jang et al. 2021, section 2.2), over log-magnitudes.

It hears no phases: a vocoder whose phases follow from its pitch is not blamed for them, and a crop of half a second is
cheap enough for a CPU.

Shapes: B batch, C audio channels, N samples, F frequency bins, T frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Discriminator, Judgement, norm_conv2d

_FLOOR = 1e-3  # of magnitudes: quieter is equal


class SpectrogramDiscriminator(nn.Module):
    """One resolution: window n_fft, hop a quarter of it."""

    window: Tensor

    def __init__(self, n_fft: int, width: int):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.layers = nn.ModuleList([norm_conv2d(1, width, (9, 3))])
        self.layers.extend(norm_conv2d(width, width, (9, 3), stride=(2, 1)) for _ in range(3))
        self.layers.append(norm_conv2d(width, width, (3, 3)))
        self.to_logits = norm_conv2d(width, 1, (3, 3))

    def forward(self, wav: Tensor) -> Judgement:
        with torch.autocast(wav.device.type, enabled=False):
            spectrum = torch.stft(
                wav.float().flatten(0, 1),
                self.n_fft,
                self.n_fft // 4,
                window=self.window,
                center=False,
                return_complex=True,
            )
            magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()
            x = magnitude.clamp(min=_FLOOR).log()[:, None] / 3
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return Judgement(self.to_logits(x), tuple(features))


class MultiResolutionDiscriminator(Discriminator):
    """n_ffts: the windows (UnivNet: 1024, 2048, 512).   width: channels of every layer (UnivNet: 32)."""

    def __init__(self, n_ffts: tuple[int, ...] = (512, 1024, 2048), width: int = 32):
        super().__init__()
        self.resolutions = nn.ModuleList(SpectrogramDiscriminator(n_fft, width) for n_fft in n_ffts)

    def forward(self, wav: Tensor) -> list[Judgement]:
        """wav (B, 1, N), N at least the largest window."""
        return [resolution(wav) for resolution in self.resolutions]
