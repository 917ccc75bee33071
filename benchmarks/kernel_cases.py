"""What `benchmarks/kernels.py` checks and times: each kernel on shapes that the models have, beside PyTorch.

A case makes its inputs, runs the fused operation and PyTorch's on them, and counts the bytes that must move and the
operations that must be done. `eager` works in any precision: in float64 it is what both are measured against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from myna.kernels.gpu import (
    causal_conv,
    conv_transpose,
    convnext,
    decode_attention,
    flash_attention,
    linear_rows,
    pointer_move,
    qkv,
    residual_unit,
    rvq,
    sampling,
    snake,
    token_moves,
)
from torch import Tensor

F32, BF16 = torch.float32, torch.bfloat16
SHORT = {F32: "fp32", BF16: "bf16"}


@dataclass(frozen=True)
class Make:
    """Inputs on a device: random numbers, or, to record launches on a CPU, memory that nobody looks at."""

    device: str
    dtype: torch.dtype
    random: bool = True

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or self.dtype
        if not self.random:
            return torch.empty(shape, dtype=dtype, device=self.device)
        return (torch.randn(shape, device=self.device) * scale).to(dtype)

    def weight(self, *shape: int, fan: int) -> Tensor:
        return self.normal(*shape, scale=fan**-0.5)

    def vector(self, n: int, scale: float = 0.1) -> Tensor:
        return self.normal(n, scale=scale, dtype=F32)

    def positive(self, *shape: int) -> Tensor:
        if not self.random:
            return torch.empty(shape, device=self.device)
        return torch.rand(shape, device=self.device) + 0.3

    def position(self, batch: int, at: int) -> Tensor:
        return torch.full((batch,), at, dtype=torch.int64, device=self.device)


@dataclass(frozen=True)
class Case:
    """name: with its shapes.   precision: "fp32" or "bf16".   make: inputs, a tuple of tensors and whatever else.
    fused, eager: of these inputs, to a tensor or a tuple of them.   bytes, flops: the least that must be moved and
    done.   indices: the result is of whole numbers, and counts as wrong where they differ."""

    name: str
    precision: str
    make: Callable[[Make], tuple[Any, ...]]
    fused: Callable[..., Any]
    eager: Callable[..., Any]
    bytes: float
    flops: float
    indices: bool = False


def upcast(value: Any) -> Any:
    """The same in float64, dataclasses of tensors too; not in place."""
    if isinstance(value, Tensor):
        return value.to(torch.float64, copy=True) if value.is_floating_point() else value.clone()
    if isinstance(value, tuple | list):
        return type(value)(upcast(v) for v in value)
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(*(upcast(getattr(value, f.name)) for f in fields(value)))
    return value


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in `dtype`: PyTorch's operations want one."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(*(cast(getattr(value, f.name), dtype) for f in fields(value)))
    return value


def past_of(ring: Tensor, position: Tensor, frames: int) -> Tensor:
    """The `frames` frames before `position`, (B, frames, C), from a ring."""
    at = position[:, None] + torch.arange(-frames, 0, device=ring.device)
    rows = ring[torch.arange(len(ring), device=ring.device)[:, None], at % ring.shape[1]]
    return rows * (at >= 0)[..., None]


def unit_weights(make: Make, c: int) -> residual_unit.UnitWeights:
    w1, w2 = make.weight(7, c, c, fan=7 * c), make.weight(c, c, fan=c)
    return residual_unit.UnitWeights(
        make.positive(c), w1, make.vector(c), make.positive(c), w2, make.vector(c)
    )


def convnext_weights(make: Make, c: int, e: int) -> convnext.ConvNeXtWeights:
    return convnext.ConvNeXtWeights(
        make.normal(7, c, scale=0.4, dtype=F32), make.vector(c), make.positive(c), make.vector(c),
        make.weight(e, c, fan=c), make.vector(e), make.positive(e), make.weight(c, e, fan=e), make.vector(c),
        make.positive(c),
    )  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them, the ones that matter most first."""
    for dtype in (BF16, F32):
        size, precision = dtype.itemsize, SHORT[dtype]
        yield _snake(dtype, size, precision)
        yield _snake_training(dtype, size, precision)
        yield _unit_step(dtype, precision, c=64, t=320)
        yield from (
            _unit_step(dtype, precision, c=c, t=t) for c, t in ((96, 320), (192, 160)) if dtype == BF16
        )
        yield _conv_step(dtype, precision, c=512, t=8, k=7, d=9)
        yield _transpose(dtype, precision, c=384, o=256, t=1, stride=2)
        yield _transpose(dtype, precision, c=768, o=384, t=8, stride=5)
        yield _convnext(dtype, precision, b=1, c=384, t=1)
        yield _convnext(dtype, precision, b=8, c=256, t=2)
        yield _qkv(dtype, precision)
        yield _swiglu(dtype, precision)
        yield _heads(dtype, precision)
        yield _attention(dtype, precision, b=1)
        yield _attention(dtype, precision, b=16)
        yield _prefill(dtype, precision, b=1, h=4, g=2, t=1024, d=80)
        yield _prefill(dtype, precision, b=8, h=8, g=8, t=2048, d=64)
        if dtype == BF16:
            yield _unit_rows(c=192, t=4096)
            yield _unit_rows(c=192, t=8192)
            yield _conv_rows(c=768, t=512)
            yield _conv_rows(c=384, t=4096)
    yield _rvq_euclidean()
    yield _rvq_factorized()
    yield _sample()
    yield _move()
    yield _token_moves()


