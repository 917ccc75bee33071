"""Matrices in 8 bits on a CPU: a quarter of the memory to read, and four products in one instruction (VNNI).

Measured on a core of an EPYC with AVX-512, four products of width 320: float32 0.40 ms, bfloat16 0.30 ms,
8-bit weights with bfloat16 inputs (torch's int8pack) 0.06 ms, 8-bit weights and inputs (fbgemm) 0.05 ms, 3 rows too;
1536 x 384 for 1500 rows: float32 19 ms, fbgemm 5.4 ms, oneDNN 4.8 ms, which needs 0.042 ms for one row, fbgemm 0.027.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

_ENGINES = ("fbgemm", "x86", "qnnpack")  # the first that this build of torch has


def int8_engine() -> str | None:
    """The library for products in 8 bits on this machine's CPU, None where there is none."""
    supported = torch.backends.quantized.supported_engines
    return next((engine for engine in _ENGINES if engine in supported), None)


Packed = torch.classes.quantized.LinearPackedParamsBase
# Where torch has no TorchScript any more, or the source of a function is not at hand.
_NO_SCRIPT = (RuntimeError, NotImplementedError, TypeError, OSError, AttributeError)


Result = TypeVar("Result")


@cache
def compiled(function: Callable[..., Result]) -> Callable[..., Result]:
    """A few operations without Python between them, nor its lock: where weights are packed, torch looks in Python at
    what every argument of a call may be, which takes as long as a small product. As it is where there is no
    TorchScript."""
    with warnings.catch_warnings():  # torch is going to drop it, and has nothing as fast for small operations
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return torch.jit.script(function)
        except _NO_SCRIPT:
            return function


def _product(x: Tensor, packed: Packed, reduce_range: bool) -> Tensor:  # pyright: ignore[reportInvalidTypeForm]
    """x (..., I), quantised in the range of all of it -> (..., O)."""
    return torch.ops.quantized.linear_dynamic(x, packed, reduce_range)


class Int8Linear(nn.Module):
    """y = W x + b with W in 8 bits, one scale a row, and x quantised as it comes (one scale a call).

    by_row: rows of x are brought to the same size before, which gives each its own scale, so that one loud row does
    not coarsen the others.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, engine: str, by_row: bool = False):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        scale = torch.linalg.vector_norm(weight, torch.inf, dim=1).clamp(min=1e-8).double() / 127
        zero = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():  # torch is going to drop it, and has nothing as fast on a CPU yet
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            rows = torch.quantize_per_channel(weight.float(), scale, zero, 0, torch.qint8)
        # Rows brought to one size get the bias after they have got theirs back.
        self._bias = bias.float() if by_row and bias is not None else None
        inside = bias.float() if not by_row and bias is not None else None
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            self._packed = torch.ops.quantized.linear_prepack(rows, inside)
        finally:
            torch.backends.quantized.engine = before
        self._by_row = by_row
        # Without VNNI pairs of products saturate in 16 bits unless the inputs leave a bit free.
        self._reduce_range = not _has_vnni()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features), float32, on the CPU -> (..., out_features)."""
        product = compiled(_product)
        if not self._by_row or x.numel() == self.in_features:
            y = product(x, self._packed, self._reduce_range)
            return y if self._bias is None else y.add_(self._bias)
        size = x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12)
        y = product(x / size, self._packed, self._reduce_range)
        return y.mul_(size) if self._bias is None else torch.addcmul(self._bias, y, size)


def _has_vnni() -> bool:
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(supported and supported())
