"""Matrices in bfloat16 on a CPU, inputs and results in float32: two to five times float32's speed where the processor
multiplies bfloat16 (AMX, AVX512-BF16), through oneDNN.

Inputs and weights are rounded to 8 bits, products are summed in float32, and the sums are rounded once more, because
oneDNN gives back what it was given. Each rounding is 56 dB below what is rounded. A processor without the instructions
computes the same numbers from rounded float32 (the order of summation aside), at float32's speed or less: that is for
those who want to hear what bfloat16 does, and for tests. `kernels.precision` says when it pays.

Shapes: n rows, I inputs, O outputs.
"""

from __future__ import annotations

from functools import cache, cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv1d import PackedMatrix

_TYPICAL = 64  # rows that a weight is packed for; the order is the same for others


@cache
def is_native() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor, and as it should: asked once, with a small product."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if not (torch.backends.mkldnn.is_available() and supported is not None and supported()):
        return False
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(n, 48, generator=generator) for n in (5, 32))
    try:
        ours = _native(rows, torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), _TYPICAL))
    except RuntimeError:  # a build that lacks what it says it has
        return False
    return torch.allclose(ours, product_reference(rows, weight), rtol=0.02, atol=0.02)


def rounded(x: Tensor) -> Tensor:
    """The nearest numbers of bfloat16, in float32."""
    return x.bfloat16().float()


def product_reference(rows: Tensor, weight: Tensor) -> Tensor:
    """rows (n, I), weight (O, I), float32 -> (n, O), what bfloat16 makes of them."""
    return rounded(F.linear(rounded(rows), rounded(weight)))


def _native(rows: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows.bfloat16(), packed, None, "none", [], "").float()


class Bf16Matrix(PackedMatrix):
    """As `PackedMatrix`, multiplied in bfloat16; the bias is added in float32."""

    @cached_property
    def _narrow(self) -> Tensor:
        weight = self._matrix.t().contiguous()
        if is_native():
            return torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), _TYPICAL)
        return rounded(weight)

    def taken(self, x: Tensor) -> Tensor:
        return x.bfloat16() if is_native() else x

    def product(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _native(rows, self._narrow) if is_native() else rounded(F.linear(rounded(rows), self._narrow))
        return y if bias is None else y.add_(bias)


class Bf16Linear(nn.Module):
    """y = W x + b, or its gelu, W in bfloat16: half of the memory to read, too."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._matrix = Bf16Matrix(weight.detach().t())
        self._bias, self._gelu = None if bias is None else bias.detach().float(), gelu

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I), float32, on the CPU -> (..., O)."""
        y = self._matrix.product(x.reshape(-1, self.in_features), self._bias)
        y = F.gelu(y) if self._gelu else y
        return y.view(*x.shape[:-1], self.out_features)
