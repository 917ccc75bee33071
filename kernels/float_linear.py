"""Matrices for inference on a CPU whose products are those of float32, kept in the order and the width that is fast.

Measured on a core of an EPYC with AVX-512 (milliseconds for `F.linear`, oneDNN's packed order, 16 bits in fbgemm):

    1500 rows, 384 x 1536     19.5   16.6   19.0      compute; with gelu fused 17.6 for about 26
    5 rows, 384 x 1536        0.46   0.48   0.30      out of a cold cache
    5 rows, 384 x 51864       15.3   4.5    2.5       memory
    1 row, 384 x 51864        8.5    5.5    1.4
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# What PyTorch's compiler calls too; not built on every platform.
_PACKS = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)
_TYPICAL = 64  # rows that a weight is packed for; the order is the same for others


def packs(weight: Tensor) -> bool:
    """Whether `PackedLinear` can hold it."""
    return _PACKS and weight.device.type == "cpu" and weight.dtype == torch.float32


def fits_half(weight: Tensor) -> bool:
    """Whether `HalfLinear` can hold it without loss: published checkpoints have been in 16 bits."""
    return (
        "fbgemm" in torch.backends.quantized.supported_engines
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and all(torch.equal(part, part.half().float()) for part in weight.split(4096))
    )


class PackedLinear(nn.Module):
    """y = W x + b, or its gelu, by oneDNN, W packed: for many rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False):
        super().__init__()
        weight = weight.detach().contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL)
        self._bias = None if bias is None else bias.detach()
        self._after = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I), float32, on the CPU -> (..., O)."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, *self._after)


class HalfLinear(nn.Module):
    """y = W x + b with W in 16 bits, which must hold it without loss, x and all products and sums in float32: for
    few rows, whose products are as slow as the weight is long in memory."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            self._packed = torch.ops.quantized.linear_prepack_fp16(weight.detach(), bias)
        finally:
            torch.backends.quantized.engine = before

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I), float32, on the CPU -> (..., O)."""
        return torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
