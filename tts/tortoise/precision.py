"""The matrices of the networks, smaller than they were published.

    float32    as published
    half       CPU: weights in 16 bits, sums in float32 (the autoregressive network).  GPU: bfloat16
    int8       CPU: weights in 8 bits with a scale a row, inputs too (the autoregressive network)
    bfloat16   CPU: weights and inputs, sums in float32, where the processor has instructions for them; many candidates
               side by side take less than in half.  The diffusion decoder follows it.  GPU: as half

The autoregressive network is nine tenths of the work and reads all of its weights for every code: there the width of a
weight is the time that a code takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...kernels.float_linear import HalfLinear
from ...kernels.int8 import Int8Linear, int8_engine
from .model.autoregressive import Autoregressive

Precision = Literal["float32", "half", "int8", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "half", "int8", "bfloat16")

M = TypeVar("M", bound=nn.Module)


def for_inference(
    model: M,
    precision: Precision,
    device: str | torch.device = "cpu",
    reread: Callable[[], Mapping[str, Tensor]] | None = None,
) -> M:
    """The network on its device in a precision, changed in place, block by block, so that no two copies of it are ever
    in memory.

    reread: the same weights, mapped from their file anew. What is read of a mapping counts as memory until the mapping
    goes: with one for every block that is a block. Raises UsageError for 8 bits where this machine has no products for
    them.
    """
    check_precision(precision)
    device = torch.device(device)
    if device.type != "cpu":
        model.to(device)
        return model.bfloat16() if precision in ("half", "bfloat16") else model
    if not isinstance(model, Autoregressive):
        return model.bfloat16() if precision == "bfloat16" else model
    if precision == "float32":
        return model
    for index, block in enumerate(model.blocks):
        weights = model.state_dict() if reread is None else reread()
        for name in ("qkv", "out", "up", "down"):
            _narrow(block, name, f"blocks.{index}.{name}", weights, precision)
    weights = model.state_dict() if reread is None else reread()
    _narrow(model, "code_head", "code_head", weights, precision)
    return model


def check_precision(name: str) -> Precision:
    """Raises UsageError for a name that is none."""
    for known in PRECISIONS:
        if name == known:
            return known
    raise UsageError(f"no precision named {name!r}: choose one of {', '.join(PRECISIONS)}")


class _BFloat16Linear(nn.Module):
    """y = W x + b by oneDNN, W packed in bfloat16, x rounded to it; x and y are float32."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), 16)
        self._bias = bias.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self._packed, self._bias, "none", [], "")
        return y.float()


def _narrow(
    parent: nn.Module, name: str, key: str, weights: Mapping[str, Tensor], precision: Precision
) -> None:
    """Put a narrow matrix in the place of a wide one."""
    weight, bias = weights[f"{key}.weight"].float().contiguous(), weights[f"{key}.bias"].float().clone()
    engine = int8_engine()
    if precision == "int8":
        if engine is None:
            raise UsageError("this machine has no products in 8 bits; choose half or float32")
        setattr(parent, name, Int8Linear(weight, bias, engine, by_row=True))
    elif precision == "bfloat16":
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise UsageError("this processor has no products in bfloat16; choose half, int8 or float32")
        setattr(parent, name, _BFloat16Linear(weight, bias))
    elif "fbgemm" in torch.backends.quantized.supported_engines:
        setattr(parent, name, HalfLinear(weight, bias))
