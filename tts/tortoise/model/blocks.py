"""What TorToise's networks share: normalisation, attention over frames, and layers that know the diffusion's time.

Betker 2023, "Better speech synthesis through scaling", section 4; the attention's relative positions are T5's
(Raffel et al. 2020, section 2.1). Shapes: B batch, C channels, T frames, H heads, D channels a head.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_BUCKETS, MAX_DISTANCE = 32, 64  # of relative positions


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups by the published rule: fewer for few channels, halved until they divide them."""
    groups = 8 if channels <= 16 else 16 if channels <= 64 else 32
    while channels % groups:
        groups //= 2
    return nn.GroupNorm(groups, channels)


def bucket(distance: Tensor) -> Tensor:
    """The bucket of each distance (query - key): exact up to 7, then ever wider, and as many for what comes later."""
    half = N_BUCKETS // 2
    exact = half // 2
    size = distance.abs()
    share = torch.log(size.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact)
    wide = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(size < exact, size, wide) + half * (distance < 0)


@lru_cache(maxsize=8)
def _buckets(n_frames: int, device: torch.device) -> Tensor:
    """(2T - 1,): of the distances T - 1 to 1 - T, in the order in which `RelativeBias` lays them out."""
    return bucket(torch.arange(n_frames - 1, -n_frames, -1, device=device))


class RelativeBias(nn.Module):
    """A learned number a head for every bucket of distances."""

    def __init__(self, n_heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(N_BUCKETS, n_heads))

    def forward(self, n_frames: int) -> Tensor:
        """(H, T, T) for queries in **reversed** order. Row T - 1 - q, column k holds the bias of distance q - k, which
        depends on row + column alone: a view of 2T - 1 numbers, where the matrix of a long sentence would need 300 MB.
        """
        bias = self.weight[_buckets(n_frames, self.weight.device)].T.contiguous()
        return bias.as_strided((bias.shape[0], n_frames, n_frames), (bias.shape[1], 1, 1))


class AttentionBlock(nn.Module):
    """x + out(attention(norm(x))), every frame seeing every frame. The 3C channels are head by head [q | k | v]."""

    def __init__(self, channels: int, n_heads: int, relative: bool = False):
        super().__init__()
        if channels % n_heads:
            raise ValueError(f"{channels} channels do not divide into {n_heads} heads")
        self.n_heads = n_heads
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = nn.Conv1d(channels, channels, 1)
        self.relative = RelativeBias(n_heads) if relative else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        b, c, t = x.shape
        d = c // self.n_heads
        qkv = self.qkv(self.norm(x)).view(b, self.n_heads, 3, d, t)
        q, k, v = qkv.transpose(3, 4).unbind(2)
        if self.relative is None:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            bias = (self.relative(t) * d**0.5).to(q.dtype)
            y = F.scaled_dot_product_attention(q.flip(2), k, v, attn_mask=bias[None]).flip(2)
        return x + self.out(y.transpose(2, 3).reshape(b, c, t))


class TimedResidual(nn.Module):
    """A residual of convolutions whose second norm is scaled and shifted by the diffusion's time."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = group_norm(channels), nn.Conv1d(channels, channels, 1)
        self.time = nn.Linear(channels, 2 * channels)
        self.norm2, self.conv2 = group_norm(channels), nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (B, C, T), time (B, C) -> (B, C, T)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time(F.silu(time))[..., None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return x + self.conv2(F.silu(h))


class TimedLayer(nn.Module):
    """A timed residual, then attention with relative positions."""

    def __init__(self, channels: int, n_heads: int):
        super().__init__()
        self.residual = TimedResidual(channels)
        self.attention = AttentionBlock(channels, n_heads, relative=True)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.attention(self.residual(x, time))
