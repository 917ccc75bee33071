"""Linear layers on a few rows: the weight is read once, at the speed of memory, and all around it is done on the way.

    y = [residual +] [scale *] (W norm(x) + b)      or  silu(gate) * up  with W = [gate; up]

Rows are few in a streaming step (a frame of each stream), so the product is one of a matrix with vectors: no tensor
cores, but as many loads under way as there are registers for. `norm_linear_rows` keeps the normed rows, too.

RMSNorm: Zhang and Sennrich 2019, eq. 4. SwiGLU: Shazeer 2020, eq. 6. Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

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
    tl,
    triton,
    wait_for_last,
)

MOST_ROWS = 64  # above, a product with the tensor cores reads the weight less often


def linear_rows_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gain: Tensor | None = None,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    gated: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """x (N, I), weight (O, I) -> (N, O), or (N, O / 2) when gated. gain (I,): an RMS norm before; scale (O,)."""
    if gain is not None:
        x = F.rms_norm(x, (x.shape[-1],), gain.to(x.dtype), eps)
    y = F.linear(x, weight, None if bias is None else bias.to(x.dtype))
    if gated:
        gate, up = y.chunk(2, dim=-1)
        y = F.silu(gate) * up
    if scale is not None:
        y = y * scale.to(x.dtype)
    return y if residual is None else residual + y


def supports(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear_rows` may be used, and pays: on a GPU, dense, one dtype, up to 64 rows."""
    return (
        runs_on(x, weight)
        and x.dtype == weight.dtype
        and x.is_contiguous()
        and weight.is_contiguous()
        and not torch.is_grad_enabled()
        and x.shape[0] <= MOST_ROWS
    )


@triton.jit
def linear_rows_kernel(
    x, gain, w, bias, scale, residual, y, normed, N, eps,
    I: tl.constexpr, O: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, ROWS: tl.constexpr, NORM: tl.constexpr,
    BIAS: tl.constexpr, SCALE: tl.constexpr, RESIDUAL: tl.constexpr, GATED: tl.constexpr, KEEP: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """KEEP: what the norm makes of x goes to `normed`."""
    let_next_start(PDL)
    o = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    acc = tl.zeros((ROWS, BM, BK), dtype=tl.float32)
    up = tl.zeros((ROWS, BM, BK), dtype=tl.float32)
    square = tl.zeros((ROWS, BK), dtype=tl.float32)
    for first in tl.static_range(0, I, BK):
        k = first + tl.arange(0, BK)
        wmask = (o < O)[:, None] & (k < I)[None, :]
        weight = tl.load(w + o[:, None] * I + k[None, :], mask=wmask, other=0.0).to(tl.float32)
        if first == 0:
            wait_for_last(PDL)
        xmask = (n < N)[:, None] & (k < I)[None, :]
        row = tl.load(x + n[:, None] * I + k[None, :], mask=xmask, other=0.0).to(tl.float32)
        if NORM:
            square += row * row
            row = row * tl.load(gain + k, mask=k < I, other=0.0).to(tl.float32)[None, :]
        acc += weight[None, :, :] * row[:, None, :]
        if GATED:
            weight = tl.load(w + (O + o)[:, None] * I + k[None, :], mask=wmask, other=0.0).to(tl.float32)
            up += weight[None, :, :] * row[:, None, :]
    out = tl.sum(acc, 2)
    other = tl.sum(up, 2)
    if NORM:
        size = tl.rsqrt(tl.sum(square, 1) / I + eps)[:, None]
        out = out * size
        other = other * size
        if KEEP and tl.program_id(0) == 0:
            for first in tl.static_range(0, I, BK):
                k = first + tl.arange(0, BK)
                xmask = (n < N)[:, None] & (k < I)[None, :]
                row = tl.load(x + n[:, None] * I + k[None, :], mask=xmask, other=0.0).to(tl.float32)
                row = row * tl.load(gain + k, mask=k < I, other=0.0).to(tl.float32)[None, :] * size
                tl.store(normed + n[:, None] * I + k[None, :], row.to(normed.dtype.element_ty), mask=xmask)
    if BIAS:
        out += tl.load(bias + o, mask=o < O, other=0.0).to(tl.float32)[None, :]
        if GATED:
            other += tl.load(bias + O + o, mask=o < O, other=0.0).to(tl.float32)[None, :]
    if GATED:
        out = out / (1.0 + tl.exp(-out)) * other
    if SCALE:
        out = out * tl.load(scale + o, mask=o < O, other=0.0).to(tl.float32)[None, :]
    at = n[:, None] * O + o[None, :]
    mask = (n < N)[:, None] & (o < O)[None, :]
    if RESIDUAL:
        out += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + at, out.to(y.dtype.element_ty), mask=mask)


