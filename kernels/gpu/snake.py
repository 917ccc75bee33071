"""Snake, x + sin(alpha x)^2 / alpha, in one pass over memory, forward and backward.

Eager PyTorch reads and writes the tensor four times forward. Ziyin et al., "Neural networks fail to learn periodic
functions", 2020, eq. 3; the 1e-9 is DAC's. The gradient of alpha is summed block by block into a table (no atomics, so
the same run gives the same bits), and the table by PyTorch.

Shapes: x of any shape, its channels along `dim`; alpha (C,). Seen as (O, C, I): outer, channels, inner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import divide_up, power_of_two, runs_on, sine_of_double, sine_squared, tl, triton

_TILE = 2048  # numbers a program


def snake_reference(x: Tensor, alpha: Tensor, dim: int = 1) -> Tensor:
    """x (..., C, ...), alpha (C,) -> the shape of x."""
    alpha = alpha.view(-1, *[1] * (x.ndim - 1 - dim % x.ndim))
    return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).square()


def supports(x: Tensor, alpha: Tensor) -> bool:
    """Whether `snake` may be used: dense x, on a GPU."""
    return runs_on(x, alpha) and x.is_contiguous() and 0 < x.numel() < 2**31 and x.shape[0] < 2**16


@triton.jit
def snake_kernel(x, alpha, y, C, I, SC, SI, BC: tl.constexpr, BI: tl.constexpr):
    i = tl.program_id(0) * BI + tl.arange(0, BI)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    at = tl.program_id(2) * C * I + c[:, None] * SC + i[None, :] * SI
    inside = (c < C)[:, None] & (i < I)[None, :]
    a = tl.load(alpha + c, mask=c < C, other=1.0).to(tl.float32)[:, None]
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    v = v + sine_squared(v * a) / (a + 1e-9)
    tl.store(y + at, v.to(y.dtype.element_ty), mask=inside)


@triton.jit
def snake_backward_kernel(x, alpha, g, dx, table, C, I, SC, SI, BC: tl.constexpr, BI: tl.constexpr):
    i = tl.program_id(0) * BI + tl.arange(0, BI)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    at = tl.program_id(2) * C * I + c[:, None] * SC + i[None, :] * SI
    inside = (c < C)[:, None] & (i < I)[None, :]
    a = tl.load(alpha + c, mask=c < C, other=1.0).to(tl.float32)[:, None]
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
    slope = sine_of_double(v * a)
    share = 1.0 / (a + 1e-9)
    tl.store(dx + at, (dy + dy * slope * (a * share)).to(dx.dtype.element_ty), mask=inside)
    da = dy * (v * slope - sine_squared(v * a) * share) * share
    part = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    tl.store(table + part * C + c, tl.sum(da, 1), mask=c < C)


def _launch(x: Tensor, dim: int) -> tuple[tuple[int, int, int], tuple[int, int, int, int], dict[str, int]]:
    """Grid, run-time sizes and block sizes for x with its channels along `dim`."""
    c = x.shape[dim]
    inner = x[(0,) * (dim % x.ndim + 1)].numel()
    outer = x.numel() // (c * inner)
    if inner == 1:  # channels innermost: the rows take the place of the inner axis
        i, sc, si, outer = outer, 1, c, 1
        bc = min(power_of_two(c), 128)
        bi = max(1, min(_TILE // bc, power_of_two(i)))
    else:
        i, sc, si = inner, inner, 1
        bi = min(power_of_two(i), _TILE)
        bc = max(1, min(_TILE // bi, power_of_two(c)))
    grid = divide_up(i, bi), divide_up(c, bc), outer
    return grid, (c, i, sc, si), {"BC": bc, "BI": bi, "num_warps": 4}


@torch.library.custom_op("myna::snake", mutates_args=())
def _snake(x: Tensor, alpha: Tensor, dim: int) -> Tensor:
    y = torch.empty_like(x)
    grid, sizes, blocks = _launch(x, dim)
    snake_kernel[grid](x, alpha, y, *sizes, **blocks)
    return y


@_snake.register_fake
def _(x: Tensor, alpha: Tensor, dim: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("myna::snake_backward", mutates_args=())
def _snake_backward(g: Tensor, x: Tensor, alpha: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    dx, g = torch.empty_like(x), g.contiguous()
    grid, sizes, blocks = _launch(x, dim)
    table = torch.empty(grid[0] * grid[2], x.shape[dim], device=x.device, dtype=torch.float32)
    snake_backward_kernel[grid](x, alpha, g, dx, table, *sizes, **blocks)
    return dx, table.sum(0).to(alpha.dtype)


@_snake_backward.register_fake
def _(g: Tensor, x: Tensor, alpha: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(alpha)


def _save(ctx, inputs, output) -> None:
    x, alpha, ctx.dim = inputs
    ctx.save_for_backward(x, alpha)


def _differentiate(ctx, g: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_snake_backward(g, *ctx.saved_tensors, ctx.dim), None


_snake.register_autograd(_differentiate, setup_context=_save)


def snake(x: Tensor, alpha: Tensor, dim: int = 1) -> Tensor:
    """As `snake_reference`, where `supports` says yes; with gradients."""
    return _snake(x, alpha, dim % x.ndim)
