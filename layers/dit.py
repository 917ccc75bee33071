"""Transformer blocks that adapt to a condition (Peebles and Xie 2023, "DiT", section 3), block-causal and streaming.

    x = x + gate1 * attention(convolution(shift1 + (1 + scale1) * norm(x)))
    x = x + gate2 * feed_forward(shift2 + (1 + scale2) * norm(x))

One linear map of the condition serves all blocks, each of which adds a table of its own (Chen et al. 2024,
"PixArt-alpha", section 2.3, adaLN-single). A short causal convolution before the attention gives the exact order
of neighbours. Frames of a block see each other and all blocks before: one chunk of a stream is one block, and what
a chunk becomes does not depend on what follows.

Shapes: B batch, T frames, W width, C channels of the condition, K kernel, S slots of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.int8 import compiled
from .attention import Attention, Rotary
from .transformer import SwiGLU


@dataclass(frozen=True)
class DiTConfig:
    """Dimensions."""

    width: int = 320
    depth: int = 6
    n_heads: int = 5
    hidden: int = 896  # width of the feed-forward layers
    kernel: int = 7  # of the convolutions
    context: int = 2048  # frames that fit in a stream's cache
    dropout: float = 0.0


class DiTState(NamedTuple):
    """position (B,): frames seen.   tails: (B, W, K - 1) of every block, before its convolution.   caches: keys and
    values of every block, each (B, H, S, D), a ring."""

    position: Tensor
    tails: tuple[Tensor, ...]
    caches: tuple[tuple[Tensor, Tensor], ...]


class DiTBlock(nn.Module):
    """One block; the modulation (B, 6, W) is added to its table."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        w, self.kernel, self.dropout = config.width, config.kernel, config.dropout
        self.table = nn.Parameter(torch.zeros(6, w))
        self.conv = nn.Conv1d(w, w, config.kernel, groups=w)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(cast(Tensor, self.conv.bias))
        self.attention = Attention(w, config.n_heads)
        self.feed_forward = SwiGLU(w, config.hidden)

    def modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],)) * (1 + scale[:, None]) + shift[:, None]

    def mixed(self, y: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """y (B, T, W) plus its causal convolution, and the frames that the next ones need."""
        x = y.transpose(1, 2)
        x = F.pad(x, (self.kernel - 1, 0)) if tail is None else torch.cat([tail.to(x.dtype), x], dim=-1)
        return y + self.conv(x).transpose(1, 2), x[..., x.shape[-1] - (self.kernel - 1) :]

    def forward(
        self, x: Tensor, modulation: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.table).unbind(1)
        y, _ = self.mixed(self.modulated(x, scale1, shift1), None)
        x = x + gate1[:, None] * self._drop(self.attention(y, turn, mask))
        return x + gate2[:, None] * self._drop(self.feed_forward(self.modulated(x, scale2, shift2)))

    def step(
        self,
        x: Tensor,
        modulation: Tensor,
        turn: tuple[Tensor, Tensor],
        tail: Tensor,
        cache: tuple[Tensor, Tensor],
        slot: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        attention, feed = self.attention, self.feed_forward
        linear = attention.qkv, attention.out, feed.gate_up, feed.out
        if _is_plain(x, linear):
            weights = [layer.weight for layer in linear]
            conv, table, heads = self.conv, modulation + self.table, attention.n_heads
            return compiled(_step)(
                x, table, *turn, tail, *cache, slot, mask, conv.weight, conv.bias, weights, heads
            )
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.table).unbind(1)
        y, tail = self.mixed(self.modulated(x, scale1, shift1), tail)
        x = x + gate1[:, None] * self.attention.step(y, turn, cache, slot, mask, with_past=False)
        return x + gate2[:, None] * self.feed_forward(self.modulated(x, scale2, shift2)), tail

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


def _is_plain(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """Whether `_step` may take the place of a block's operations: on a CPU, without adapters or other precisions."""
    return (
        x.device.type == "cpu"
        and x.shape[1] > 1
        and not torch.is_grad_enabled()
        and all(type(layer) is nn.Linear for layer in layers)
    )


def _step(
    x: Tensor,
    table: Tensor,
    cos: Tensor,
    sin: Tensor,
    tail: Tensor,
    keys: Tensor,
    values: Tensor,
    slot: Tensor,
    mask: Tensor,
    kernel: Tensor,
    bias: Tensor,
    weights: list[Tensor],
    heads: int,
) -> tuple[Tensor, Tensor]:
    """The operations of `DiTBlock.step`, without Python between them: a server's other threads need its lock.

    table: (B, 6, W), the modulation and the block's own.   weights: of qkv, out, gate and up, down.
    """
    scale1, shift1, gate1, scale2, shift2, gate2 = table.unbind(1)
    b, t, width = x.shape
    y = F.layer_norm(x, [width]) * (1 + scale1[:, None]) + shift1[:, None]
    wide = torch.cat([tail.to(x.dtype), y.transpose(1, 2)], dim=-1)
    y = y + F.conv1d(wide, kernel, bias, groups=width).transpose(1, 2)
    qkv = F.linear(y, weights[0]).view(b, t, 3 * heads, width // heads).transpose(1, 2)
    qk, v = qkv.split_with_sizes([2 * heads, heads], dim=1)
    first, second = qk.chunk(2, dim=-1)
    q, k = torch.addcmul(qk * cos, torch.cat([second, first], dim=-1), sin).chunk(2, dim=1)
    index = slot[:, None, :, None].expand(-1, heads, -1, width // heads)
    keys.scatter_(2, index, k.to(keys.dtype))
    values.scatter_(2, index, v.to(values.dtype))
    reach = mask.shape[-1]
    y = F.scaled_dot_product_attention(q, keys.narrow(2, 0, reach), values.narrow(2, 0, reach), mask)
    x = x + gate1[:, None] * F.linear(y.transpose(1, 2).flatten(2), weights[1])
    y = F.layer_norm(x, [width]) * (1 + scale2[:, None]) + shift2[:, None]
    gate, up = F.linear(y, weights[2]).chunk(2, dim=-1)
    x = x + gate2[:, None] * F.linear(F.silu(gate) * up, weights[3])
    return x, wide[..., wide.shape[-1] - tail.shape[-1] :]


class DiT(nn.Module):
    """Blocks and a last adapted norm.   condition: channels of what they adapt to."""

    def __init__(self, config: DiTConfig, condition: int):
        super().__init__()
        self.config = config
        self.rotary = Rotary(config.width // config.n_heads)
        self.modulation = nn.Linear(condition, 6 * config.width)
        self.last = nn.Linear(condition, 2 * config.width)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        for part in (self.modulation, self.last):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        with torch.no_grad():
            for block in self._blocks:
                block.table[2] = block.table[5] = 1.0  # gates start open: what is learned fastest
                for out in (block.attention.out, block.feed_forward.out):
                    out.weight.normal_(0, 0.02 / (2 * config.depth) ** 0.5)
                for into in (block.attention.qkv, block.feed_forward.gate_up):
                    into.weight.normal_(0, config.width**-0.5)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, W), condition (B, C) -> (B, T, W).   mask: from `block_mask`."""
        positions = torch.arange(x.shape[1], device=x.device)[None]
        dtype = (
            torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        )
        turn = self.rotary(positions, dtype)
        modulation = self.modulation(condition).unflatten(-1, (6, -1))
        for block in self._blocks:
            x = block(x, modulation, turn, mask)
        return self._normed(x, condition)

    def init_state(self, batch: int, like: Tensor, slots: int | None = None) -> DiTState:
        """The state before the first frame. slots: of the caches, where fewer than the context will do."""
        c, slots = self.config, self.config.context if slots is None else slots
        return DiTState(
            torch.zeros(batch, dtype=torch.long, device=like.device),
            tuple(like.new_zeros(batch, c.width, c.kernel - 1) for _ in self._blocks),
            tuple(block.attention.init_cache(batch, slots, like) for block in self._blocks),
        )

    def step(
        self, x: Tensor, condition: Tensor, state: DiTState, reach: int | None = None
    ) -> tuple[Tensor, DiTState]:
        """A block x (B, T, W), T at most the slots -> (B, T, W) and the next state; caches are written in place.

        reach: an upper bound of every row's position after this step, which spares reading slots that are empty.
        """
        t, slots = x.shape[1], state.caches[0][0].shape[2]
        if t > slots:
            raise ValueError(f"a block of {t} frames does not fit in a cache of {slots}")
        at = state.position[:, None] + torch.arange(t, device=x.device)
        last = at[:, -1:]
        ring = torch.arange(slots if reach is None else min(reach, slots), device=x.device)
        allowed = (last - (last - ring) % slots >= 0)[:, None, None]  # (B, 1, 1, S)
        mask = torch.zeros(allowed.shape, dtype=x.dtype, device=x.device).masked_fill_(
            ~allowed, float("-inf")
        )
        turn, slot, tails = self.rotary(at, x.dtype), at % slots, []
        modulation = self.modulation(condition).unflatten(-1, (6, -1))
        for block, tail, cache in zip(self._blocks, state.tails, state.caches, strict=True):
            x, tail = block.step(x, modulation, turn, tail, cache, slot, mask)
            tails.append(tail)
        return self._normed(x, condition), DiTState(state.position + t, tuple(tails), state.caches)

    def continued(self, state: DiTState, slots: int, zeros: bool = True) -> DiTState:
        """A copy of a state of one row, which has seen no more frames than its caches hold, with room for `slots`.

        zeros: in the slots that are free. Without, they hold anything, and memory that nobody writes is none: for who
        tells every step the row's very position as its reach.
        """
        n = state.caches[0][0].shape[2]

        def grown(cache: Tensor) -> Tensor:
            if zeros:
                return F.pad(cache, (0, 0, 0, slots - n))
            whole = cache.new_empty(*cache.shape[:2], slots, cache.shape[3])
            whole[:, :, :n] = cache
            return whole

        caches = tuple((grown(keys), grown(values)) for keys, values in state.caches)
        return DiTState(state.position.clone(), state.tails, caches)

    def _normed(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.last(condition)[:, None].chunk(2, dim=-1)
        return F.layer_norm(x, (x.shape[-1],)) * (1 + scale) + shift

    @property
    def _blocks(self) -> list[DiTBlock]:
        return cast("list[DiTBlock]", list(self.blocks))


def block_mask(blocks: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """blocks (B, T) integers -> (B, 1, T, T) to be added to attention: a frame sees every frame whose block is not
    after its own. Padding gets a block that comes after all."""
    allowed = blocks[:, None, :, None] >= blocks[:, None, None, :]
    return torch.zeros(allowed.shape, dtype=dtype, device=blocks.device).masked_fill_(~allowed, float("-inf"))
