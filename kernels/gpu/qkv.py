"""Before attention, in one launch: RMS norm, queries, keys and values, rotary positions, and the ring of keys written.

    x --> norm --> W --> q: turned                 --> out
                     --> k: turned, v: as they are --> slot position mod S of the cache

A program has both halves of a head's channels that turn together, so nothing is exchanged. One frame a stream.

RMSNorm: Zhang and Sennrich 2019, eq. 4. Rotary positions: Su et al. 2021, eq. 34. Shapes: B streams, W width, H query
heads, G key and value heads, D head width, S slots; the weight's rows are those of `layers.attention.Attention.qkv`.
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


def qkv_reference(
    x: Tensor, gain: Tensor, weight: Tensor, frequencies: Tensor, position: Tensor, n_heads: int, n_kv_heads: int,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """x (B, W), weight ((H + 2 G) D, W), frequencies (D / 2,), position (B,) -> q (B, H, D), k and v (B, G, D)."""
    y = F.linear(F.rms_norm(x, (x.shape[-1],), gain.to(x.dtype), eps), weight)
    q, k, v = y.view(x.shape[0], n_heads + 2 * n_kv_heads, -1).split([n_heads, n_kv_heads, n_kv_heads], 1)
    phase = position[:, None, None] * frequencies.to(
        torch.float64 if x.dtype == torch.float64 else torch.float32
    )
    cos, sin = phase.cos().to(x.dtype), phase.sin().to(x.dtype)

    def turn(z: Tensor) -> Tensor:
        first, second = z.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    return turn(q), turn(k), v


def supports(x: Tensor, weight: Tensor, keys: Tensor) -> bool:
    """Whether `qkv` may be used: on a GPU, dense, one dtype, a width of at most 2048."""
    return (
        runs_on(x, weight, keys)
        and x.dtype == weight.dtype == keys.dtype
        and all(t.is_contiguous() for t in (x, weight, keys))
        and not torch.is_grad_enabled()
        and x.shape[1] <= 2048
        and keys.shape[3] % 2 == 0
    )


@triton.jit
def sine_and_cosine(y):
    """sin(y) and cos(y), as exact as float32 is, for |y| up to some thousands."""
    turns = tl.floor(y * 0.3183098861837907 + 0.5)
    angle = (y - turns * 3.140625) - turns * 9.676535897932795e-4
    z = angle * angle
    p = -2.5050759689e-8 + z * 1.6059043837e-10
    p = 2.7557319224e-6 + z * p
    p = -1.9841269841e-4 + z * p
    p = 8.3333333333e-3 + z * p
    p = -1.6666666667e-1 + z * p
    q = 2.0876756988e-9 - z * 1.1470745598e-11
    q = -2.7557319224e-7 + z * q
    q = 2.4801587302e-5 + z * q
    q = -1.3888888889e-3 + z * q
    q = 4.1666666667e-2 + z * q
    q = -0.5 + z * q
    sign = 1.0 - 2.0 * (turns - 2.0 * tl.floor(turns * 0.5))
    return sign * (angle + angle * z * p), sign * (1.0 + z * q)


@triton.jit
def qkv_kernel(
    x, gain, w, frequencies, position, q, keys, values, N, eps,
    W: tl.constexpr, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, S: tl.constexpr, BM: tl.constexpr,
    BK: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    let_next_start(PDL)
    HALF: tl.constexpr = D // 2
    PARTS: tl.constexpr = (HALF + BM - 1) // BM
    head = tl.program_id(0) // PARTS
    pair = (tl.program_id(0) % PARTS) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    first = tl.zeros((ROWS, BM, BK), dtype=tl.float32)
    second = tl.zeros((ROWS, BM, BK), dtype=tl.float32)
    square = tl.zeros((ROWS, BK), dtype=tl.float32)
    wrow = (head * D + pair)[:, None] * W
    for start in tl.static_range(0, W, BK):
        k = start + tl.arange(0, BK)
        wmask = (pair < HALF)[:, None] & (k < W)[None, :]
        w1 = tl.load(w + wrow + k[None, :], mask=wmask, other=0.0).to(tl.float32)
        w2 = tl.load(w + wrow + (HALF * W + k)[None, :], mask=wmask, other=0.0).to(tl.float32)
        if start == 0:
            wait_for_last(PDL)
        xmask = (n < N)[:, None] & (k < W)[None, :]
        row = tl.load(x + n[:, None] * W + k[None, :], mask=xmask, other=0.0).to(tl.float32)
        square += row * row
        row = row * tl.load(gain + k, mask=k < W, other=0.0).to(tl.float32)[None, :]
        first += w1[None, :, :] * row[:, None, :]
        second += w2[None, :, :] * row[:, None, :]
    size = tl.rsqrt(tl.sum(square, 1) / W + eps)[:, None]
    a = tl.sum(first, 2) * size
    b = tl.sum(second, 2) * size
    at = tl.load(position + n, mask=n < N, other=0).to(tl.int32)
    mask = (n < N)[:, None] & (pair < HALF)[None, :]
    if head < H + G:
        turn = tl.load(frequencies + pair, mask=pair < HALF, other=0.0)
        sin, cos = sine_and_cosine(at.to(tl.float32)[:, None] * turn[None, :])
        c = a * cos - b * sin
        b = b * cos + a * sin
        a = c
    if head < H:
        to = (n * H + head)[:, None] * D + pair[None, :]
        tl.store(q + to, a.to(q.dtype.element_ty), mask=mask)
        tl.store(q + to + HALF, b.to(q.dtype.element_ty), mask=mask)
    else:
        slot = at % S
        if head < H + G:
            to = ((n * G + head - H) * S + slot)[:, None] * D + pair[None, :]
            tl.store(keys + to, a.to(keys.dtype.element_ty), mask=mask)
            tl.store(keys + to + HALF, b.to(keys.dtype.element_ty), mask=mask)
        else:
            to = ((n * G + head - H - G) * S + slot)[:, None] * D + pair[None, :]
            tl.store(values + to, a.to(values.dtype.element_ty), mask=mask)
            tl.store(values + to + HALF, b.to(values.dtype.element_ty), mask=mask)


@torch.library.custom_op("myna::qkv", mutates_args=("keys", "values"))
def _qkv(
    x: Tensor, gain: Tensor, weight: Tensor, frequencies: Tensor, position: Tensor, keys: Tensor, values: Tensor,
    n_heads: int, eps: float,
) -> Tensor:  # fmt: skip
    b, w = x.shape
    _, g, s, d = keys.shape
    q = x.new_empty(b, n_heads, d)
    rows = 1 if b == 1 else 2 if b == 2 else 4
    bk = min(power_of_two(w), 512)
    bm = max(1, min(8192 // (2 * bk * rows), 32 if INTERPRETED else 4, power_of_two(d // 2)))
    grid = (n_heads + 2 * g) * divide_up(d // 2, bm), divide_up(b, rows)
    qkv_kernel[grid](
        x, gain, weight, frequencies, position, q, keys, values, b, eps, W=w, H=n_heads, G=g, D=d, S=s, BM=bm, BK=bk,
        ROWS=rows, num_warps=4, **overlap(),
    )  # fmt: skip
    return q


@_qkv.register_fake
def _(x, gain, weight, frequencies, position, keys, values, n_heads, eps):
    return x.new_empty(x.shape[0], n_heads, keys.shape[3])


def qkv(
    x: Tensor, gain: Tensor, weight: Tensor, frequencies: Tensor, position: Tensor, keys: Tensor, values: Tensor,
    n_heads: int, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """x (B, W) -> turned queries (B, H, D); keys and values (B, G, S, D) get the frame at `position` (B,).

    frequencies: (D / 2,) float32, of `layers.attention.Rotary`.
    """
    return _qkv(x, gain, weight, frequencies, position, keys, values, n_heads, eps)
