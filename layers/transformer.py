"""A pre-norm transformer that streams: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    x = x + attention(norm(x));  x = x + feed_forward(norm(x))

RMSNorm: Zhang and Sennrich 2019, eq. 4. SwiGLU: Shazeer 2020, eq. 6. Adaptive norm, the scale and the shift read
from a condition (VALL-E's AdaLN, Wang et al. 2023, section 4.2.2, with the RMS norm). Shapes: B batch, W width,
T frames, C channels of the condition, S slots of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, Rotary, look_flat
from .streaming import State, Streamable


@dataclass(frozen=True)
class TransformerConfig:
    """Dimensions."""

    width: int = 320
    depth: int = 6
    n_heads: int = 4
    n_kv_heads: int = 2  # groups of heads that share keys and values; n_heads: no sharing
    hidden: int = 640  # width of the feed-forward layers
    context: int = 2048  # frames that a frame can look back, itself included: the slots of the cache
    rope_base: float = 10_000.0
    condition: int = 0  # channels of the condition that the norms adapt to, 0: none
    dropout: float = 0.0


class RMSNorm(nn.Module):
    """x over its root mean square, times a learned gain; with a condition, gain and shift depend on it too."""

    def __init__(self, width: int, condition: int = 0, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.adapt = nn.Linear(condition, 2 * width) if condition else None
        if self.adapt is not None:  # starts as the plain norm
            nn.init.zeros_(self.adapt.weight)
            nn.init.zeros_(self.adapt.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, T, W), condition (B, C) -> (B, T, W)."""
        x = F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        if self.adapt is not None and condition is not None:
            gain, shift = self.adapt(condition)[:, None].chunk(2, dim=-1)
            x = x * (1 + gain) + shift
        return x


