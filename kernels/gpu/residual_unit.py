"""DAC's residual unit in one launch: snake, dilated convolution, snake, 1x1 convolution, plus its input.

    x --> snake --> [ring] --> conv K, dilation D --> snake --> conv 1 --(+)--> y (--> the next snake --> z)
     \\_______________________________________________________________/

The hidden rows stay in registers between the two products. The ring holds frames that have been through the first
snake, so the past is not bent again; the frames of this step are, tap by tap, or come bent from whoever wrote them
(z of the unit before). Up to 256 channels; wider units are two launches of `causal_conv`.

Kumar et al. 2023, "High-fidelity audio compression with improved RVQGAN", section 3.1. Shapes: B streams, T frames,
C channels, K taps, R slots; channels-last, weights (K, C out, C in) and (C out, C in).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .causal_conv import convolve, remember, slots
from .launch import INTERPRETED, capability_of, divide_up, power_of_two, runs_on, snake_of, tl, triton

WIDEST = 256


@dataclass(frozen=True)
class UnitWeights:
    """alpha1, alpha2 (C,), weight1 (K, C, C), bias1 (C,), weight2 (C, C), bias2 (C,)."""

    alpha1: Tensor
    weight1: Tensor
    bias1: Tensor
    alpha2: Tensor
    weight2: Tensor
    bias2: Tensor


def residual_unit_reference(past: Tensor, x: Tensor, w: UnitWeights, dilation: int) -> Tensor:
    """past (B, (K - 1) D, C) before any snake, x (B, T, C) -> (B, T, C)."""

    def bend(v: Tensor, alpha: Tensor) -> Tensor:
        return v + (alpha + 1e-9).reciprocal() * torch.sin(alpha * v).square()

    window = bend(torch.cat([past, x], dim=1), w.alpha1).transpose(1, 2)
    h = F.conv1d(window, w.weight1.permute(1, 2, 0), w.bias1, dilation=dilation).transpose(1, 2)
    return x + F.linear(bend(h, w.alpha2), w.weight2, w.bias2)


def supports(x: Tensor, ring: Tensor | None, w: UnitWeights, dilation: int) -> bool:
    """Whether the fused unit may be used: on a GPU, dense, one dtype, at most 256 channels (64 in float32)."""
    tensors = [x, w.weight1, w.weight2] if ring is None else [x, w.weight1, w.weight2, ring]
    widest = WIDEST if x.element_size() == 2 else WIDEST // 4
    return (
        runs_on(*tensors)
        and all(t.is_contiguous() and t.dtype == x.dtype for t in tensors)
        and not torch.is_grad_enabled()
        and x.shape[2] <= widest
        and x.numel() < 2**31
        and (
            ring is None
            or ring.shape[1] >= slots(w.weight1.shape[0], dilation, x.shape[1]) == power_of_two(ring.shape[1])
        )
    )


@triton.jit
def residual_unit_kernel(
    x, bent, ring, w1, b1, w2, b2, alpha1, alpha2, alpha3, y, z, position, N, T, D, left,
    PRE: tl.constexpr, POST: tl.constexpr, RATE: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
    C: tl.constexpr, CP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    UP: tl.constexpr,
):  # fmt: skip
    """CP: C rounded up to a power of two. PRE: `bent` is x before the first snake. POST: z is y after another."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.arange(0, CP)
    acc = convolve(
        bent,
        ring,
        w1,
        alpha1,
        position,
        c,
        n,
        N,
        T,
        D,
        0,
        left,
        PRE,
        RATE,
        R,
        K,
        C,
        C,
        CP,
        BN,
        BK,
        1,
        STAGES,
        UP,
    )
    acc += tl.load(b1 + c, mask=c < C, other=0.0).to(tl.float32)[:, None]
    h = snake_of(acc, tl.load(alpha2 + c, mask=c < C, other=1.0).to(tl.float32)[:, None])
    h = h.to(x.dtype.element_ty)
    if UP:
        h = h.to(tl.float32)
    for m in tl.static_range(0, CP, BM):
        co = m + tl.arange(0, BM)
        weight = tl.load(
            w2 + co[:, None] * C + c[None, :], mask=(co < C)[:, None] & (c < C)[None, :], other=0.0
        )
        if UP:
            weight = weight.to(tl.float32)
        out = tl.dot(weight, h, input_precision="ieee")
        out += tl.load(b2 + co, mask=co < C, other=0.0).to(tl.float32)[:, None]
        at = n[None, :] * C + co[:, None]
        mask = (n < N)[None, :] & (co < C)[:, None]
        out += tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + at, out.to(y.dtype.element_ty), mask=mask)
        if POST:
            out = snake_of(out, tl.load(alpha3 + co, mask=co < C, other=1.0).to(tl.float32)[:, None])
            tl.store(z + at, out.to(z.dtype.element_ty), mask=mask)
    if R:
        remember(bent, ring, alpha1, position, n, N, T, PRE, RATE, R, C, BN, BK)