# Ways to cut a convolution, tried on these shapes: (frames, channels, kernel) of DAC's stages and of a streaming step.
CUT_SHAPES = [(512, 768, 7), (4096, 384, 7), (16384, 192, 7), (512, 768, 1), (8, 512, 7), (1, 384, 2)]
CUTS = [
    causal_conv.Blocks(128, 128, 64, 1, 3, 8), causal_conv.Blocks(128, 128, 64, 1, 4, 4),
    causal_conv.Blocks(128, 64, 64, 1, 4, 4), causal_conv.Blocks(64, 128, 64, 1, 4, 4),
    causal_conv.Blocks(64, 64, 64, 1, 4, 4), causal_conv.Blocks(128, 256, 64, 1, 3, 8),
]  # fmt: skip
FEW_CUTS = [
    causal_conv.Blocks(16, 16, 64, 1, 4, 4), causal_conv.Blocks(16, 16, 128, 1, 4, 4),
    causal_conv.Blocks(32, 16, 64, 4, 4, 4), causal_conv.Blocks(32, 16, 128, 8, 4, 4),
    causal_conv.Blocks(16, 16, 64, 4, 5, 2), causal_conv.Blocks(64, 16, 64, 14, 4, 4),
]  # fmt: skip


def cut(shape: tuple[int, int, int], blocks: causal_conv.Blocks, make: Make) -> Callable[[], Any]:
    """A convolution of this shape that is cut in this way."""
    t, c, k = shape
    x, weight, bias = make.normal(1, t, c), make.weight(k, c, c, fan=k * c), make.vector(c)

    def run() -> Any:
        real, causal_conv.blocks = causal_conv.blocks, lambda *_: blocks
        try:
            return causal_conv.conv_rows(x, weight, bias, 1, k // 2)
        finally:
            causal_conv.blocks = real

    return run


def cuts(capability: tuple[int, int]) -> Iterator[tuple[tuple[int, int, int], causal_conv.Blocks]]:
    """On a GPU of this compute capability. Before Hopper more than 64 sums a thread do not fit the registers."""
    most = 64 if capability < (9, 0) else 128
    for shape in CUT_SHAPES:
        for blocks in CUTS if shape[0] > 64 else FEW_CUTS:
            sums = blocks.BM * blocks.BN / (32 * blocks.num_warps)
            if sums <= most:
                yield shape, blocks


def _snake(dtype: torch.dtype, size: int, precision: str) -> Case:
    b, c, t = 8, 256, 32768
    return Case(
        f"snake {b}x{c}x{t}", precision, lambda m: (m.normal(b, c, t, scale=2), m.positive(c)), snake.snake,
        lambda x, alpha: snake.snake_reference(x, alpha.to(x.dtype)), 2 * b * c * t * size, 20 * b * c * t,
    )  # fmt: skip


def _snake_training(dtype: torch.dtype, size: int, precision: str) -> Case:
    b, c, t = 8, 128, 32768

    def run(function: Callable[..., Tensor], x: Tensor, alpha: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            x, alpha = x.detach().requires_grad_(), alpha.detach().requires_grad_()
            y = function(x, alpha)
            return y.detach(), *torch.autograd.grad(y, (x, alpha), g)

    return Case(
        f"snake and its gradient {b}x{c}x{t}", precision,
        lambda m: (m.normal(b, c, t, scale=2), m.positive(c), m.normal(b, c, t)),
        lambda x, alpha, g: run(snake.snake, x, alpha, g),
        lambda x, alpha, g: run(lambda x, a: snake.snake_reference(x, a.to(x.dtype)), x, alpha, g),
        5 * b * c * t * size, 60 * b * c * t,
    )  # fmt: skip


def _unit_step(dtype: torch.dtype, precision: str, c: int, t: int, d: int = 9) -> Case:
    slots = residual_unit.slots(7, d, t)

    def eager(x: Tensor, ring: Tensor, at: Tensor, w: residual_unit.UnitWeights) -> Tensor:
        bent, w = past_of(ring, at, 6 * d), cast(w, x.dtype)
        new = x + (w.alpha1 + 1e-9).reciprocal() * torch.sin(w.alpha1 * x).square()
        window = torch.cat([bent, new], 1).transpose(1, 2)
        h = torch.nn.functional.conv1d(window, w.weight1.permute(1, 2, 0), w.bias1, dilation=d).transpose(
            1, 2
        )
        h = h + (w.alpha2 + 1e-9).reciprocal() * torch.sin(w.alpha2 * h).square()
        return x + torch.nn.functional.linear(h, w.weight2, w.bias2)

    return Case(
        f"residual unit, step C{c} T{t} D{d}", precision,
        lambda m: (m.normal(1, t, c), m.normal(1, slots, c), m.position(1, 1000), unit_weights(m, c)),
        lambda x, ring, at, w: residual_unit.residual_unit(x, ring, at, w, d), eager,
        (8 * c * c + 3 * t * c + 6 * d * c) * dtype.itemsize, 16 * t * c * c,
    )  # fmt: skip


def _unit_rows(c: int, t: int, d: int = 9) -> Case:
    def eager(x: Tensor, w: residual_unit.UnitWeights) -> Tensor:
        x = x.transpose(1, 2)
        w = cast(w, x.dtype)
        h = snake.snake_reference(x, w.alpha1)
        h = torch.nn.functional.conv1d(h, w.weight1.permute(1, 2, 0), w.bias1, padding=3 * d, dilation=d)
        h = snake.snake_reference(h, w.alpha2)
        return (x + torch.nn.functional.conv1d(h, w.weight2[..., None], w.bias2)).transpose(1, 2)

    def fused(x: Tensor, w: residual_unit.UnitWeights) -> Tensor:
        bent = snake.snake(x, w.alpha1, 2)
        return residual_unit.residual_unit_rows(x, w, d, 3 * d, bent)[0]

    return Case(
        f"residual unit, whole C{c} T{t} D{d}", "bf16", lambda m: (m.normal(1, t, c), unit_weights(m, c)), fused, eager,
        (8 * c * c + 4 * t * c) * 2, 16 * t * c * c,
    )  # fmt: skip


def _conv_rows(c: int, t: int, d: int = 3) -> Case:
    def eager(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        w = w.permute(1, 2, 0)
        y = torch.nn.functional.conv1d(x.transpose(1, 2), w, bias.to(x.dtype), padding=3 * d, dilation=d)
        return y.transpose(1, 2)

    return Case(
        f"convolution, whole C{c} T{t} K7", "bf16",
        lambda m: (m.normal(1, t, c), m.weight(7, c, c, fan=7 * c), m.vector(c)),
        lambda x, w, bias: causal_conv.conv_rows(x, w, bias, d, 3 * d)[0], eager,
        (7 * c * c + 2 * t * c) * 2, 14 * t * c * c,
    )  # fmt: skip


def _conv_step(dtype: torch.dtype, precision: str, c: int, t: int, k: int, d: int) -> Case:
    slots = causal_conv.slots(k, d, t)

    def eager(x: Tensor, ring: Tensor, at: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return causal_conv.causal_conv_reference(past_of(ring, at, (k - 1) * d), x, w, bias.to(x.dtype), d)

    return Case(
        f"split-K convolution, step C{c} T{t} K{k}", precision,
        lambda m: (
            m.normal(1, t, c), m.normal(1, slots, c), m.position(1, 999), m.weight(k, c, c, fan=k * c), m.vector(c)
        ),
        lambda x, ring, at, w, bias: causal_conv.causal_conv(x, ring, at, w, bias, d), eager,
        (k * c * c + (3 * t + (k - 1) * d) * c) * dtype.itemsize, 2 * k * t * c * c,
    )  # fmt: skip


def _transpose(dtype: torch.dtype, precision: str, c: int, o: int, t: int, stride: int) -> Case:
    slots = causal_conv.slots(2, 1, t)

    def make(m: Make) -> tuple[Any, ...]:
        weight, bias = m.weight(c, o, 2 * stride, fan=2 * c), m.vector(o)
        return m.normal(1, t, c), m.normal(1, slots, c), m.position(1, 77), weight, bias

    packs: dict[int, conv_transpose.PackedTranspose] = {}

    def fused(x: Tensor, ring: Tensor, at: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        key = weight.data_ptr()
        if key not in packs:
            packs[key] = conv_transpose.pack(weight, bias, stride)
        return conv_transpose.conv_transpose(x, ring, at, packs[key])

    def eager(x: Tensor, ring: Tensor, at: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv_transpose.conv_transpose_reference(
            past_of(ring, at, 1), x, weight, bias.to(x.dtype), stride
        )

    return Case(
        f"transposed conv, step {c}>{o} x{stride} T{t}", precision, make, fused, eager,
        (2 * stride * c * o + t * (c + stride * o)) * dtype.itemsize, 4 * t * stride * c * o,
    )  # fmt: skip


def _convnext(dtype: torch.dtype, precision: str, b: int, c: int, t: int) -> Case:
    def eager(x: Tensor, ring: Tensor, at: Tensor, w: convnext.ConvNeXtWeights) -> Tensor:
        return convnext.convnext_reference(past_of(ring, at, 6), x, cast(w, x.dtype))

    return Case(
        f"ConvNeXt, step B{b} C{c} T{t}", precision,
        lambda m: (m.normal(b, t, c), m.normal(b, 8, c), m.position(b, 500), convnext_weights(m, c, 3 * c)),
        convnext.convnext, eager, (6 * c * c + b * (8 + 2 * t) * c) * dtype.itemsize, 12 * b * t * c * c,
    )  # fmt: skip


def _qkv(dtype: torch.dtype, precision: str, w: int = 320, h: int = 4, g: int = 2, s: int = 2048) -> Case:
    d = w // h

    def make(m: Make) -> tuple[Any, ...]:
        frequencies = 10_000.0 ** -(torch.arange(0, d, 2, device=m.device) / d)
        keys, values = (m.normal(1, g, s, d) for _ in range(2))
        weight = m.weight((h + 2 * g) * d, w, fan=w)
        return m.normal(1, w), m.positive(w), weight, frequencies, m.position(1, 700), keys, values

    def fused(x, gain, weight, frequencies, at, keys, values) -> tuple[Tensor, Tensor, Tensor]:
        q = qkv.qkv(x, gain, weight, frequencies, at, keys, values, h)
        return q, keys[:, :, 700], values[:, :, 700]

    def eager(x, gain, weight, frequencies, at, keys, values) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.qkv_reference(x, gain, weight, frequencies, at, h, g)
        keys[:, :, 700], values[:, :, 700] = k, v
        return q, keys[:, :, 700], values[:, :, 700]

    return Case(
        f"RMSNorm, QKV, RoPE W{w}", precision, make, fused, eager, (h + 2 * g) * d * (w + 1) * dtype.itemsize,
        2 * (h + 2 * g) * d * w,
    )  # fmt: skip


def _swiglu(dtype: torch.dtype, precision: str, w: int = 320, e: int = 640) -> Case:
    return Case(
        f"RMSNorm, gate and up, SwiGLU {w}>{e}", precision,
        lambda m: (m.normal(1, w), m.weight(2 * e, w, fan=w), m.positive(w)),
        lambda x, weight, gain: linear_rows.linear_rows(x, weight, gain=gain, gated=True),
        lambda x, weight, gain: linear_rows.linear_rows_reference(x, weight, gain=gain, gated=True),
        2 * e * w * dtype.itemsize, 4 * e * w,
    )  # fmt: skip


def _heads(dtype: torch.dtype, precision: str, n: int = 3, w: int = 320, o: int = 1128) -> Case:
    def make(m: Make) -> tuple[Any, ...]:
        return m.normal(n, w), m.positive(w), m.weight(o, w, fan=w), m.vector(o)

    return Case(
        f"RMSNorm that is kept, heads {w}>{o} N{n}", precision, make, linear_rows.norm_linear_rows,
        linear_rows.norm_linear_rows_reference, (o * w + n * (2 * w + o)) * dtype.itemsize, 2 * n * o * w,
    )  # fmt: skip


def _attention(
    dtype: torch.dtype, precision: str, b: int, h: int = 4, g: int = 2, d: int = 80, s: int = 2048
) -> Case:
    return Case(
        f"decode attention B{b} S{s} H{h} G{g} D{d}", precision,
        lambda m: (m.normal(b, h, d), m.normal(b, g, s, d), m.normal(b, g, s, d), m.position(b, s + 100)),
        decode_attention.decode_attention, decode_attention.decode_attention_reference,
        2 * b * g * s * d * dtype.itemsize, 4 * b * h * s * d,
    )  # fmt: skip


def _prefill(dtype: torch.dtype, precision: str, b: int, h: int, g: int, t: int, d: int) -> Case:
    return Case(
        f"flash attention B{b} H{h} T{t} D{d}", precision,
        lambda m: (m.normal(b, h, t, d), m.normal(b, g, t, d), m.normal(b, g, t, d)),
        lambda q, k, v: flash_attention.flash_attention(q, k, v, True),
        lambda q, k, v: flash_attention.flash_attention_reference(q, k, v, True),
        (2 * h + 2 * g) * b * t * d * dtype.itemsize, 2 * b * h * t * t * d,
    )  # fmt: skip


def _rvq_euclidean(n: int = 750, d: int = 128, k: int = 8, v: int = 1024) -> Case:
    return Case(
        f"RVQ encode N{n} D{d} K{k}", "fp32",
        lambda m: (m.normal(n, d), rvq.pack_euclidean(m.normal(k, v, d))), rvq.rvq_encode, rvq.rvq_encode_reference,
        (k * v * d + n * d) * 4, 2 * n * k * v * d, True,
    )  # fmt: skip


def _rvq_factorized(n: int = 860, d: int = 1024, k: int = 9, v: int = 1024, e: int = 8) -> Case:
    def make(m: Make) -> tuple[Any, ...]:
        rows, into = m.normal(k, v, e), m.weight(k, e, d, fan=d)
        shift, back = m.normal(k, e, scale=0.1), m.weight(k, d, e, fan=e)
        if not m.random:
            return m.normal(n, d), rvq.PackedCodebooks(rows, m.normal(k, v), m.normal(k, v, d), into, shift)
        return m.normal(n, d), rvq.pack_factorized(rows, into, shift, back, m.normal(k, d, scale=0.1))

    return Case(
        f"RVQ encode N{n} D{d} K{k} d{e}", "fp32", make, rvq.rvq_encode, rvq.rvq_encode_reference,
        (k * v * (e + 2) + n * (k + 1) * d) * 4, 2 * n * k * (v * e + d * e), True,
    )  # fmt: skip


def _sample(b: int = 4, r: int = 2, v: int = 1024) -> Case:
    def make(m: Make) -> tuple[Any, ...]:
        options = torch.tensor([[0.9, 0, 0.9, 0.5]], device=m.device).repeat(b, 1)
        recent = torch.full((b, 10), -1, dtype=torch.int64, device=m.device)
        numbers = torch.rand(b, 2, dtype=torch.float64, device=m.device)
        active = torch.ones(b, dtype=torch.bool, device=m.device)
        return m.normal(b, r, v, scale=2), m.positive(b, r - 1), options, numbers, recent, active

    return Case(
        f"sampling step B{b} R{r} V{v}", "fp32", make, sampling.sample, sample_with_sort, b * (r + 3) * v * 4,
        3 * b * v * v, True,
    )  # fmt: skip


def sample_with_sort(
    logits: Tensor,
    weights: Tensor,
    options: Tensor,
    numbers: Tensor,
    recent: Tensor,
    active: Tensor | None = None,
) -> Tensor:
    """`kernels.gpu.sampling.sample` in PyTorch without synchronising: a sort, two sums, two searches."""
    row = logits[:, 0] + torch.einsum("br,brv->bv", weights.to(logits.dtype), logits[:, :1] - logits[:, 1:])
    values, order = row.sort(dim=-1, descending=True, stable=True)
    p = torch.softmax(values / options[:, :1].to(values.dtype), -1)
    reached = p.cumsum(-1)
    kept = torch.where(reached - p < options[:, 2:3], p, 0).cumsum(-1)

    def draw(reached: Tensor, u: Tensor) -> Tensor:
        at = torch.searchsorted(reached, (u.to(reached.dtype) * reached[:, -1])[:, None], right=True)
        return order.gather(1, at.clamp(max=order.shape[1] - 1))[:, 0]

    code, again = draw(kept, numbers[:, 0]), draw(reached, numbers[:, 1])
    repeated = (recent == code[:, None]).to(logits.dtype).mean(1) > options[:, 3]
    code = torch.where(repeated, again, code)
    after = torch.cat([recent[:, 1:], code[:, None]], dim=1)
    recent.copy_(after if active is None else torch.where(active[:, None], after, recent))
    return code


def _whole(m: Make, high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, device=m.device)


def _limits(m: Make, s: int, p: int) -> tuple[Tensor, ...]:
    """As `pointer_move.Limits` has them."""
    furthest = 1 + _whole(m, 3, s, p)
    allowed = torch.arange(4, device=m.device) <= furthest[..., None]
    each = torch.rand(2, s, dtype=torch.float64, device=m.device)
    return m.position(s, p - 1), 1 + _whole(m, 30, s, p), furthest, allowed, *each


def _move(s: int = 8, p: int = 256) -> Case:
    def make(m: Make) -> tuple[Any, ...]:
        places = torch.stack([_whole(m, p, s), _whole(m, 4, s)], dim=1)
        fractions = (torch.rand(s, n, dtype=torch.float64, device=m.device) for n in (2, 2))
        return places, *fractions, m.normal(s, 4), *_limits(m, s, p)

    def of(move: Callable[..., Any]) -> Callable[..., Any]:
        return lambda places, spans, numbers, logits, *own: move(
            places, spans, logits, numbers, pointer_move.Limits(*own)
        )

    ours, theirs = of(pointer_move.move), of(pointer_move.move_reference)
    return Case(f"pointer move S{s} P{p}", "fp32", make, ours, theirs, s * 150, s * 60)


def _token_moves(s: int = 8, r: int = 3, p: int = 256, v: int = 1000, c: int = 128, w: int = 320) -> Case:
    a = 32  # ages

    def make(m: Make) -> tuple[Any, ...]:
        places = torch.stack([_whole(m, p, s, 2), _whole(m, 4, s, 2)], dim=-1)
        spans = torch.rand(s, 2, 2, dtype=torch.float64, device=m.device)
        speech = m.normal(s, r, w), m.position(s * r, 700), places, spans
        numbers = torch.rand(s, 4, dtype=torch.float64, device=m.device)
        active = torch.ones(s, dtype=torch.bool, device=m.device)
        sums = (
            m.normal(v, c),
            m.normal(s, p, c),
            m.normal(a, c),
            m.normal(2, c),
            m.weight(4, c, fan=c),
            m.vector(4),
        )
        inputs = m.normal(v, w), m.normal(s, r, 2, p, w), m.normal(2, a, w), m.normal(s, r, w)
        return _whole(m, v, s), m.normal(s, c), numbers, active, *speech, *sums, *inputs, *_limits(m, s, p)

    def of(function: Callable[..., Tensor]) -> Callable[..., Any]:
        def run(
            token: Tensor, said: Tensor, numbers: Tensor, active: Tensor, *rest: Tensor
        ) -> tuple[Tensor, ...]:
            speech = token_moves.Speech(*rest[:4])
            head, inputs = token_moves.HeadTables(*rest[4:10]), token_moves.InputTables(*rest[10:14])
            now = function(
                token, said, numbers, active, speech, head, inputs, pointer_move.Limits(*rest[14:])
            )
            return now, *speech

        return run

    ours, theirs = of(token_moves.token_moves), of(token_moves.token_moves_reference)
    moved = s * 4 * (10 * c + 2 * w + r * 4 * w) + s * 300
    return Case(f"moves after a token S{s} R{r}", "fp32", make, ours, theirs, moved, s * (30 * c + 4 * r * w))
