"""A streaming step of the house codec's ConvNeXt block in two launches.

    x --> [ring] --> depthwise conv --> layer norm --> W1 --> snake --> h        (first launch)
    y = x + scale * (W2 h + b2)                                                  (second: `linear_rows`)

The depthwise convolution and the norm are small beside the matrices, and each program of the first launch computes
them anew for the rows of W1 that it reads. The ring is that of `causal_conv`.

Liu et al. 2022, "A ConvNet for the 2020s", figure 4; snake for the GELU. Shapes: B streams, T frames, C channels, E
hidden channels, K taps, R slots; channels-last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .causal_conv import slots
from .launch import (
    INTERPRETED,
    divide_up,
    let_next_start,
    overlap,
    power_of_two,
    runs_on,
    snake_of,
    tl,
    triton,
    wait_for_last,
)
from .linear_rows import MOST_ROWS, linear_rows, linear_rows_reference


@dataclass(frozen=True)
class ConvNeXtWeights:
    """depthwise (K, C), its bias (C,); gain and shift of the norm (C,); expand (E, C), its bias (E,); alpha (E,);
    contract (C, E), its bias (C,); scale (C,)."""

    depthwise: Tensor
    depthwise_bias: Tensor
    gain: Tensor
    shift: Tensor
    expand: Tensor
    expand_bias: Tensor
    alpha: Tensor
    contract: Tensor
    contract_bias: Tensor
    scale: Tensor


def convnext_reference(past: Tensor, x: Tensor, w: ConvNeXtWeights, eps: float = 1e-6) -> Tensor:
    """past (B, K - 1, C), x (B, T, C) -> (B, T, C)."""
    c = x.shape[2]
    window = torch.cat([past, x], dim=1).transpose(1, 2)
    y = F.conv1d(window, w.depthwise.t()[:, None], w.depthwise_bias, groups=c).transpose(1, 2)
    h = F.linear(F.layer_norm(y, (c,), w.gain, w.shift, eps), w.expand, w.expand_bias)
    h = h + (w.alpha + 1e-9).reciprocal() * torch.sin(w.alpha * h).square()
    return linear_rows_reference(h, w.contract, w.contract_bias, scale=w.scale, residual=x)


def supports(x: Tensor, ring: Tensor, w: ConvNeXtWeights) -> bool:
    """Whether `convnext` may be used, and pays: on a GPU, dense, one dtype, up to 64 rows."""
    tensors = x, ring, w.expand, w.contract
    return (
        runs_on(*tensors)
        and all(t.is_contiguous() and t.dtype == x.dtype for t in tensors)
        and not torch.is_grad_enabled()
        and x.shape[2] <= 1024
        and x.shape[0] * x.shape[1] <= MOST_ROWS
        and ring.shape[1] >= slots(w.depthwise.shape[0], 1, x.shape[1]) == power_of_two(ring.shape[1])
    )


@triton.jit
def convnext_kernel(
    x, ring, dw, db, gain, shift, w, bias, alpha, h, position, N, T, eps,
    RATE: tl.constexpr, R: tl.constexpr, K: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, E: tl.constexpr,
    BM: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """CP: C rounded up to a power of two."""
    let_next_start(PDL)
    e = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, CP)
    # Asked for first: it comes from the farthest.
    weight = tl.load(w + e[:, None] * C + c[None, :], mask=(e < E)[:, None] & (c < C)[None, :], other=0.0)
    wait_for_last(PDL)
    b = n // T
    t = n - b * T
    begin = tl.load(position + b, mask=n < N, other=0).to(tl.int32) * RATE
    y = tl.zeros((ROWS, CP), tl.float32) + tl.load(db + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    for j in tl.static_range(K):
        back = t - (K - 1 - j)
        source = tl.where(
            (back >= 0)[:, None],
            x + (b * T + back)[:, None] * C + c[None, :],
            ring + (b * R + ((begin + back) & (R - 1)))[:, None] * C + c[None, :],
        )
        known = (n < N) & (begin + back >= 0)
        frame = tl.load(source, mask=known[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        y += frame * tl.load(dw + j * C + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    off = tl.where((c < C)[None, :], y - (tl.sum(tl.where((c < C)[None, :], y, 0.0), 1) / C)[:, None], 0.0)
    y = off * tl.rsqrt(tl.sum(off * off, 1) / C + eps)[:, None]
    y = y * tl.load(gain + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    y += tl.load(shift + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    out = tl.sum(weight.to(tl.float32)[None, :, :] * y[:, None, :], 2)
    out += tl.load(bias + e, mask=e < E, other=0.0).to(tl.float32)[None, :]
    out = snake_of(out, tl.load(alpha + e, mask=e < E, other=1.0).to(tl.float32)[None, :])
    tl.store(
        h + n[:, None] * E + e[None, :],
        out.to(h.dtype.element_ty),
        mask=(n < N)[:, None] & (e < E)[None, :],
    )
    if tl.program_id(0) == 0:
        slot = b * R + ((begin + t) & (R - 1))
        mask = (n < N)[:, None] & (c < C)[None, :]
        new = tl.load(x + n[:, None] * C + c[None, :], mask=mask, other=0.0)
        tl.store(ring + slot[:, None] * C + c[None, :], new, mask=mask)


@torch.library.custom_op("myna::convnext_expand", mutates_args=("ring",))
def _expand(
    x: Tensor, ring: Tensor, position: Tensor, depthwise: Tensor, depthwise_bias: Tensor, gain: Tensor, shift: Tensor,
    weight: Tensor, bias: Tensor, alpha: Tensor, rate: int, eps: float,
) -> Tensor:  # fmt: skip
    b, t, c = x.shape
    k, e, n, cp = depthwise.shape[0], weight.shape[0], b * t, power_of_two(c)
    h = x.new_empty(b, t, e)
    rows = 1 if n == 1 else 2 if n == 2 else 4
    bm = max(1, min(8192 // (cp * rows), 64 if INTERPRETED else 8))
    convnext_kernel[(divide_up(e, bm), divide_up(n, rows))](
        x, ring, depthwise, depthwise_bias, gain, shift, weight, bias, alpha, h, position, n, t, eps, RATE=rate,
        R=ring.shape[1], K=k, C=c, CP=cp, E=e, BM=bm, ROWS=rows, num_warps=4, **overlap(),
    )  # fmt: skip
    return h


@_expand.register_fake
def _(x, ring, position, depthwise, depthwise_bias, gain, shift, weight, bias, alpha, rate, eps):
    return x.new_empty(x.shape[0], x.shape[1], weight.shape[0])


def convnext(
    x: Tensor, ring: Tensor, position: Tensor, w: ConvNeXtWeights, rate: int = 1, eps: float = 1e-6
) -> Tensor:
    """x (B, T, C) -> (B, T, C); x goes into the ring (B, R, C). position (B,), rate: as in `causal_conv`."""
    h = _expand(
        x, ring, position, w.depthwise, w.depthwise_bias, w.gain, w.shift, w.expand, w.expand_bias, w.alpha, rate, eps
    )  # fmt: skip
    y = linear_rows(h.flatten(0, 1), w.contract, w.contract_bias, scale=w.scale, residual=x.flatten(0, 1))
    return y.view_as(x)
