"""Attention of a whole sequence without the matrix of scores: the prefill of the AR, and the decoders' full attention.

Dao 2023, "FlashAttention-2", algorithm 1: a program has a block of queries and walks over the keys, with the running
maximum and sum of Milakov and Gimelshein 2018. Causal programs stop at their own block. Rows of a batch may be of
different lengths.

Shapes: B batch, H query heads, G key and value heads, T frames, D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .launch import INTERPRETED, divide_up, power_of_two, runs_on, tl, triton


def flash_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, lengths: Tensor | None = None
) -> Tensor:
    """q (B, H, T, D), k and v (B, G, T, D) -> (B, H, T, D). lengths (B,): keys from there on are padding."""
    mask = None
    if lengths is not None:
        at = torch.arange(q.shape[2], device=q.device)
        mask = (at < lengths[:, None])[:, None, None]
        if causal:
            mask = mask & (at[:, None] >= at)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=q.shape[1] != k.shape[1]
    )


def supports(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `flash_attention` may be used: on a GPU, heads dense and of at most 128 channels; without gradients."""
    return (
        runs_on(q, k, v)
        and q.dtype == k.dtype == v.dtype
        and all(t.stride(3) == 1 for t in (q, k, v))
        and k.stride() == v.stride()
        and not torch.is_grad_enabled()
        and 16 <= q.shape[3] <= 128
    )


@triton.jit
def flash_attention_kernel(
    q, k, v, lengths, y, T, scale, SQB, SQH, SQT, SKB, SKH, SKT,
    H: tl.constexpr, EACH: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    CAUSAL: tl.constexpr, LENGTHS: tl.constexpr, BLOCKS: tl.constexpr, STAGES: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """BLOCKS: of keys, 0 to count them here; the interpreter cannot loop to a number that it has computed."""
    b = tl.program_id(1) // H
    h = tl.program_id(1) % H
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, DP)
    dmask = (d < D)[None, :]
    query = tl.load(
        q + b * SQB + h * SQH + t[:, None] * SQT + d[None, :], mask=(t < T)[:, None] & dmask, other=0.0
    )
    if UP:
        query = query.to(tl.float32)
    end = T
    if LENGTHS:
        end = tl.minimum(T, tl.load(lengths + b).to(tl.int32))
    keys = k + b * SKB + (h // EACH) * SKH
    values = v + b * SKB + (h // EACH) * SKH
    m = tl.full((BM,), -1e30, tl.float32)
    l = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DP), tl.float32)
    seen_by_all = tl.minimum(end, (tl.program_id(0) + 1) * BM) if CAUSAL else end
    last = (seen_by_all + BN - 1) // BN
    for block in tl.range(0, BLOCKS if BLOCKS > 0 else last, num_stages=STAGES):
        s = block * BN + tl.arange(0, BN)
        kmask = (s < end)[:, None] & dmask
        kk = tl.load(keys + s[:, None] * SKT + d[None, :], mask=kmask, other=0.0)
        vv = tl.load(values + s[:, None] * SKT + d[None, :], mask=kmask, other=0.0)
        if UP:
            kk = kk.to(tl.float32)
            vv = vv.to(tl.float32)
        score = tl.dot(query, tl.trans(kk), input_precision="ieee") * (scale * 1.4426950408889634)
        seen = (s < end)[None, :]
        if CAUSAL:
            seen = seen & (t[:, None] >= s[None, :])
        score = tl.where(seen, score, -1e30)
        higher = tl.maximum(m, tl.max(score, 1))
        p = tl.where(seen, tl.exp2(score - higher[:, None]), 0.0)
        fade = tl.exp2(m - higher)
        l = l * fade + tl.sum(p, 1)
        acc = tl.dot(p.to(vv.dtype), vv, acc * fade[:, None], input_precision="ieee")
        m = higher
    acc = acc / tl.maximum(l, 1e-30)[:, None]
    to = ((b * H + h) * T + t)[:, None] * D + d[None, :]
    tl.store(y + to, acc.to(y.dtype.element_ty), mask=(t < T)[:, None] & dmask)


@torch.library.custom_op("myna::flash_attention", mutates_args=())
def _flash_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, causal: bool) -> Tensor:
    b, h, t, d = q.shape
    y = q.new_empty(b, h, t, d)
    half = q.element_size() == 2
    # Few queries make small blocks, so that the GPU is full all the same.
    bm = 128 if half and divide_up(t, 128) * b * h >= 132 else 64 if half else 32
    bn = 64 if half else 32
    dp = max(16, power_of_two(d))
    flash_attention_kernel[(divide_up(t, bm), b * h)](
        q, k, v, y if lengths is None else lengths, y, t, d**-0.5, *q.stride()[:3], *k.stride()[:3], H=h,
        EACH=h // k.shape[1], D=d, DP=dp, BM=bm, BN=bn, CAUSAL=causal, LENGTHS=lengths is not None,
        BLOCKS=divide_up(t, bn) if INTERPRETED else 0, STAGES=2, UP=INTERPRETED,
        num_warps=8 if bm == 128 or (not half and dp == 128) else 4,
    )  # fmt: skip
    return y


@_flash_attention.register_fake
def _(q, k, v, lengths, causal):
    return q.new_empty(q.shape)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, lengths: Tensor | None = None
) -> Tensor:
    """As `flash_attention_reference`."""
    return _flash_attention(q, k, v, lengths, causal)
