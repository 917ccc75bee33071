"""Dilated causal convolution of rows, with the past in a ring of memory: what a streaming step of a codec needs.

    ring      | ... p-3 p-2 p-1 |        slot of frame q: q modulo R; R a power of two
    x                            | p ... p+T-1 |
    y[t] = sum over taps j of  W[j] frame[p + t - (K - 1 - j) D]

Frames with a negative number are zeros, so a stream begins anew by setting its position to 0 and nothing is cleared.
The frames of x go into the ring, in slots that this step does not read: no program waits for another. A stream that
pauses keeps its position, and what was written for it is written over later. The same kernel convolves whole signals
(`ring` is None), with frames outside of 0..T-1 as zeros. A transposed convolution is one of these, too
(`conv_transpose`), and so are the inverse MDCT and its overlap-add.

Wide layers on few frames are split over the products as well (split-K): parts go to a table in float32, a second
launch adds them up. Which is right is a matter of how many programs there are, see `_blocks`.

Shapes: B streams, T frames a step, C channels in, O out, K taps, R slots; all rows channels-last. Weights are packed
as (K, O, C). n counts the B T rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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

Activation = Literal["none", "snake", "elu", "expand"]
_ACTIVATIONS: dict[str, int] = {"none": 0, "snake": 1, "elu": 2, "expand": 3}
_KNEE = 0.1  # of the house codec's companding curve, which "expand" undoes


def activate_reference(x: Tensor, activation: Activation, scale: Tensor | None = None) -> Tensor:
    """x (..., O). "snake": scale is alpha (O,). "expand": x (|x| + 0.2) times scale (O,), `codec.myna.expand`."""
    if activation == "snake" and scale is not None:
        return x + (scale + 1e-9).reciprocal() * torch.sin(scale * x).square()
    if activation == "elu":
        return F.elu(x)
    if activation == "expand" and scale is not None:
        return x * (x.abs() + 2 * _KNEE) * scale
    return x


def causal_conv_reference(
    past: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int = 1,
    activation: Activation = "none",
    scale: Tensor | None = None,
) -> Tensor:
    """past (B, (K - 1) D, C), x (B, T, C), weight (K, O, C) -> (B, T, O)."""
    window = torch.cat([past, x], dim=1).transpose(1, 2)
    y = F.conv1d(window, weight.permute(1, 2, 0), bias, dilation=dilation)
    return activate_reference(y.transpose(1, 2), activation, scale)


def slots(kernel_size: int, dilation: int, frames: int) -> int:
    """Slots R of a ring for steps of up to `frames`."""
    return power_of_two((kernel_size - 1) * dilation + frames)


def supports(x: Tensor, ring: Tensor | None, weight: Tensor, dilation: int = 1) -> bool:
    """Whether `causal_conv` may be used: on a GPU, dense, one dtype, a ring that is long enough."""
    tensors = [x, weight] if ring is None else [x, weight, ring]
    return (
        runs_on(*tensors)
        and all(t.is_contiguous() and t.dtype == x.dtype for t in tensors)
        and not torch.is_grad_enabled()
        and x.numel() < 2**31
        and x.shape[2] == weight.shape[2]
        and (
            ring is None
            or ring.shape[1] >= slots(weight.shape[0], dilation, x.shape[1]) == power_of_two(ring.shape[1])
        )
    )


@triton.jit
def convolve(
    x, ring, w, pre, position, co, n, N, T, D, part, left,
    PRE: tl.constexpr, RATE: tl.constexpr, R: tl.constexpr, K: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SK: tl.constexpr, STAGES: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """Rows n of the convolution, channels co: (BM, BN) in float32. With SK > 1 every SK-th block of the sum,
    from `part` on. R = 0: no ring, frame t of the window is frame t - left of x. PRE: a snake with alpha `pre` (C,)
    on the way in; what is in the ring has been through it."""
    b = n // T
    t = n - b * T
    inside = n < N
    NK: tl.constexpr = (C + BK - 1) // BK
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    if R:
        begin = tl.load(position + b, mask=inside, other=0).to(tl.int32) * RATE
    # Bounds that are constants: triton 3.6's interpreter cannot loop between others with a numpy of today.
    for step in tl.range(0, (K * NK + SK - 1) // SK, num_stages=STAGES):
        i = step * SK + part
        j = i // NK
        ck = (i % NK) * BK + tl.arange(0, BK)
        wmask = (co < O)[:, None]
        if (K * NK) % SK:
            # As whole numbers of the block: the interpreter takes a single truth value for a float32.
            wmask = wmask & (i + 0 * co < K * NK)[:, None]
        if C % BK:
            wmask = wmask & (ck < C)[None, :]
        weight = tl.load(w + (j * O + co[:, None]) * C + ck[None, :], mask=wmask, other=0.0)
        if R:
            back = t - (K - 1 - j) * D
            known = inside & (begin + back >= 0)
            source = tl.where(
                (back >= 0)[None, :],
                x + (b * T + back)[None, :] * C + ck[:, None],
                ring + (b * R + ((begin + back) & (R - 1)))[None, :] * C + ck[:, None],
            )
        else:
            back = t + j * D - left
            known = inside & (back >= 0) & (back < T)
            source = x + (b * T + back)[None, :] * C + ck[:, None]
        xmask = known[None, :]
        if (K * NK) % SK:
            xmask = xmask & (i + 0 * t < K * NK)[None, :]
        if C % BK:
            xmask = xmask & (ck < C)[:, None]
        frame = tl.load(source, mask=xmask, other=0.0)
        if PRE:
            raw = frame.to(tl.float32)
            bent = snake_of(raw, tl.load(pre + ck, mask=ck < C, other=1.0).to(tl.float32)[:, None])
            if R:
                bent = tl.where((back >= 0)[None, :], bent, raw)
            frame = bent.to(x.dtype.element_ty)
        if UP:
            weight = weight.to(tl.float32)
            frame = frame.to(tl.float32)
        acc = tl.dot(weight, frame, acc, input_precision="ieee")
    return acc


@triton.jit
def remember(
    x, ring, pre, position, n, N, T, PRE: tl.constexpr, RATE: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Write rows n of x, through the snake where there is one, into the ring."""
    b = n // T
    begin = tl.load(position + b, mask=n < N, other=0).to(tl.int32) * RATE
    slot = b * R + ((begin + n - b * T) & (R - 1))
    for k in range(0, C, BK):
        ck = k + tl.arange(0, BK)
        mask = (n < N)[:, None] & (ck < C)[None, :]
        v = tl.load(x + n[:, None] * C + ck[None, :], mask=mask, other=0.0)
        if PRE:
            alpha = tl.load(pre + ck, mask=ck < C, other=1.0).to(tl.float32)[None, :]
            v = snake_of(v.to(tl.float32), alpha).to(ring.dtype.element_ty)
        tl.store(ring + slot[:, None] * C + ck[None, :], v, mask=mask)


