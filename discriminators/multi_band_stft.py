"""The multi-band, multi-resolution complex STFT discriminator of DAC (Kumar et al. 2023, section 3.4).

The spectrogram is cut into bands, each with convolutions of its own, so that the high bands are judged as
closely as the loud low ones; the last layer sees them side by side again.

Shapes: B batch, C audio channels, N samples, T frames, F frequency bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import ComplexSpectrogram, Discriminator, Judgement, norm_conv2d


class BandSTFTDiscriminator(nn.Module):
    """One resolution: window n_fft, hop a quarter of it. band_edges: from 0 to 1, in parts of the
    bandwidth."""

    def __init__(self, n_fft: int, width: int, band_edges: tuple[float, ...], channels: int = 1):
        super().__init__()
        self.spectrogram = ComplexSpectrogram(n_fft, n_fft // 4, normalized=False)
        n_bins = n_fft // 2 + 1
        self.edges = [int(edge * n_bins) for edge in band_edges]
        self.bands = nn.ModuleList(
            nn.ModuleList(
                [
                    norm_conv2d(2 * channels, width, (3, 9)),
                    *(norm_conv2d(width, width, (3, 9), stride=(1, 2)) for _ in range(3)),
                    norm_conv2d(width, width, (3, 3)),
                ]
            )
            for _ in self.edges[1:]
        )
        self.to_logits = norm_conv2d(width, 1, (3, 3))

    def forward(self, wav: Tensor) -> Judgement:
        spectrum, features, ends = self.spectrogram(wav), [], []
        for low, high, layers in zip(self.edges, self.edges[1:], self.bands, strict=False):
            x = spectrum[..., low:high]
            for layer in layers:  # pyright: ignore[reportGeneralTypeIssues]  (a ModuleList is iterable)
                x = F.leaky_relu(layer(x), 0.1)
                features.append(x)
            ends.append(x)
        return Judgement(self.to_logits(torch.cat(ends, dim=-1)), tuple(features))


class MultiBandSTFTDiscriminator(Discriminator):
    """n_ffts: the windows (DAC: 2048, 1024, 512). width: channels of every layer (DAC: 32)."""

    def __init__(
        self,
        n_ffts: tuple[int, ...] = (2048, 1024, 512),
        width: int = 32,
        band_edges: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        channels: int = 1,
    ):
        super().__init__()
        self.resolutions = nn.ModuleList(
            BandSTFTDiscriminator(n_fft, width, band_edges, channels) for n_fft in n_ffts
        )

    def forward(self, wav: Tensor) -> list[Judgement]:
        return [resolution(wav) for resolution in self.resolutions]
