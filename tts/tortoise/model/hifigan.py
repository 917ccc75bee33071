"""HiFi-GAN on the latents themselves: TorToise's fast path, without diffusion (Kong et al. 2020, with the voice added
after the first convolution).

Shapes: B batch, W channels of a latent, S latents, N samples at 24 kHz. Weights are folded from their published weight
normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SLOPE, _LAST_SLOPE = 0.1, 0.01  # the last is torch's default, in HiFi-GAN as published too
_REPEAT, _RATE_IN, _RATE_OUT = 4, 22_050, 24_000  # latents to frames of the generator


@dataclass(frozen=True)
class HiFiGANConfig:
    """Dimensions; the defaults are the published ones."""

    latent: int = 1024
    voice: int = 1024
    channels: int = 512  # halved by every upsampling
    factors: tuple[int, ...] = (8, 8, 2, 2)
    kernels: tuple[int, ...] = (16, 16, 4, 4)  # of the upsamplings
    residual_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)

    @property
    def hop(self) -> int:
        """Samples a frame of the generator."""
        return prod(self.factors)


class ResidualBlock(nn.Module):
    """Dilated convolutions, each followed by a plain one."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]):
        super().__init__()
        self.dilated = nn.ModuleList(
            [
                nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) * d // 2, dilation=d)
                for d in dilations
            ]
        )
        self.plain = nn.ModuleList(
            [nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in dilations]
        )

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, _SLOPE)), _SLOPE))
        return x


class HiFiGAN(nn.Module):
    """The generator."""

    def __init__(self, config: HiFiGANConfig | None = None):
        super().__init__()
        self.config = config = config or HiFiGANConfig()
        channels = config.channels
        self.input = nn.Conv1d(config.latent, channels, 7, padding=3)
        self.voice = nn.Conv1d(config.voice, channels, 1)
        ups, residuals = [], []
        for factor, kernel in zip(config.factors, config.kernels, strict=True):
            ups.append(
                nn.ConvTranspose1d(channels, channels // 2, kernel, factor, padding=(kernel - factor) // 2)
            )
            channels //= 2
            blocks = [ResidualBlock(channels, size, config.dilations) for size in config.residual_kernels]
            residuals.append(nn.ModuleList(blocks))
        self.ups, self.residuals = nn.ModuleList(ups), nn.ModuleList(residuals)
        self.output = nn.Conv1d(channels, 1, 7, padding=3)

    def forward(self, frames: Tensor, voice: Tensor) -> Tensor:
        """frames (B, W, T) of `stretch`, voice (B, W) -> (B, 1, T hop)."""
        x = self.input(frames) + self.voice(voice[..., None])
        for up, blocks in zip(self.ups, self.residuals, strict=True):
            x = up(F.leaky_relu(x, _SLOPE))
            blocks = cast("nn.ModuleList", blocks)
            x = sum((block(x) for block in blocks), torch.zeros_like(x)) / len(blocks)
        return torch.tanh(self.output(F.leaky_relu(x, _LAST_SLOPE)))

    @torch.no_grad()
    def decode(self, latents: Tensor, voice: Tensor) -> Tensor:
        """latents (1, S, W), voice (1, W) -> samples (N,)."""
        return self(stretch(latents.transpose(1, 2)), voice)[0, 0]


def stretch(latents: Tensor) -> Tensor:
    """(B, W, S) -> (B, W, T): four frames a latent, then from 22.05 to 24 kHz, both by straight lines."""
    frames = F.interpolate(latents, scale_factor=float(_REPEAT), mode="linear")
    return F.interpolate(frames, scale_factor=_RATE_OUT / _RATE_IN, mode="linear")