@triton.jit
def activate(y, scale, co, O, ACT: tl.constexpr):
    """y (BM, BN) of channels co, scale (O,) or anything where it is not used."""
    if ACT == 1:
        y = snake_of(y, tl.load(scale + co, mask=co < O, other=1.0).to(tl.float32)[:, None])
    elif ACT == 2:
        y = tl.where(y > 0, y, tl.exp(tl.minimum(y, 0.0)) - 1.0)
    elif ACT == 3:
        y = y * (tl.abs(y) + 0.2) * tl.load(scale + co, mask=co < O, other=0.0).to(tl.float32)[:, None]
    return y


@triton.jit
def finish(
    acc, bias, scale, residual, y, z, co, n, N, O,
    ACT: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, BOTH: tl.constexpr,
):  # fmt: skip
    """What follows the product: bias, residual, activation. BOTH: y before the activation and z after it."""
    if BIAS:
        acc += tl.load(bias + co, mask=co < O, other=0.0).to(tl.float32)[:, None]
    at = n[None, :] * O + co[:, None]
    mask = (n < N)[None, :] & (co < O)[:, None]
    if RESIDUAL:
        acc += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    if BOTH:
        tl.store(y + at, acc.to(y.dtype.element_ty), mask=mask)
        tl.store(z + at, activate(acc, scale, co, O, ACT).to(z.dtype.element_ty), mask=mask)
    else:
        tl.store(y + at, activate(acc, scale, co, O, ACT).to(y.dtype.element_ty), mask=mask)


