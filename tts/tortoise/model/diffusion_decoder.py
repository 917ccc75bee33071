"""The diffusion decoder: from the latents of the autoregressive network, and the sound of the voice, to a mel
spectrogram (Betker 2023, section 4.3). What is predicted is the noise and, beside it, the share between the bounds of
its variance (Nichol and Dhariwal 2021); `diffusion` samples from it.

Shapes: B batch, S latents (21.5 Hz), T mel frames (93.75 Hz), M mel bands, C channels, F frames of a clip's mel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import AttentionBlock, TimedLayer, TimedResidual, group_norm

LATENT_RATE, MEL_RATE = 22_050, 24_000 * 4  # frames of one are this ratio of the other's


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """Dimensions; the defaults are the published ones."""

    channels: int = 1024
    depth: int = 10
    n_mels: int = 100
    latent: int = 1024  # channels of the autoregressive network
    n_heads: int = 16
    n_tokens: int = 8193  # of an input that only the first stage of training had


class TimeEmbedding(nn.Module):
    """Sinusoids of the training index (cosines first), and two layers."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, C)."""
        half = self.channels // 2
        steps = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * torch.exp(-math.log(10_000) / half * steps)
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.layers(sinusoids.to(self.layers[0].weight.dtype))  # pyright: ignore


class TokenInput(nn.Module):
    """What the first stage of training had: codes for latents, and a mel predicted on the way. In the checkpoint, and
    never run here."""

    def __init__(self, config: DiffusionDecoderConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.n_tokens, config.channels)
        blocks = [AttentionBlock(config.channels, config.n_heads, relative=True) for _ in range(3)]
        self.blocks = nn.Sequential(*blocks)
        self.mel_head = nn.Conv1d(config.channels, config.n_mels, 3, padding=1)


class DiffusionDecoder(nn.Module):
    """The network."""

    def __init__(self, config: DiffusionDecoderConfig | None = None):
        super().__init__()
        self.config = config = config or DiffusionDecoderConfig()
        channels, n_heads = config.channels, config.n_heads

        def attention(width: int, n: int) -> list[nn.Module]:
            return [AttentionBlock(width, n_heads, relative=True) for _ in range(n)]

        self.time = TimeEmbedding(channels)
        self.latent_conditioner = nn.Sequential(
            nn.Conv1d(config.latent, channels, 3, padding=1), *attention(channels, 4)
        )
        self.voice_encoder = nn.Sequential(
            nn.Conv1d(config.n_mels, channels, 3, 2, padding=1),
            nn.Conv1d(channels, 2 * channels, 3, 2, padding=1),
            *attention(2 * channels, 5),
        )
        self.condition_norm = group_norm(channels)
        self.unconditioned = nn.Parameter(torch.zeros(1, channels, 1))
        self.integrator = nn.ModuleList([TimedLayer(channels, n_heads) for _ in range(3)])
        self.input = nn.Conv1d(config.n_mels, channels, 3, padding=1)
        self.integrate = nn.Conv1d(2 * channels, channels, 1)
        self.layers = nn.ModuleList(
            [TimedLayer(channels, n_heads) for _ in range(config.depth)]
            + [TimedResidual(channels) for _ in range(3)]
        )
        self.out = nn.Sequential(
            group_norm(channels), nn.SiLU(), nn.Conv1d(channels, 2 * config.n_mels, 3, padding=1)
        )
        self.token_input = TokenInput(config)

    def voice(self, mels: list[Tensor]) -> Tensor:
        """Mels of clips, each (M, F) -> (1, 2C): the mean over the frames of all."""
        return torch.cat([self.voice_encoder(mel[None]) for mel in mels], dim=-1).mean(-1)

    def align(self, latents: Tensor, voice: Tensor) -> Tensor:
        """latents (B, S, latent), voice (B, 2C) -> the condition (B, C, T), as long as the mel will be."""
        x = self.condition_norm(self.latent_conditioner(latents.transpose(1, 2)))
        scale, shift = voice[..., None].to(x.dtype).chunk(2, dim=1)
        return F.interpolate(x * (1 + scale) + shift, size=n_mel_frames(latents.shape[1]), mode="nearest")

    def without(self, n_frames: int, batch: int = 1) -> Tensor:
        """The condition that says nothing, (B, C, T)."""
        return self.unconditioned.expand(batch, -1, n_frames)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Noisy mel x (B, M, T), training index t (B,), condition (B, C, T) -> (B, 2M, T): noise, then variance.

        A `diffusion.Model`.
        """
        time = self.time(t)
        for layer in self.integrator:
            condition = layer(condition, time)
        h = self.integrate(torch.cat([self.input(x.to(condition.dtype)), condition], dim=1))
        for layer in self.layers:
            h = layer(h, time)
        return self.out(h)


def n_mel_frames(n_latents: int) -> int:
    """Mel frames of so many latents."""
    return n_latents * MEL_RATE // LATENT_RATE
