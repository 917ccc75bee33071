"""Attention of one new frame over the ring of keys, split over the slots so that a few streams fill the GPU.

A ring of S slots that has seen `position + 1` frames holds min(position + 1, S) of them, in the first slots; their
order does not matter to attention. Each part of the slots gives a sum of values with its maximum and its weight
(Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; split as in Dao et al. 2023,
"Flash-Decoding"), and a second launch joins them. Queries that share a key head are served by one reading of it
(Ainslie et al. 2023).

Shapes: B streams, H query heads, G key and value heads, M = H / G, D head width, S slots, P parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import (
    INTERPRETED,
    divide_up,
    let_next_start,
    overlap,
    power_of_two,
    runs_on,
    tl,
    triton,
    wait_for_last,
)


def decode_attention_reference(q: Tensor, keys: Tensor, values: Tensor, position: Tensor) -> Tensor:
    """q (B, H, D), keys and values (B, G, S, D), position (B,) of the new frame, already in the ring -> (B, H, D)."""
    b, h, d = q.shape
    g, s = keys.shape[1:3]
    scores = (q * d**-0.5).view(b, g, h // g, d) @ keys.transpose(2, 3)
    empty = torch.arange(s, device=q.device) > position[:, None]
    scores = scores.masked_fill(empty[:, None, None], float("-inf"))
    # Slots that hold nothing may hold anything, and nothing times NaN is NaN.
    return (scores.softmax(-1) @ values.masked_fill(empty[:, None, :, None], 0)).view(b, h, d)


def supports(q: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether `decode_attention` may be used: on a GPU, dense, one dtype, heads of at most 256 channels."""
    return (
        runs_on(q, keys, values)
        and q.dtype == keys.dtype == values.dtype
        and all(t.is_contiguous() for t in (q, keys, values))
        and not torch.is_grad_enabled()
        and q.shape[2] <= 256
        and q.shape[1] // keys.shape[1] <= 16
    )


@triton.jit
def decode_attention_kernel(
    q, keys, values, position, out, top, total, scale,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, S: tl.constexpr, M: tl.constexpr,
    BN: tl.constexpr, P: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """M: H / G rounded up to a power of two; DP: D likewise."""
    let_next_start(PDL)
    wait_for_last(PDL)
    row = tl.program_id(0)
    part = tl.program_id(1)
    b = row // G
    EACH: tl.constexpr = H // G
    i = tl.arange(0, M)
    d = tl.arange(0, DP)
    n = tl.minimum(tl.load(position + b).to(tl.int32) + 1, S)
    head = b * H + (row - b * G) * EACH + i
    asked = (i < EACH)[:, None] & (d < D)[None, :]
    query = tl.load(q + head[:, None] * D + d[None, :], mask=asked, other=0.0).to(tl.float32) * scale
    m = tl.full((M,), -1e30, tl.float32)
    l = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, DP), tl.float32)
    for step in tl.range(0, (S + P * BN - 1) // (P * BN), num_stages=STAGES):
        slot = (step * P + part) * BN + tl.arange(0, BN)
        held = slot < n
        at = (row * S + slot)[:, None] * D + d[None, :]
        mask = held[:, None] & (d < D)[None, :]
        k = tl.load(keys + at, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(values + at, mask=mask, other=0.0).to(tl.float32)
        score = tl.sum(query[:, None, :] * k[None, :, :], 2)
        score = tl.where(held[None, :], score, -1e30)
        higher = tl.maximum(m, tl.max(score, 1))
        p = tl.where(held[None, :], tl.exp(score - higher[:, None]), 0.0)
        fade = tl.exp(m - higher)
        acc = acc * fade[:, None] + tl.sum(p[:, :, None] * v[None, :, :], 1)
        l = l * fade + tl.sum(p, 1)
        m = higher
    to = head * P + part
    tl.store(out + to[:, None] * D + d[None, :], acc, mask=asked)
    tl.store(top + to, m, mask=i < EACH)
    tl.store(total + to, l, mask=i < EACH)


@triton.jit
def join_parts_kernel(
    out, top, total, y, D: tl.constexpr, DP: tl.constexpr, P: tl.constexpr, PP: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    let_next_start(PDL)
    wait_for_last(PDL)
    head = tl.program_id(0)
    p = tl.arange(0, PP)
    d = tl.arange(0, DP)
    m = tl.load(top + head * P + p, mask=p < P, other=-1e30)
    weight = tl.exp(m - tl.max(m, 0)) * (p < P)
    whole = tl.sum(weight * tl.load(total + head * P + p, mask=p < P, other=0.0), 0)
    at = (head * P + p)[:, None] * D + d[None, :]
    part = tl.load(out + at, mask=(p < P)[:, None] & (d < D)[None, :], other=0.0)
    acc = tl.sum(part * weight[:, None], 0) / whole
    tl.store(y + head * D + d, acc.to(y.dtype.element_ty), mask=d < D)


def n_parts(rows: int, slots: int) -> int:
    """Parts that the slots are split into: two programs for each multiprocessor, of 32 slots at least."""
    if INTERPRETED:
        return 3
    return max(1, min(divide_up(264, rows), divide_up(slots, 32), 64))


@torch.library.custom_op("myna::decode_attention", mutates_args=())
def _decode_attention(q: Tensor, keys: Tensor, values: Tensor, position: Tensor) -> Tensor:
    b, h, d = q.shape
    g, s = keys.shape[1:3]
    parts = n_parts(b * g, s)
    out = q.new_empty(b, h, parts, d, dtype=torch.float32)
    top, total = (q.new_empty(b, h, parts, dtype=torch.float32) for _ in range(2))
    m, dp = power_of_two(h // g), power_of_two(d)
    decode_attention_kernel[(b * g, parts)](
        q, keys, values, position, out, top, total, d**-0.5, H=h, G=g, D=d, DP=dp, S=s, M=m,
        BN=max(16, min(32, 8192 // (dp * m))), P=parts, STAGES=2, num_warps=4, **overlap(),
    )  # fmt: skip
    y = torch.empty_like(q)
    join_parts_kernel[(b * h,)](
        out, top, total, y, D=d, DP=dp, P=parts, PP=power_of_two(parts), num_warps=4, **overlap()
    )
    return y


@_decode_attention.register_fake
def _(q, keys, values, position):
    return torch.empty_like(q)


def decode_attention(q: Tensor, keys: Tensor, values: Tensor, position: Tensor) -> Tensor:
    """As `decode_attention_reference`; slots that hold nothing are not read."""
    return _decode_attention(q, keys, values, position)