@triton.jit
def causal_conv_kernel(
    x, ring, w, bias, scale, residual, y, z, parts, position, N, T, D, left,
    RATE: tl.constexpr, R: tl.constexpr, K: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    ACT: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, BOTH: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, SK: tl.constexpr, STAGES: tl.constexpr, UP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    let_next_start(PDL)
    wait_for_last(PDL)
    co = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    s = tl.program_id(2)
    acc = convolve(
        x, ring, w, x, position, co, n, N, T, D, s, left, False, RATE, R, K, C, O, BM, BN, BK, SK, STAGES, UP
    )
    if SK == 1:
        finish(acc, bias, scale, residual, y, z, co, n, N, O, ACT, BIAS, RESIDUAL, BOTH)
    else:
        at = (s * N + n[None, :]) * O + co[:, None]
        tl.store(parts + at, acc, mask=(n < N)[None, :] & (co < O)[:, None])
    if R and tl.program_id(1) == 0 and s == 0:
        remember(x, ring, x, position, n, N, T, False, RATE, R, C, BN, BK)


@triton.jit
def add_parts_kernel(
    parts, bias, scale, residual, y, z, N, O: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, BOTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    let_next_start(PDL)
    wait_for_last(PDL)
    co = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    mask = (n < N)[None, :] & (co < O)[:, None]
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for s in tl.static_range(SK):
        acc += tl.load(parts + (s * N + n[None, :]) * O + co[:, None], mask=mask, other=0.0)
    finish(acc, bias, scale, residual, y, z, co, n, N, O, ACT, BIAS, RESIDUAL, BOTH)


@dataclass(frozen=True)
class Blocks:
    """How a convolution is cut: BM output channels, BN rows and BK channels of the sum at a time, SK parts of it."""

    BM: int
    BN: int
    BK: int
    SK: int
    STAGES: int
    num_warps: int


def blocks(rows: int, c: int, o: int, k: int, half: bool, programs: int = 132) -> Blocks:
    """For (rows, K C) times (K C, O). programs: what the GPU runs at once (an H200 has 132 multiprocessors)."""
    if INTERPRETED:
        return Blocks(32, 16, 32, 2 if rows <= 16 and k * c >= 256 else 1, 1, 4)
    bk = min(64 if half else 32, max(16, power_of_two(c)))
    if rows >= 512 and half:
        bm, bn = (128 if o >= 128 else max(16, power_of_two(o))), (128 if rows >= 2048 else 64)
        return Blocks(bm, bn, bk, 1, 3, 8 if bm * bn >= 128 * 128 else 4)
    if rows >= 512:
        return Blocks(min(64, max(16, power_of_two(o))), 64, bk, 1, 3, 4)
    bn = 16 if rows <= 16 else 32 if rows <= 64 else 64
    bm = min(64 if half and rows > 16 else 32, max(16, power_of_two(o)))
    tiles = divide_up(o, bm) * divide_up(rows, bn)
    steps = k * divide_up(c, bk)
    sk = max(1, min(programs // tiles, steps // 4, 8))
    return Blocks(bm, bn, bk, sk, 4, 4)


def launch(
    x: Tensor,
    ring: Tensor | None,
    position: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    dilation: int,
    rate: int,
    left: int,
    activation: int,
    both: bool,
) -> tuple[Tensor, Tensor]:
    """Both outputs; the second is empty unless `both`."""
    b, t, c = x.shape
    k, o, _ = weight.shape
    n = b * t
    y = x.new_empty(b, t, o)
    z = x.new_empty(b, t, o) if both else x.new_empty(0)
    cut = blocks(n, c, o, k, x.element_size() == 2)
    parts = x.new_empty(cut.SK, n, o, dtype=torch.float32) if cut.SK > 1 else x
    grid = divide_up(n, cut.BN), divide_up(o, cut.BM), cut.SK
    # A tensor that is not used is stood in for by another: Triton wants a pointer.
    no = y
    causal_conv_kernel[grid](
        x, no if ring is None else ring, weight, no if bias is None else bias, no if scale is None else scale,
        no if residual is None else residual, y, z, parts, no if position is None else position, n, t, dilation, left,
        RATE=rate, R=0 if ring is None else ring.shape[1], K=k, C=c, O=o, ACT=activation,
        BIAS=bias is not None, RESIDUAL=residual is not None, BOTH=both, BM=cut.BM, BN=cut.BN, BK=cut.BK, SK=cut.SK,
        STAGES=cut.STAGES, UP=INTERPRETED, num_warps=cut.num_warps,
        **overlap(),
    )  # fmt: skip
    if cut.SK > 1:
        bm = min(128, power_of_two(o))
        add_parts_kernel[(divide_up(n, 4), divide_up(o, bm))](
            parts, no if bias is None else bias, no if scale is None else scale, no if residual is None else residual,
            y, z, n, O=o, ACT=activation, BIAS=bias is not None, RESIDUAL=residual is not None, BOTH=both, BM=bm, BN=4,
            SK=cut.SK, num_warps=4, **overlap(),
        )  # fmt: skip
    return y, z


@torch.library.custom_op("myna::causal_conv", mutates_args=("ring",))
def _causal_conv(
    x: Tensor, ring: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None,
    residual: Tensor | None, dilation: int, rate: int, activation: int,
) -> Tensor:  # fmt: skip
    return launch(x, ring, position, weight, bias, scale, residual, dilation, rate, 0, activation, False)[0]


@_causal_conv.register_fake
def _(x, ring, position, weight, bias, scale, residual, dilation, rate, activation):
    return x.new_empty(x.shape[0], x.shape[1], weight.shape[1])


@torch.library.custom_op("myna::conv_rows", mutates_args=())
def _conv_rows(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, residual: Tensor | None, dilation: int,
    left: int, activation: int, both: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return launch(x, None, None, weight, bias, scale, residual, dilation, 1, left, activation, both)


@_conv_rows.register_fake
def _(x, weight, bias, scale, residual, dilation, left, activation, both):
    y = x.new_empty(x.shape[0], x.shape[1], weight.shape[1])
    return y, torch.empty_like(y) if both else x.new_empty(0)


def causal_conv(
    x: Tensor,
    ring: Tensor,
    position: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: int = 1,
    rate: int = 1,
    activation: Activation = "none",
    scale: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """x (B, T, C) -> (B, T, O); x goes into the ring (B, R, C).

    position: (B,) whole numbers, which the caller moves on; this layer has seen `rate` frames for each.
    weight: (K, O, C).   scale: (O,), what the activation needs.   residual: (B, T, O), added before the activation.
    """
    return _causal_conv(
        x, ring, position, weight, bias, scale, residual, dilation, rate, _ACTIVATIONS[activation]
    )


def conv_rows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: int = 1,
    left: int = 0,
    activation: Activation = "none",
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    both: bool = False,
) -> tuple[Tensor, Tensor]:
    """A whole signal x (B, T, C) -> (B, T, O), `left` frames of zeros before it and as many after it as are needed.

    both: the result before the activation and after it; otherwise only after it, and the second tensor is empty.
    """
    return _conv_rows(x, weight, bias, scale, residual, dilation, left, _ACTIVATIONS[activation], both)
