"""The multi-scale STFT discriminator of EnCodec (Défossez et al. 2022, section 3.4, figure 2).

One network a scale, over the complex spectrogram: 2-d convolutions dilated 1, 2, 4 in time and of stride 2 in
frequency, so that it sees long stretches of time and harmonic structure at once.

Shapes: B batch, C audio channels, N samples, T frames, F frequency bins.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .base import ComplexSpectrogram, Discriminator, Judgement, norm_conv2d


class STFTDiscriminator(nn.Module):
    """One scale: window n_fft, hop a quarter of it."""

    def __init__(self, n_fft: int, width: int, channels: int = 1, dilations: tuple[int, ...] = (1, 2, 4)):
        super().__init__()
        self.spectrogram = ComplexSpectrogram(n_fft, n_fft // 4, normalized=True)
        self.layers = nn.ModuleList([norm_conv2d(2 * channels, width, (3, 9))])
        self.layers.extend(
            norm_conv2d(width, width, (3, 9), stride=(1, 2), dilation=(d, 1)) for d in dilations
        )
        self.layers.append(norm_conv2d(width, width, (3, 3)))
        self.to_logits = norm_conv2d(width, 1, (3, 3))

    def forward(self, wav: Tensor) -> Judgement:
        x, features = self.spectrogram(wav), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return Judgement(self.to_logits(x), tuple(features))


class MultiScaleSTFTDiscriminator(Discriminator):
    """n_ffts: the windows of the scales (EnCodec: 2048 down to 128). width: channels of every layer (EnCodec:
    32).

    channels: of the audio.
    """

    def __init__(
        self,
        n_ffts: tuple[int, ...] = (2048, 1024, 512, 256, 128),
        width: int = 32,
        channels: int = 1,
    ):
        super().__init__()
        self.scales = nn.ModuleList(STFTDiscriminator(n_fft, width, channels) for n_fft in n_ffts)

    def forward(self, wav: Tensor) -> list[Judgement]:
        return [scale(wav) for scale in self.scales]