def tiles(rows: int, channels: int, half: bool, capability: tuple[int, int]) -> tuple[int, int, int]:
    """BM output channels of the second product at a time, BN rows of a program, warps; channels: CP."""
    bn = 16 if rows <= 132 * 16 or INTERPRETED else 32 if rows <= 132 * 32 or not half else 64
    # Where matrix instructions read registers (Hopper's and the large Blackwell's read shared memory), 64 output
    # channels take 255 registers and more beside 64 hidden rows of 256 channels, 32 of them 138.
    bm = 32 if bn == 64 and capability[0] not in (9, 10) else 64
    return min(channels, bm), bn, 8 if channels * bn >= 4096 else 4


def _run(
    x: Tensor, bent: Tensor | None, ring: Tensor | None, position: Tensor | None, w: UnitWeights,
    alpha3: Tensor | None, dilation: int, rate: int, left: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    b, t, c = x.shape
    k, n, half = w.weight1.shape[0], b * t, x.element_size() == 2
    y = torch.empty_like(x)
    z = x.new_empty(0) if alpha3 is None else torch.empty_like(x)
    cp = max(16, power_of_two(c))
    bm, bn, warps = tiles(n, cp, half, capability_of(x))
    no = y
    residual_unit_kernel[(divide_up(n, bn),)](
        x, x if bent is None else bent, no if ring is None else ring, w.weight1, w.bias1, w.weight2, w.bias2,
        w.alpha1, w.alpha2, no if alpha3 is None else alpha3, y, z, no if position is None else position, n, t,
        dilation, left, PRE=bent is None, POST=alpha3 is not None, RATE=rate, R=0 if ring is None else ring.shape[1],
        K=k, C=c, CP=cp, BM=bm, BN=bn, BK=min(64 if half else 32, cp), STAGES=3, UP=INTERPRETED,
        num_warps=warps,
    )  # fmt: skip
    return y, z


@torch.library.custom_op("myna::residual_unit", mutates_args=("ring",))
def _step(
    x: Tensor, ring: Tensor, position: Tensor, alpha1: Tensor, weight1: Tensor, bias1: Tensor, alpha2: Tensor,
    weight2: Tensor, bias2: Tensor, dilation: int, rate: int,
) -> Tensor:  # fmt: skip
    w = UnitWeights(alpha1, weight1, bias1, alpha2, weight2, bias2)
    return _run(x, None, ring, position, w, None, dilation, rate, 0)[0]


@_step.register_fake
def _(x, ring, position, alpha1, weight1, bias1, alpha2, weight2, bias2, dilation, rate):
    return torch.empty_like(x)


@torch.library.custom_op("myna::residual_unit_rows", mutates_args=())
def _rows(
    x: Tensor, bent: Tensor | None, alpha1: Tensor, weight1: Tensor, bias1: Tensor, alpha2: Tensor, weight2: Tensor,
    bias2: Tensor, alpha3: Tensor | None, dilation: int, left: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    w = UnitWeights(alpha1, weight1, bias1, alpha2, weight2, bias2)
    return _run(x, bent, None, None, w, alpha3, dilation, 1, left)


@_rows.register_fake
def _(x, bent, alpha1, weight1, bias1, alpha2, weight2, bias2, alpha3, dilation, left):
    return torch.empty_like(x), x.new_empty(0) if alpha3 is None else torch.empty_like(x)


def residual_unit(
    x: Tensor, ring: Tensor, position: Tensor, w: UnitWeights, dilation: int, rate: int = 1
) -> Tensor:
    """One step: x (B, T, C) -> (B, T, C); what the convolution reads goes into the ring (B, R, C).

    position (B,), rate: as in `causal_conv`.
    """
    return _step(
        x, ring, position, w.alpha1, w.weight1, w.bias1, w.alpha2, w.weight2, w.bias2, dilation, rate
    )


def residual_unit_rows(
    x: Tensor,
    w: UnitWeights,
    dilation: int,
    left: int,
    bent: Tensor | None = None,
    alpha3: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A whole signal x (B, T, C), `left` frames of zeros before it -> y (B, T, C), and y after a snake with alpha3,
    empty without. bent: x after the unit's first snake, where it is known already."""
    return _rows(x, bent, w.alpha1, w.weight1, w.bias1, w.alpha2, w.weight2, w.bias2, alpha3, dilation, left)
