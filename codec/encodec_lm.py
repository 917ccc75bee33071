"""EnCodec's language model over codes (Défossez et al. 2022, section 3.3): a small transformer that predicts
all codebooks of a frame from the frames before, for the entropy coder of `.ecdc`.

Two programs can share an arithmetic-coded file only if their probabilities agree to the last bit, so the
order and the shapes of the operations here follow the published model: attention over the raw inputs of the
past, one zero vector before the first frame, projections made anew at every step.

Shapes: B batch, K codebooks, V codebook_size, T frames, E width, P past frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class EncodecLMConfig:
    """Dimensions; the defaults are those of the 24 kHz model."""

    name: str = "encodec-lm-24k"
    n_codebooks: int = 32
    codebook_size: int = 1024
    width: int = 200
    n_layers: int = 5
    n_heads: int = 8
    hidden: int = 800  # width of the feed-forward layers
    past_context: int = 262  # frames of attention: 3.5 s
    max_period: float = 10_000.0  # of the positional sines, frames


ENCODEC_LM_24K = EncodecLMConfig()
ENCODEC_LM_48K = EncodecLMConfig(name="encodec-lm-48k", n_codebooks=16, past_context=525)


@dataclass(frozen=True)
class LMState:
    """What the model remembers: the inputs of each layer, (B, P, E), and the index of the next frame."""

    layers: tuple[Tensor, ...]
    position: int


@dataclass(frozen=True)
class LMResult:
    """probabilities (B, V, K, T) of the codes of each frame, and the state after the last of them."""

    probabilities: Tensor
    state: LMState


class EncodecLM(nn.Module):
    """P(codes of frame t | codes of the frames before t)."""

    def __init__(self, config: EncodecLMConfig = ENCODEC_LM_24K):
        super().__init__()
        self.config = config
        self.transformer = CausalTransformer(config)
        self.emb = nn.ModuleList(
            [nn.Embedding(config.codebook_size + 1, config.width) for _ in range(config.n_codebooks)]
        )
        self.linears = nn.ModuleList(
            [nn.Linear(config.width, config.codebook_size) for _ in range(config.n_codebooks)]
        )

    def init_state(self, batch: int) -> LMState:
        """The state before the first frame."""
        zeros = self.linears[0].weight.new_zeros(batch, 1, self.config.width)  # pyright: ignore
        return LMState((zeros,) * self.config.n_layers, 0)

    def forward(self, previous: Tensor, state: LMState | None = None) -> LMResult:
        """previous (B, K, T), any K up to n_codebooks: 1 + the codes of the frame before each frame, 0 where
        there is none (the first frame)."""
        state = state or self.init_state(previous.shape[0])
        k = previous.shape[1]
        x = sum(embed(previous[:, i]) for i, embed in enumerate(list(self.emb)[:k]))
        y, after = self.transformer(x, state)
        logits = torch.stack([head(y) for head in list(self.linears)[:k]], dim=1).permute(0, 3, 1, 2)
        return LMResult(torch.softmax(logits, dim=1), after)


class CausalTransformer(nn.Module):
    """Post-norm transformer layers over sine positions, each frame attending `past_context` frames back."""

    def __init__(self, config: EncodecLMConfig):
        super().__init__()
        self.config = config
        self.norm_in = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList([TransformerLayer(config) for _ in range(config.n_layers)])

    def forward(self, x: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """x (B, T, E) -> (B, T, E) and the next state."""
        t = x.shape[1]
        x = self.norm_in(x) + self._positions(
            torch.arange(t, device=x.device).view(1, -1, 1) + state.position
        )
        pasts = []
        for layer, past in zip(self.layers, state.layers, strict=True):
            seen = torch.cat([past, x], dim=1)
            x = layer(x, seen)
            pasts.append(seen[:, -self.config.past_context :])
        return x, LMState(tuple(pasts), state.position + t)

    def _positions(self, frames: Tensor) -> Tensor:
        """cos and sin of each frame index at geometrically spaced periods: (1, T, 1) -> (1, T, E)."""
        half = self.config.width // 2
        exponent = torch.arange(half, device=frames.device).view(1, 1, -1) / (half - 1)
        phase = frames / (self.config.max_period**exponent)
        return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


class TransformerLayer(nn.Module):
    """Attention over `seen` (which ends with x itself), then a feed-forward layer, each followed by a
    norm."""

    def __init__(self, config: EncodecLMConfig):
        super().__init__()
        self.past_context = config.past_context
        self.self_attn = nn.MultiheadAttention(config.width, config.n_heads, batch_first=True)
        self.linear1, self.linear2 = (
            nn.Linear(config.width, config.hidden),
            nn.Linear(config.hidden, config.width),
        )
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        keys = torch.arange(seen.shape[1], device=x.device)
        age = keys[-x.shape[1] :, None] - keys
        hidden = (age < 0) | (age > self.past_context)
        x = self.norm1(x + self.self_attn(x, seen, seen, attn_mask=hidden, need_weights=False)[0])
        return self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