class SwiGLU(nn.Module):
    """out(silu(gate x) * up x)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and a feed-forward layer, each on a normalised residual."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.norm1 = RMSNorm(config.width, config.condition)
        self.attention = Attention(config.width, config.n_heads, config.n_kv_heads)
        self.norm2 = RMSNorm(config.width, config.condition)
        self.feed_forward = SwiGLU(config.width, config.hidden)
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, condition: Tensor | None
    ) -> Tensor:
        x = x + self._drop(self.attention(self.norm1(x, condition), turn, mask))
        return x + self._drop(self.feed_forward(self.norm2(x, condition)))

    def step(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        cache: tuple[Tensor, Tensor],
        slot: Tensor,
        mask: Tensor,
        with_past: bool,
        condition: Tensor | None,
    ) -> Tensor:
        x = x + self.attention.step(self.norm1(x, condition), turn, cache, slot, mask, with_past)
        return x + self.feed_forward(self.norm2(x, condition))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Transformer(Streamable):
    """Blocks and a last norm, causal unless told otherwise. In and out: (B, W, T), time last as everywhere; a caller
    whose tensor is (B, T, W) passes its transposed view, and nothing is copied.

    State: (position, caches). position (B,) counts the frames that each row has seen; caches holds the keys and
    the values of every block, (B, G, S, D) with S = config.context, so all shapes stay as they are from step to
    step, and rows of a batch may be at different positions.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.in_channels = config.width
        self.rotary = Rotary(config.width // config.n_heads, config.rope_base)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = RMSNorm(config.width, config.condition)
        with torch.no_grad():  # the residual sum of all blocks keeps the scale of one (GPT-2's start)
            for block in self._blocks:
                for out in (block.attention.out, block.feed_forward.out):
                    out.weight.normal_(0, 0.02 / (2 * config.depth) ** 0.5)
                for into in (block.attention.qkv, block.feed_forward.gate_up):
                    into.weight.normal_(0, config.width**-0.5)

    def forward(self, x: Tensor, blocks: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """x (B, W, T) -> (B, W, T).

        blocks: (B, T) integers; frame t sees every frame whose block is not after its own. None: causal, each frame
        its own block. All 0: everything sees everything; padding gets a block that nobody reaches, such as 1.
        condition: (B, C), for adaptive norms.
        """
        x = x.transpose(1, 2)
        t = x.shape[1]
        positions = torch.arange(t, device=x.device)[None]
        # Autocast computes the projections in its own dtype, whatever x is.
        dtype = (
            torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        )
        turn = self.rotary(positions, dtype)
        mask = None
        if blocks is not None:
            mask = _additive(blocks[:, None, :, None] >= blocks[:, None, None, :], dtype)
        elif t > self.config.context:
            age = positions.mT - positions
            mask = _additive(((age >= 0) & (age < self.config.context))[None, None], dtype)
        for block in self._blocks:
            x = block(x, turn, mask, condition)
        return self.norm(x, condition).transpose(1, 2)

    def init_state(self, batch: int, like: Tensor) -> State:
        caches = tuple(block.attention.init_cache(batch, self.config.context, like) for block in self._blocks)
        return torch.zeros(batch, dtype=torch.long, device=like.device), caches

    def step(
        self,
        x: Tensor,
        state: State,
        final: bool = False,
        *,
        full: bool = False,
        condition: Tensor | None = None,
        lengths: Tensor | None = None,
        reach: int | None = None,
    ) -> tuple[Tensor, State]:
        """x (B, W, T) -> (B, W, T) and the next state; the caches are written in place.

        full: every frame of x sees all of x (a block of block-causal attention) and the past; T at most the
        context.   lengths: (B,) how many of the T frames each row has, the others after them being padding (causal
        only, and only while position + T is within the context).   reach: an upper bound of every row's position
        after this step, which spares reading slots that are empty.   condition: as in `forward`.
        """
        x = x.transpose(1, 2)
        t = x.shape[1]
        position, caches = state
        if t == 0:
            return x.transpose(1, 2), state
        slots = self.config.context
        bound = slots if reach is None else min(reach, slots)
        if full and t > slots:
            raise ValueError(f"a block of {t} frames does not fit in the context of {slots}")
        at = position[:, None] + torch.arange(t, device=x.device)  # (B, T)
        following = position + (t if lengths is None else lengths)
        with_past = t > 1 and not full
        read = bound - t if with_past and bound < slots else bound
        if with_past:
            ring = torch.arange(read, device=x.device)
            # The slot s holds the frame of the greatest position below `position` that is s modulo S.
            last = position[:, None] - 1
            held = last - (last - ring) % slots  # (B, S); negative: empty
            seen = torch.cat([held, at], dim=1)[:, None, None]
            age = at[:, None, :, None] - seen
            mask = _additive((age >= 0) & (age < slots) & (seen >= 0), x.dtype)
        else:
            mask = self._seen(at[:, -1:], read, x.dtype)
        turn = self.rotary(at, x.dtype)
        slot = at[:, -slots:] % slots
        for block, cache in zip(self._blocks, caches, strict=True):
            x = block.step(x, turn, cache, slot, mask, with_past, condition)
        return self.norm(x, condition).transpose(1, 2), (following, caches)

    def step_many(
        self, x: Tensor, states: Sequence[State], reaches: Sequence[int]
    ) -> tuple[Tensor, list[State]]:
        """One frame of several streams, each with a state of its own: x (B, W), the rows of the first stream first ->
        (B, W) and the next states, as `step` has them. The products with the weights are those of all rows together,
        attention is each stream's own: its numbers do not depend on the other streams where those of the linear
        layers do not.

        reaches: of each stream, as `step` has it.
        """
        counts = [len(position) for position, _ in states]
        at = torch.cat([position for position, _ in states])[:, None]  # (B, 1)
        turn = self.rotary(at, x.dtype)
        first = self._blocks[0].attention
        heads, groups, channels = first.n_heads, first.n_kv_heads, first.head_dim
        slots = _parts(at % self.config.context, counts)
        # A key head a row: those of a stream are one batch of products.
        index = [own[:, None, :, None].expand(-1, groups, -1, channels).flatten(0, 1) for own in slots]
        masks = [
            self._seen(own, min(reach, self.config.context), x.dtype).expand(-1, groups, -1, -1).flatten(0, 1)
            for own, reach in zip(_parts(at, counts), reaches, strict=True)
        ]
        rows = [groups * count for count in counts]
        x = x[:, None]
        for i, block in enumerate(self._blocks):
            q, k, v = block.attention.project(block.norm1(x), turn)
            q = q.reshape(-1, heads // groups, channels)
            keys, values = k.flatten(0, 1), v.flatten(0, 1)
            found = look_flat(q, keys, values, [caches[i] for _, caches in states], index, masks, rows)
            x = x + block.attention.merge(found.view(len(x), heads, 1, channels))
            x = x + block.feed_forward(block.norm2(x))
        return self.norm(x)[:, 0], [(position + 1, caches) for position, caches in states]

    def _seen(self, at: Tensor, read: int, dtype: torch.dtype) -> Tensor:
        """The mask (B, 1, 1, S) of one frame at positions (B, 1) over a cache into which it is written already."""
        # A slot is empty as long as the position has not come to it: once it has gone round, none is.
        empty = (torch.arange(read, device=at.device) > at)[:, None, None]
        mask = torch.zeros(empty.shape, dtype=dtype, device=at.device)
        return mask.masked_fill_(empty, float("-inf"))

    @property
    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))


def _parts(x: Tensor, counts: list[int]) -> Sequence[Tensor]:
    """`x.split(counts)`, which is written in Python."""
    return (x,) if len(counts) == 1 else x.split_with_sizes(counts)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
        ~allowed, float("-inf")
    )