def tile(rows: int, inputs: int, outputs: int, matrices: int = 1) -> tuple[int, int, int]:
    """(BM, BK, ROWS): about one program for each multiprocessor, and registers for what they load."""
    at_once = 1 if rows == 1 else 2 if rows == 2 else 4
    bk = min(power_of_two(inputs), 512)
    room = 8192 // (bk * at_once * matrices)
    bm = max(1, min(room, power_of_two(divide_up(outputs, 132)), 16))
    return bm, bk, at_once


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None, scale: Tensor | None,
    residual: Tensor | None, gated: bool, eps: float, normed: Tensor | None,
) -> Tensor:  # fmt: skip
    n, i = x.shape
    o = weight.shape[0] // 2 if gated else weight.shape[0]
    y = x.new_empty(n, o)
    bm, bk, rows = tile(n, i, o, 2 if gated else 1)
    if INTERPRETED:
        bm = max(bm, min(power_of_two(o), 64))
    linear_rows_kernel[(divide_up(o, bm), divide_up(n, rows))](
        x, y if gain is None else gain, weight, y if bias is None else bias, y if scale is None else scale,
        y if residual is None else residual, y, y if normed is None else normed, n, eps, I=i, O=o, BM=bm, BK=bk,
        ROWS=rows, NORM=gain is not None, BIAS=bias is not None, SCALE=scale is not None,
        RESIDUAL=residual is not None, GATED=gated, KEEP=normed is not None, num_warps=4, **overlap(),
    )  # fmt: skip
    return y


@torch.library.custom_op("myna::linear_rows", mutates_args=())
def _linear_rows(
    x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None, scale: Tensor | None,
    residual: Tensor | None, gated: bool, eps: float,
) -> Tensor:  # fmt: skip
    return _launch(x, weight, bias, gain, scale, residual, gated, eps, None)


@_linear_rows.register_fake
def _(x, weight, bias, gain, scale, residual, gated, eps):
    return x.new_empty(x.shape[0], weight.shape[0] // 2 if gated else weight.shape[0])


def linear_rows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gain: Tensor | None = None,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    gated: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """As `linear_rows_reference`."""
    return _linear_rows(x, weight, bias, gain, scale, residual, gated, eps)


def norm_linear_rows_reference(
    x: Tensor, gain: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """x (N, I), gain (I,), weight (O, I) -> W norm(x) + b (N, O), and norm(x) (N, I), an RMS norm."""
    normed = F.rms_norm(x, (x.shape[-1],), gain.to(x.dtype), eps)
    return F.linear(normed, weight, None if bias is None else bias.to(x.dtype)), normed


@torch.library.custom_op("myna::norm_linear_rows", mutates_args=())
def _norm_linear_rows(
    x: Tensor, gain: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    normed = torch.empty_like(x)
    return _launch(x, weight, bias, gain, None, None, False, eps, normed), normed


@_norm_linear_rows.register_fake
def _(x, gain, weight, bias, eps):
    return x.new_empty(x.shape[0], weight.shape[0]), torch.empty_like(x)


def norm_linear_rows(
    x: Tensor, gain: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """As `norm_linear_rows_reference`."""
    return _norm_linear_rows(x, gain, weight, bias, eps)
