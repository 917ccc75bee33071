"""One draw of the AR for each stream, on the GPU: guidance, temperature, top-k, top-p, repetition-aware sampling.

Nothing is sorted. For every code its rank and the probability of all that are likelier are counted against all others,
by as many programs as there are blocks of codes; a second launch looks for the code in which the random number falls.
Top-k is a bound on the rank, top-p one on the probability before. The draw is that of `tts.lm.sampling` for the same
numbers. Options lie in tensors: streams of a batch may differ, and a captured graph serves them all.

Classifier-free guidance: Ho and Salimans 2022, eq. 6. Nucleus: Holtzman et al. 2020. Repetition-aware sampling: Chen
et al. 2024, "VALL-E 2", section 4.2. Shapes: B streams, R rows that guidance compares, V codes, W window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import INTERPRETED, divide_up, power_of_two, runs_on, tl, triton

# Columns of the options (B, 4), float32.
TEMPERATURE, TOP_K, TOP_P, REPETITION = range(4)


def sample_reference(
    logits: Tensor, weights: Tensor, options: Tensor, numbers: Tensor, recent: Tensor, active: Tensor | None = None,
    end: int = -1,
) -> Tensor:  # fmt: skip
    """As `sample`, stream by stream with a sort."""
    codes = []
    for b in range(logits.shape[0]):
        temperature, top_k, top_p, threshold = options[b].tolist()
        row = logits[b, 0] + weights[b].to(logits.dtype) @ (logits[b, :1] - logits[b, 1:])
        values, order = row.sort(descending=True, stable=True)
        if temperature == 0:
            codes.append(int(order[0]))
            continue
        p = torch.softmax(values / temperature, 0)
        kept = p[: int(top_k)] if 0 < top_k < len(p) else p
        before = kept.cumsum(0) - kept
        n = max(1, int((before < top_p * kept.sum()).sum())) if top_p < 1 else len(kept)

        def draw(p: Tensor, u: Tensor) -> int:
            reached = p.cumsum(0)
            return min(int(torch.searchsorted(reached, u * reached[-1], right=True)), len(p) - 1)

        place = draw(kept[:n], numbers[b, 0].to(p.dtype))
        if recent.shape[1] and int(order[place]) != end:
            share = float((recent[b] == order[place]).float().mean())
            if share > threshold:
                place = draw(p, numbers[b, 1].to(p.dtype))
            if active is None or bool(active[b]):
                recent[b] = torch.cat([recent[b, 1:], order[place : place + 1]])
        codes.append(int(order[place]))
    return torch.tensor(codes, device=logits.device)


def supports(logits: Tensor) -> bool:
    """Whether `sample` may be used: on a GPU, codes side by side, up to 4096 of them."""
    return runs_on(logits) and logits.stride(2) == 1 and logits.shape[2] <= 4096


@triton.jit
def guided(logits, weights, b, v, STREAM, ROW, R: tl.constexpr, V: tl.constexpr):
    """Logits of codes v (n,), guided; -1e30 beyond the last."""
    row = tl.load(logits + b * STREAM + v, mask=v < V, other=-1e30).to(tl.float32)
    out = row
    for r in tl.static_range(1, R):
        other = tl.load(logits + b * STREAM + r * ROW + v, mask=v < V, other=-1e30).to(tl.float32)
        out += tl.load(weights + b * (R - 1) + r - 1) * (row - other)
    return out


@triton.jit
def rank_kernel(
    logits, weights, options, rank, before, share, STREAM, ROW, R: tl.constexpr, V: tl.constexpr, VP: tl.constexpr,
    BI: tl.constexpr,
):  # fmt: skip
    """share (B, V): of the likeliest code's probability. STREAM, ROW: logits from those of one stream, or row, to those
    of the next."""
    b = tl.program_id(1)
    i = tl.program_id(0) * BI + tl.arange(0, BI)
    v = tl.arange(0, VP)
    temperature = tl.load(options + b * 4)
    heat = 1.0 / tl.where(temperature > 0, temperature, 1.0)
    every = guided(logits, weights, b, v, STREAM, ROW, R, V)
    own = guided(logits, weights, b, i, STREAM, ROW, R, V)
    top = tl.max(every, 0)
    p = tl.where(v < V, tl.exp((every - top) * heat), 0.0)
    likelier = (every[None, :] > own[:, None]) | (
        (every[None, :] == own[:, None]) & (v[None, :] < i[:, None])
    )
    tl.store(rank + b * V + i, tl.sum(likelier.to(tl.int32), 1), mask=i < V)
    tl.store(before + b * V + i, tl.sum(tl.where(likelier, p[None, :], 0.0), 1), mask=i < V)
    tl.store(share + b * V + i, tl.exp((own - top) * heat), mask=i < V)


@triton.jit
def draw_kernel(
    options, numbers, rank, before, share, recent, active, codes, END, EVERY,
    V: tl.constexpr, VP: tl.constexpr, W: tl.constexpr, WP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """EVERY: numbers between those of one stream and the next."""
    b = tl.program_id(0)
    number = tl.load(numbers + b * EVERY).to(tl.float32)
    v = tl.arange(0, VP)
    at = tl.load(rank + b * V + v, mask=v < V, other=VP)
    prior = tl.load(before + b * V + v, mask=v < V, other=1e30)
    p = tl.load(share + b * V + v, mask=v < V, other=0.0)
    temperature = tl.load(options + b * 4)
    top_k = tl.load(options + b * 4 + 1)
    top_p = tl.load(options + b * 4 + 2)
    most = tl.where(top_k > 0, top_k, VP)
    kept = (at < most) & (v < V)
    mass = tl.sum(tl.where(kept, p, 0.0), 0)
    limit = tl.where(top_p < 1.0, top_p * mass, 1e29)
    kept = kept & ((prior < limit) | (at == 0))
    mass = tl.sum(tl.where(kept, p, 0.0), 0)
    place = tl.max(tl.where(kept & (prior <= number * mass), at, 0), 0)
    place = tl.where(temperature > 0, place, 0)
    code = tl.sum(tl.where(at == place, v, 0), 0)
    if W:
        w = tl.arange(0, WP)
        seen = tl.load(recent + b * W + w, mask=w < W, other=-1)
        later = tl.load(recent + b * W + w + 1, mask=w + 1 < W, other=-1)
        second = tl.load(numbers + b * EVERY + 1).to(tl.float32)
        repeated = tl.sum((seen == code).to(tl.float32), 0) / W > tl.load(options + b * 4 + 3)
        counts = (temperature > 0) & (code != END)
        mass = tl.sum(p, 0)
        again = tl.max(
            tl.where((v < V) & (prior <= second * mass), at, 0),
            0,
        )
        place = tl.where(counts & repeated, again, place)
        code = tl.sum(tl.where(at == place, v, 0), 0)
        if MASKED:
            counts = counts & (tl.load(active + b) != 0)
        tl.debug_barrier()  # all of them have read what is written over
        tl.store(
            recent + b * W + w, tl.where(w + 1 < W, later, code.to(tl.int64)), mask=w < tl.where(counts, W, 0)
        )
    tl.store(codes + b, code.to(tl.int64))


@torch.library.custom_op("myna::sample", mutates_args=("recent",))
def _sample(
    logits: Tensor,
    weights: Tensor,
    options: Tensor,
    numbers: Tensor,
    recent: Tensor,
    active: Tensor | None,
    end: int,
) -> Tensor:
    b, r, v = logits.shape
    rank = logits.new_empty(b, v, dtype=torch.int32)
    before, share = (logits.new_empty(b, v, dtype=torch.float32) for _ in range(2))
    vp, w = power_of_two(v), recent.shape[1]
    bi = 128 if INTERPRETED else max(1, 8192 // vp)
    rank_kernel[(divide_up(v, bi), b)](
        logits, weights, options, rank, before, share, logits.stride(0), logits.stride(1), R=r, V=v, VP=vp, BI=bi,
        num_warps=8,
    )  # fmt: skip
    codes = logits.new_empty(b, dtype=torch.int64)
    draw_kernel[(b,)](
        options, numbers, rank, before, share, recent, recent if active is None else active, codes, end,
        numbers.stride(0), V=v, VP=vp, W=w, WP=power_of_two(max(w, 1)), MASKED=active is not None, num_warps=4,
    )  # fmt: skip
    return codes


@_sample.register_fake
def _(logits, weights, options, numbers, recent, active, end):
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


def sample(
    logits: Tensor, weights: Tensor, options: Tensor, numbers: Tensor, recent: Tensor, active: Tensor | None = None,
    end: int = -1,
) -> Tensor:  # fmt: skip
    """Codes (B,), int64, drawn from logits (B, R, V), which may be columns of a wider table.

    weights: (B, R - 1), guidance less one, float32.   options: (B, 4), float32: temperature (0: the likeliest), top-k
    (0: all), top-p, and the share of the window above which a code is drawn anew.   numbers: (B, 2) in [0, 1), the
    second for the draw anew; in float32 or float64, which may be columns of a wider table; (B, 1) will do for W = 0.
    recent: (B, W) int64, the last codes, oldest first, -1 where there was none; the new one takes its place at their
    end. W = 0: no such check.   active: (B,) bool, streams whose `recent` moves on; None: all.   end: a code that never
    counts as repeated.
    """
    return _sample(logits, weights, options, numbers, recent, active, end)
