"""A voice of nobody: normal noise to a latent that sounds like one (TorToise's `random` voice; the layers are the
mapping network of StyleGAN 2, Karras et al. 2020). Shapes: B batch, C channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

_RATE = 0.1  # by which weights and biases were learned more slowly, and are multiplied


@dataclass(frozen=True)
class RandomLatentsConfig:
    """Dimensions: 1024 for the autoregressive network, 2048 for the diffusion."""

    channels: int = 1024
    depth: int = 5


class RandomLatents(nn.Module):
    """Noise to a latent."""

    def __init__(self, config: RandomLatentsConfig | None = None):
        super().__init__()
        self.config = config = config or RandomLatentsConfig()
        channels = config.channels
        self.layers = nn.ModuleList([nn.Linear(channels, channels) for _ in range(config.depth)])
        self.out = nn.Linear(channels, channels)

    def forward(self, noise: Tensor) -> Tensor:
        """(B, C) of unit variance -> (B, C)."""
        x = noise
        scale = _RATE / self.config.channels**0.5
        for layer in self.layers:
            x = F.linear(x, layer.weight * scale, layer.bias * _RATE)  # pyright: ignore
            x = F.leaky_relu(x, 0.2) * 2**0.5
        return self.out(x)
