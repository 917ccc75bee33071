"""CLVP: how well codes of speech say a text (Betker 2023, section 4.2; after CLIP, Radford et al. 2021).

Two transformer encoders, of text and of codes, whose means are brought into one space; the score is the cosine times
a learned temperature. RMSNorm (Zhang and Sennrich 2019), rotary positions on half of each head, on the values too
(Su et al. 2021), GEGLU (Shazeer 2020). Shapes: B batch, T tokens, W width, H heads, D channels a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_DIM, ROTARY_DIM = 64, 32


@dataclass(frozen=True)
class CLVPConfig:
    """Dimensions; the defaults are the published ones."""

    width: int = 768  # of both encoders
    latent: int = 768
    depth: int = 20
    n_heads: int = 12
    n_text_tokens: int = 256
    n_codes: int = 8192


class _RMSNorm(nn.Module):
    """With the floor under the size that x-transformers had, not a sum inside the root."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return x / size.clamp(min=1e-8) * self.weight


class _Layer(nn.Module):
    """Attention, then the gated feed-forward layer, each on a normalised residual."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        inner = n_heads * HEAD_DIM
        self.n_heads = n_heads
        self.norm1, self.norm2 = _RMSNorm(width), _RMSNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, width)
        self.gate_up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        normed = self.norm1(x)
        q, k, v = (
            _turn(project(normed).view(b, t, self.n_heads, HEAD_DIM).transpose(1, 2), cos, sin)
            for project in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, -1))
        up, gate = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(up * F.gelu(gate))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the first half of the channels."""
    turned, rest = x[..., :ROTARY_DIM], x[..., ROTARY_DIM:]
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)


class Encoder(nn.Module):
    """Tokens (B, T) to unit vectors (B, L)."""

    def __init__(self, config: CLVPConfig, n_tokens: int):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, config.width)
        self.layers = nn.ModuleList([_Layer(config.width, config.n_heads) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.width)
        self.to_latent = nn.Linear(config.width, config.latent, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        angles = torch.arange(tokens.shape[1], device=x.device)[:, None] * _frequencies(x.device)
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.normalize(self.to_latent(self.norm(x).mean(1)), dim=-1)


def _frequencies(device: torch.device) -> Tensor:
    return 10_000 ** -(torch.arange(0, ROTARY_DIM, 2, device=device) / ROTARY_DIM)


class CLVP(nn.Module):
    """The two encoders."""

    def __init__(self, config: CLVPConfig | None = None):
        super().__init__()
        self.config = config = config or CLVPConfig()
        self.text, self.speech = Encoder(config, config.n_text_tokens), Encoder(config, config.n_codes)
        self.temperature = nn.Parameter(torch.tensor(1.0))  # its logarithm

    def forward(self, text: Tensor, codes: Tensor) -> Tensor:
        """text ids (1, T) or (B, T), codes (B, N) -> scores (B,), the higher the better."""
        return (self.text(text) * self.speech(codes)).sum(-1) * self.temperature.exp()
