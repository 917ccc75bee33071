"""Attention with rotary positions and grouped heads, over a whole sequence or over a cache of the past.

Rotary embedding: Su et al. 2021, eq. 34. Grouped queries, H query heads sharing G key and value heads: Ainslie et
al. 2023. Shapes: B batch, T frames, W width, H heads, G key/value heads, D head width, S slots of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.int8 import compiled


class Rotary(nn.Module):
    """The angles by which queries and keys turn, so that their products depend on distances alone."""

    frequencies: Tensor

    def __init__(self, head_dim: int, base: float = 10_000.0):
        super().__init__()
        if head_dim % 2:
            raise ValueError(
                f"rotary positions turn pairs of channels: head_dim must be even, got {head_dim}"
            )
        exponent = torch.arange(0, head_dim, 2) / head_dim
        self.register_buffer("frequencies", base**-exponent, persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What `rotate` takes, twice (B, 1, T, D), for positions (B, T) in frames: cosines, and sines with the sign
        of the channel that they are for."""
        phase = positions[:, None, :, None].float() * self.frequencies.float()
        cos, sin = phase.cos(), phase.sin()
        return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn x (B, H, T, D), channel i together with channel i + D/2, by what `Rotary` gave."""
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([second, first], dim=-1), sin)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """softmax(q k / sqrt(D)) v: queries (B, H, T, D) over keys and values (B, G, S, D) -> (B, H, T, D).

    mask: added to the products, broadcastable to (B, 1, T, S), -inf where a query must not look.
    causal: query t looks at the keys up to t (T = S); instead of a mask.
    """
    b, h, t, d = q.shape
    groups, slots = k.shape[1], k.shape[2]
    if t == 1 or (q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad):
        # The queries that share a key head become rows of one product. For one query this spares the copies of
        # the cache; in training on a CPU it is 1.2 to 1.7 times as fast as torch's fused attention (both in
        # bfloat16, D = 64 to 80, 500 frames), which has few keys and many heads against it there.
        if causal and t > 1:
            later = torch.ones(t, slots, dtype=torch.bool, device=q.device).triu(1)
            mask = torch.zeros(t, slots, dtype=q.dtype, device=q.device).masked_fill_(later, float("-inf"))
        scores = (q * d**-0.5).reshape(b, groups, (h // groups) * t, d) @ k.transpose(2, 3)
        if mask is not None:
            mask = mask if mask.ndim == 2 else mask[:, :, None]
            scores = (scores.view(b, groups, h // groups, t, slots) + mask.to(scores.dtype)).view_as(scores)
        return (torch.softmax(scores, dim=-1).to(v.dtype) @ v).view(b, h, t, d)
    if mask is not None:
        mask = mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=h != groups)


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself; H heads in `n_kv_heads` groups that share keys and values.

    The cache is a pair (keys, values), each (B, G, S, D): a ring, in which the frame at position p lies in slot
    p mod S. Which slots hold what is known to the caller (`layers.transformer`), once for all layers.
    """

    def __init__(self, width: int, n_heads: int, n_kv_heads: int | None = None):
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if width % n_heads or n_heads % n_kv_heads:
            raise ValueError(
                f"width {width} must divide into {n_heads} heads, and the heads into {n_kv_heads} groups"
            )
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, width // n_heads
        self.qkv = nn.Linear(width, (n_heads + 2 * n_kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def project(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, W) -> turned queries (B, H, T, D), turned keys and values (B, G, T, D)."""
        b, t, _ = x.shape
        qkv = self.qkv(x).view(b, t, self.n_heads + 2 * self.n_kv_heads, self.head_dim).transpose(1, 2)
        # `split`, which is written in Python, takes several times as long.
        qk, v = qkv.split_with_sizes([self.n_heads + self.n_kv_heads, self.n_kv_heads], dim=1)
        q, k = rotate(qk, turn).split_with_sizes([self.n_heads, self.n_kv_heads], dim=1)
        return q, k, v

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """x (B, T, W) -> (B, T, W). mask: as in `attend`; None: causal."""
        q, k, v = self.project(x, turn)
        return self.merge(attend(q, k, v, mask, causal=mask is None))

    def init_cache(self, batch: int, slots: int, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (batch, self.n_kv_heads, slots, self.head_dim)
        return like.new_zeros(shape), like.new_zeros(shape)

    def step(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        cache: tuple[Tensor, Tensor],
        slot: Tensor,
        mask: Tensor,
        with_past: bool,
    ) -> Tensor:
        """x (B, T, W) -> (B, T, W); its keys and values are written into the cache.

        slot: (B, T') where the last T' <= S frames go.   with_past: look at the cache as it was and then the frames
        themselves, mask (B, 1, T, S' + T); otherwise at the cache once they are written, mask (B, 1, T, S').
        S' <= S: slots beyond it are not read.
        """
        q, k, v = self.project(x, turn)
        if not with_past:
            return self.merge(self.look(q, k, v, cache, slot, mask))
        keys, values = cache
        past = mask.shape[-1] - k.shape[2]
        all_keys = torch.cat([keys.narrow(2, 0, past), k], dim=2)
        y = attend(q, all_keys, torch.cat([values.narrow(2, 0, past), v], dim=2), mask)
        self._write(k, v, cache, slot)
        return self.merge(y)

    def look(
        self, q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], slot: Tensor, mask: Tensor
    ) -> Tensor:
        """Write what `project` gave into the cache, and look at it: (B, H, T, D). slot, mask: as in `step` without the
        past."""
        self._write(k, v, cache, slot)
        reach = mask.shape[-1]
        return attend(q, cache[0].narrow(2, 0, reach), cache[1].narrow(2, 0, reach), mask)

    def _write(self, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], slot: Tensor) -> None:
        keys, values = cache
        n, t = slot.shape[1], k.shape[2]
        index = slot[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        keys.scatter_(2, index, (k if n == t else k[:, :, t - n :]).to(keys.dtype))
        values.scatter_(2, index, (v if n == t else v[:, :, t - n :]).to(values.dtype))

    def merge(self, y: Tensor) -> Tensor:
        """What the heads found, (B, H, T, D) -> (B, T, W)."""
        return self.out(y.transpose(1, 2).flatten(2))


def look_flat(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    caches: Sequence[tuple[Tensor, Tensor]],
    index: Sequence[Tensor],
    masks: Sequence[Tensor],
    rows: Sequence[int],
) -> Tensor:
    """As `Attention.look` for one frame of several streams, each with a cache of its own and a key head a row, which
    takes half the operations.

    q (N, H / G, D), k and v (N, 1, D), the rows of the first stream first.   index (n, 1, D), masks (n, 1, S') of each
    stream: the slot, and the slots that are read.   rows: n of each -> (N, H / G, D).
    """
    keys, values = [cache[0] for cache in caches], [cache[1] for cache in caches]
    # Without Python between a dozen small operations a stream, which would take as long as they do, and keep other
    # threads from the interpreter.
    look = compiled(_looks) if q.device.type == "cpu" else _looks
    return look(q, k, v, keys, values, list(index), list(masks), list(rows))


def _looks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    index: list[Tensor],
    masks: list[Tensor],
    rows: list[int],
) -> Tensor:
    channels, first, found = q.shape[-1], 0, []
    for i, n in enumerate(rows):
        reach, slots = masks[i].shape[-1], keys[i].shape[2]
        own_keys, own_values = keys[i].view(n, slots, channels), values[i].view(n, slots, channels)
        own_keys.scatter_(1, index[i], k.narrow(0, first, n).to(own_keys.dtype))
        own_values.scatter_(1, index[i], v.narrow(0, first, n).to(own_values.dtype))
        before = own_keys.narrow(1, 0, reach).transpose(1, 2)
        scores = torch.baddbmm(masks[i], q.narrow(0, first, n), before, alpha=channels**-0.5)
        found.append(torch.bmm(torch.softmax(scores, dim=-1), own_values.narrow(1, 0, reach)))
        first += n
    return torch.cat(found)
