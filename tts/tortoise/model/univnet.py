"""UnivNet: from a mel spectrogram to the waveform (Jang et al. 2021): noise is shaped by convolutions whose kernels are
predicted for every mel frame ("location-variable", Zeng et al. 2021).

Shapes: B batch, M mel bands, L mel frames, C channels, K kernel size, N samples. Weights are folded from their
published weight normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SLOPE = 0.2
_SILENCE, _TAIL = -11.5129, 10  # mel frames of silence that are decoded too and cut off, as published
_SIZE = 3  # of the convolutions with predicted kernels


@dataclass(frozen=True)
class UnivNetConfig:
    """Dimensions; the defaults are the published ones (`c32`)."""

    n_mels: int = 100
    noise_channels: int = 64
    channels: int = 32
    dilations: tuple[int, ...] = (1, 3, 9, 27)
    strides: tuple[int, ...] = (8, 8, 4)
    predictor_channels: int = 64

    @property
    def hop(self) -> int:
        """Samples a mel frame."""
        return prod(self.strides)


class KernelPredictor(nn.Module):
    """A mel to the kernels and the biases of a block, for every frame."""

    def __init__(self, config: UnivNetConfig):
        super().__init__()
        self.channels, self.n_layers = config.channels, len(config.dilations)
        hidden = config.predictor_channels
        self.input = nn.Conv1d(config.n_mels, hidden, 5, padding=2)
        self.residuals = nn.ModuleList(
            [nn.ModuleList([nn.Conv1d(hidden, hidden, 3, padding=1) for _ in range(2)]) for _ in range(3)]
        )
        n_biases = 2 * config.channels * self.n_layers
        self.kernels = nn.Conv1d(hidden, config.channels * _SIZE * n_biases, 3, padding=1)
        self.biases = nn.Conv1d(hidden, n_biases, 3, padding=1)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, L) -> kernels (B, layers, C, 2C, K, L) and biases (B, layers, 2C, L)."""
        h = F.leaky_relu(self.input(mel), _SLOPE)
        for residual in self.residuals:
            y = h
            for conv in cast("nn.ModuleList", residual):
                y = F.leaky_relu(conv(y), _SLOPE)
            h = h + y
        b, _, length = h.shape
        kernels = self.kernels(h).view(b, self.n_layers, self.channels, 2 * self.channels, _SIZE, length)
        return kernels, self.biases(h).view(b, self.n_layers, 2 * self.channels, length)


class ShapingBlock(nn.Module):
    """Upsampling, then dilated convolutions, each followed by one whose kernel changes from mel frame to mel frame."""

    def __init__(self, config: UnivNetConfig, stride: int, hop: int):
        super().__init__()
        channels, odd = config.channels, stride % 2
        self.hop = hop  # samples of this block's output a mel frame
        self.up = nn.ConvTranspose1d(
            channels, channels, 2 * stride, stride, padding=stride // 2 + odd, output_padding=odd
        )
        self.predictor = KernelPredictor(config)
        self.convs = nn.ModuleList(
            [nn.Conv1d(channels, channels, 3, padding=d, dilation=d) for d in config.dilations]
        )

    def forward(self, x: Tensor, mel: Tensor) -> Tensor:
        """x (B, C, n), mel (B, M, L) -> (B, C, n stride)."""
        kernels, biases = self.predictor(mel)
        x = self.up(F.leaky_relu(x, _SLOPE))
        for layer, conv in enumerate(self.convs):
            y = F.leaky_relu(conv(F.leaky_relu(x, _SLOPE)), _SLOPE)
            y = self.convolve(y, kernels[:, layer], biases[:, layer])
            gate, value = y.chunk(2, dim=1)
            x = x + torch.sigmoid(gate) * torch.tanh(value)
        return x

    def convolve(self, x: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
        """x (B, C, L hop) with kernels (B, C, 2C, K, L) and biases (B, 2C, L) -> (B, 2C, L hop)."""
        b, c, n = x.shape
        length = kernels.shape[-1]
        frames = F.pad(x, (1, 1)).unfold(2, self.hop + _SIZE - 1, self.hop)  # (B, C, L, hop + 2)
        taps = frames.unfold(3, _SIZE, 1)  # (B, C, L, hop, K)
        taps = taps.permute(0, 2, 3, 1, 4).reshape(b * length, self.hop, c * _SIZE)
        matrices = kernels.permute(0, 4, 1, 3, 2).reshape(b * length, c * _SIZE, -1)
        y = taps @ matrices + biases.permute(0, 2, 1).reshape(b * length, 1, -1)
        return y.view(b, length, self.hop, -1).permute(0, 3, 1, 2).reshape(b, -1, n)


class UnivNet(nn.Module):
    """The generator."""

    def __init__(self, config: UnivNetConfig | None = None):
        super().__init__()
        self.config = config = config or UnivNetConfig()
        self.input = nn.Conv1d(config.noise_channels, config.channels, 7, padding=3, padding_mode="reflect")
        hops = [prod(config.strides[: i + 1]) for i in range(len(config.strides))]
        self.blocks = nn.ModuleList(
            [ShapingBlock(config, stride, hop) for stride, hop in zip(config.strides, hops, strict=True)]
        )
        self.output = nn.Conv1d(config.channels, 1, 7, padding=3, padding_mode="reflect")

    def forward(self, mel: Tensor, noise: Tensor) -> Tensor:
        """mel (B, M, L) in natural logarithms, noise (B, noise channels, L) -> (B, 1, L hop)."""
        x = self.input(noise)
        for block in self.blocks:
            x = block(x, mel)
        return torch.tanh(self.output(F.leaky_relu(x, _SLOPE)))

    @torch.no_grad()
    def decode(self, mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """mel (1, M, L) -> samples (L hop,) within -1 to 1. Silence follows it on its way, so that the end is clean."""
        padded = F.pad(mel, (0, _TAIL), value=_SILENCE)
        shape = (1, self.config.noise_channels, padded.shape[-1])
        # Drawn on the CPU, so that a seed means the same everywhere.
        noise = torch.randn(shape, generator=generator).to(mel)
        return self(padded, noise)[0, 0, : mel.shape[-1] * self.config.hop].clamp(-1, 1)
