"""Batch-invariant linear layers: a row gives the same numbers in a batch of any size.

Two things make a row depend on the others: 8-bit products that quantise their input with one scale a call, and float
products, whose order of summation follows the shape. Here every row gets a scale of its own and is quantised in the
same range; sums in 32-bit integers are exact. Small float products are summed row by row.

Shapes: B rows, I channels in, O channels out.
"""

from __future__ import annotations

import copy
from typing import Any, Optional, cast

import torch
from torch import Tensor, nn

from ...kernels.bf16 import Bf16Linear
from ...kernels.int8 import Int8Linear, Packed, compiled

_SMALL = 4096  # weights of a float product that is summed row by row


def _row_product(
    x: Tensor,
    scale: float,
    zero: int,
    packed: Packed,  # pyright: ignore[reportInvalidTypeForm]
    bias: Optional[Tensor],  # noqa: UP045 (TorchScript knows no other form)
) -> Tensor:
    """x (..., I), each row quantised in the range of its own largest value -> (..., O)."""
    size = x.abs().amax(-1, True)  # `vector_norm` takes five times as long for 24 rows
    # Of a row of zeros any integers: they are multiplied by zero.
    y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(x / size, scale, zero, packed)
    y.mul_(size)  # one after the other: `addcmul` of these shapes takes twice as long
    return y if bias is None else y.add_(bias)


class RowExactInt8(nn.Module):
    """`Int8Linear` with the same weights, one scale a row of x."""

    def __init__(self, linear: Int8Linear):
        super().__init__()
        weight, bias = torch.ops.quantized.linear_unpack(linear._packed)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._packed = torch.ops.quantized.linear_prepack(weight, None)
        self._bias = bias if linear._bias is None else linear._bias
        self._reduce_range = linear._reduce_range
        # Of the range from -1 to 1, as `linear_dynamic` chooses them.
        self._scale, self._zero = (2 / 127, 64) if self._reduce_range else (2 / 255, 128)
        # Where the products of a given range are missing, a last row of -1 and 1 sets it.
        self._limits: Tensor | None = None
        self._product = compiled(_row_product)
        try:
            self(torch.zeros(1, self.in_features))
        except RuntimeError:
            self._limits = torch.zeros(1, self.in_features)
            self._limits[0, :2] = torch.tensor([-1.0, 1.0])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Without a look for hooks, which takes as long as an operation: nobody hangs any on this copy."""
        return self.forward(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O)."""
        if self._limits is None:
            return self._product(x, self._scale, self._zero, self._packed, self._bias)
        size = x.abs().amax(-1, True)
        y = self._between_limits(x / size.clamp(min=1e-12)).mul_(size)
        return y if self._bias is None else y.add_(self._bias)

    def _between_limits(self, x: Tensor) -> Tensor:
        """The product of rows that lie between -1 and 1."""
        rows = torch.cat([x.reshape(-1, self.in_features), cast(Tensor, self._limits)])
        y = torch.ops.quantized.linear_dynamic(rows, self._packed, self._reduce_range)[:-1]
        return y.reshape(*x.shape[:-1], self.out_features)


class RowExactLinear(nn.Module):
    """A small float `nn.Linear`."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O)."""
        y = (x.unsqueeze(-2) * self.linear.weight).sum(-1)
        return y if self.linear.bias is None else y + self.linear.bias


def row_exact(model: nn.Module) -> nn.Module:
    """A copy of what `for_inference` made, its linear layers as above; it shares the other weights. Large float
    layers (where there is no 8-bit engine, and on a GPU) and those in bf16 stay: their rows agree to rounding."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    shared |= {id(part): part for part in model.modules() if isinstance(part, Int8Linear | Bf16Linear)}
    return _converted(copy.deepcopy(model, shared))


def _converted(module: nn.Module) -> nn.Module:
    if isinstance(module, Int8Linear):
        return RowExactInt8(module)
    if isinstance(module, nn.Linear) and module.weight.numel() < _SMALL:
        return RowExactLinear(module)
    for name, child in module.named_children():
        setattr(module, name, _converted(child))
    return module
