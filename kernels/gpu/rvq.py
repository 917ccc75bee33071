"""Residual vector quantisation, all codebooks in one launch; and back.

What is left over stays in registers. Euclidean codebooks (EnCodec, Défossez et al. 2022, section 3.2) take the row with
the greatest 2 r.e - |e|^2; factorized ones (DAC, Kumar et al. 2023, section 3.2) project first and take the unit row
with the greatest product. Either way the chosen row of a table (K, V, D) is taken off: the codebook itself, or the
codebook projected back. In float32 whatever the model's dtype, because the residual of a residual is mostly rounding.

Shapes: B batch, T frames, D latent channels, K codebooks, V codebook_size, d codebook_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .launch import divide_up, let_next_start, overlap, power_of_two, runs_on, tl, triton, wait_for_last


@dataclass(frozen=True)
class PackedCodebooks:
    """rows (K, V, d) to compare with, bias (K, V) added to the products, table (K, V, D) to take off; for factorized
    codebooks, project (K, d, D) and shift (K, d). All float32."""

    rows: Tensor
    bias: Tensor
    table: Tensor
    project: Tensor | None = None
    shift: Tensor | None = None


def pack_euclidean(rows: Tensor) -> PackedCodebooks:
    """rows (K, V, D)."""
    rows = rows.float().contiguous()
    return PackedCodebooks(rows, -0.5 * rows.square().sum(-1), rows)


def pack_factorized(
    rows: Tensor, project: Tensor, shift: Tensor, back: Tensor, back_shift: Tensor
) -> PackedCodebooks:
    """rows (K, V, d), in_proj (K, d, D) and its bias (K, d), out_proj (K, D, d) and its bias (K, D)."""
    table = torch.einsum("kvd,kcd->kvc", rows.double(), back.double()) + back_shift.double()[:, None]
    unit = F.normalize(rows.float(), dim=-1).contiguous()
    zeros = torch.zeros(rows.shape[:2], device=rows.device)
    return PackedCodebooks(
        unit, zeros, table.float().contiguous(), project.float().contiguous(), shift.float().contiguous()
    )


def rvq_encode_reference(x: Tensor, books: PackedCodebooks) -> Tensor:
    """x (N, D) -> codes (N, K)."""
    residual, codes = x.to(books.table.dtype), []
    for k in range(books.rows.shape[0]):
        e = residual
        if books.project is not None and books.shift is not None:
            e = F.linear(residual, books.project[k], books.shift[k])
        codes.append((e @ books.rows[k].t() + books.bias[k]).argmax(-1))
        residual = residual - books.table[k][codes[-1]]
    return torch.stack(codes, dim=-1)


def rvq_decode_reference(codes: Tensor, table: Tensor) -> Tensor:
    """codes (N, k), the first k <= K codebooks, table (K, V, D) -> (N, D)."""
    return torch.stack([table[k][codes[:, k]] for k in range(codes.shape[1])]).sum(0)


def supports(x: Tensor, books: PackedCodebooks) -> bool:
    """Whether `rvq_encode` may be used: on a GPU, dense, up to 1024 latent channels and 256 compared ones."""
    return (
        runs_on(x, books.rows)
        and x.is_contiguous()
        and not torch.is_grad_enabled()
        and x.shape[1] <= 1024
        and books.rows.shape[2] <= 256
    )


@triton.jit
def rvq_encode_kernel(
    x, rows, bias, table, project, shift, codes, N,
    D: tl.constexpr, DP: tl.constexpr, K: tl.constexpr, V: tl.constexpr, E: tl.constexpr, EP: tl.constexpr,
    BN: tl.constexpr, BV: tl.constexpr, PROJECT: tl.constexpr, LARGE: tl.constexpr,
):  # fmt: skip
    """E: channels that are compared, EP that rounded up to a power of two of at least 16 (a tensor core's least)."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    d = tl.arange(0, DP)
    e = tl.arange(0, EP)
    known = (n < N)[:, None] & (d < D)[None, :]
    residual = tl.load(x + n[:, None] * D + d[None, :], mask=known, other=0.0).to(tl.float32)
    for k in range(K):
        if PROJECT:
            w = tl.load(
                project + (k * E + e[None, :]) * D + d[:, None],
                mask=(e < E)[None, :] & (d < D)[:, None],
                other=0.0,
            )
            compared = tl.dot(residual, w, input_precision="ieee")
            compared += tl.load(shift + k * E + e, mask=e < E, other=0.0)[None, :]
        else:
            compared = residual
        best = tl.full((BN,), -LARGE, tl.float32)
        code = tl.zeros((BN,), tl.int32)
        for first in range(0, V, BV):
            v = first + tl.arange(0, BV)
            mask = (v < V)[None, :] & (e < E)[:, None]
            row = tl.load(rows + (k * V + v[None, :]) * E + e[:, None], mask=mask, other=0.0)
            likeness = tl.dot(compared, row, input_precision="ieee")
            likeness += tl.load(bias + k * V + v, mask=v < V, other=-LARGE)[None, :]
            high, at = tl.max(likeness, 1, return_indices=True)
            better = high > best
            code = tl.where(better, at + first, code)
            best = tl.where(better, high, best)
        tl.store(codes + n * K + k, code.to(tl.int64), mask=n < N)
        residual -= tl.load(table + (k * V + code[:, None]) * D + d[None, :], mask=known, other=0.0)


@torch.library.custom_op("myna::rvq_encode", mutates_args=())
def _rvq_encode(
    x: Tensor, rows: Tensor, bias: Tensor, table: Tensor, project: Tensor | None, shift: Tensor | None
) -> Tensor:
    n, d = x.shape
    k, v, e = rows.shape
    codes = x.new_empty(n, k, dtype=torch.int64)
    dp, ep = max(16, power_of_two(d)), max(16, power_of_two(e))
    rvq_encode_kernel[(divide_up(n, 16),)](
        x, rows, bias, table, codes if project is None else project, codes if shift is None else shift, codes, n, D=d,
        DP=dp, K=k, V=v, E=e, EP=ep, BN=16, BV=max(16, min(128, 16384 // ep, power_of_two(v))),
        PROJECT=project is not None, LARGE=1e30, num_warps=8 if dp >= 512 else 4,
    )  # fmt: skip
    return codes


@_rvq_encode.register_fake
def _(x, rows, bias, table, project, shift):
    return x.new_empty(x.shape[0], rows.shape[0], dtype=torch.int64)


def rvq_encode(x: Tensor, books: PackedCodebooks) -> Tensor:
    """x (N, D) -> codes (N, K), as `rvq_encode_reference`."""
    return _rvq_encode(x, books.rows, books.bias, books.table, books.project, books.shift)


@triton.jit
def rvq_decode_kernel(
    codes, table, y, K: tl.constexpr, V: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    let_next_start(PDL)
    wait_for_last(PDL)
    n = tl.program_id(0)
    d = tl.arange(0, DP)
    acc = tl.zeros((DP,), tl.float32)
    for k in tl.static_range(K):
        code = tl.load(codes + n * K + k)
        acc += tl.load(table + (k * V + code) * D + d, mask=d < D, other=0.0).to(tl.float32)
    tl.store(y + n * D + d, acc.to(y.dtype.element_ty), mask=d < D)


@torch.library.custom_op("myna::rvq_decode", mutates_args=())
def _rvq_decode(codes: Tensor, table: Tensor) -> Tensor:
    n, k = codes.shape
    _, v, d = table.shape
    codes = codes.contiguous()
    y = table.new_empty(n, d)
    rvq_decode_kernel[(n,)](codes, table, y, K=k, V=v, D=d, DP=power_of_two(d), num_warps=1, **overlap())
    return y


@_rvq_decode.register_fake
def _(codes, table):
    return table.new_empty(codes.shape[0], table.shape[2])


def rvq_decode(codes: Tensor, table: Tensor) -> Tensor:
    """As `rvq_decode_reference`."""
    return _rvq_decode(codes, table)
