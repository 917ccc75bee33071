"""Matrices for products in every precision that a CPU layer may have, by name.

Shapes: n rows, I inputs, O outputs.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor, nn

from .bf16 import Bf16Matrix
from .conv1d import PackedMatrix, supports
from .int8 import Int8Linear, int8_engine
from .packed import packed
from .precision import Precision


class Int8Matrix(PackedMatrix):
    """As `PackedMatrix`, weights in 8 bits with a scale an output, rows in 8 bits with a scale each."""

    @cached_property
    def _narrow(self) -> Int8Linear:
        return Int8Linear(self._matrix.t(), None, str(int8_engine()), by_row=True)

    def product(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        y = self._narrow(rows.contiguous())
        return y if bias is None else y.add_(bias)


MATRICES: dict[Precision, type[PackedMatrix]] = {
    "float32": PackedMatrix,
    "bf16": Bf16Matrix,
    "int8": Int8Matrix,
}


def linear(layer: nn.Linear, x: Tensor, precision: Precision) -> Tensor:
    """layer(x), x (..., I) -> (..., O); in another precision than its own where that is for inference on a CPU."""
    if precision == "float32" or not supports(x, layer.weight):
        return layer(x)
    matrix = packed(layer, precision, layer.weight, lambda weight: MATRICES[precision](weight.t()))
    y = matrix.product(x.reshape(-1, x.shape[-1]), layer.bias)
    return y.view(*x.shape[:-1], layer.out_features)
