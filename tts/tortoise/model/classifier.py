"""The classifier: whether a recording was made by TorToise (Betker 2022, `is_this_from_tortoise`).

Shapes: B batch, N samples at 24 kHz, C channels, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import AttentionBlock, group_norm

MAX_SAMPLES = 220_000  # that it was trained to hear at once


@dataclass(frozen=True)
class ClassifierConfig:
    """Dimensions; the defaults are the published ones."""

    channels: int = 32  # doubled by every level
    depth: int = 5
    n_residuals: int = 2  # a level
    stride: int = 4
    kernel: int = 5
    embedding: int = 512
    n_attention: int = 4
    n_heads: int = 4
    n_classes: int = 2


class _Residual(nn.Module):
    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1, self.conv2 = (
            nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Classifier(nn.Module):
    """The network."""

    def __init__(self, config: ClassifierConfig | None = None):
        super().__init__()
        self.config = config = config or ClassifierConfig()
        channels, kernel = config.channels, config.kernel
        self.input = nn.Conv1d(1, channels, 3, padding=1)
        levels: list[nn.Module] = []
        for _ in range(config.depth):
            levels += [_Residual(channels, kernel) for _ in range(config.n_residuals)]
            levels.append(nn.Conv1d(channels, 2 * channels, kernel, config.stride, padding=kernel // 2))
            channels *= 2
        self.levels = nn.Sequential(*levels)
        self.output = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv1d(channels, config.embedding, 1))
        self.attention = nn.Sequential(
            *[AttentionBlock(config.embedding, config.n_heads) for _ in range(config.n_attention)]
        )
        self.head = nn.Linear(config.embedding, config.n_classes)

    def forward(self, wav: Tensor) -> Tensor:
        """(B, 1, N), N at most MAX_SAMPLES -> logits (B, 2): made by TorToise, recorded."""
        x = self.attention(self.output(self.levels(self.input(wav))))
        return self.head(x[..., 0])

    @torch.no_grad()
    def probability(self, samples: Tensor) -> float:
        """Of samples (N,) at 24 kHz having been made by TorToise."""
        return float(self(samples[None, None, :MAX_SAMPLES]).softmax(-1)[0, 0])
