"""The matrices of the networks, smaller than they were published.

    float32    as published
    half       CPU: weights in 16 bits, sums in float32 (the autoregressive network).  GPU: bfloat16
    int8       CPU: weights in 8 bits with a scale a row, inputs too (the autoregressive network)
    bfloat16   weights, inputs and products; fast where the processor has instructions for them

The autoregressive network is nine tenths of the work and reads all of its weights for every code: there the width of a
weight is the time that a code takes.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from torch import nn

from ...errors import UsageError
from ...kernels.float_linear import HalfLinear
from ...kernels.int8 import Int8Linear, int8_engine
from .autoregressive import Autoregressive, Block

Precision = Literal["float32", "half", "int8", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "half", "int8", "bfloat16")

M = TypeVar("M", bound=nn.Module)


def prepare(model: M, precision: Precision, device: str | torch.device = "cpu") -> M:
    """The network on its device in a precision, changed in place; layer by layer, so that no two copies of it are ever
    in memory. Raises UsageError for 8 bits where this machine has no products for them."""
    check_precision(precision)
    device = torch.device(device)
    if device.type != "cpu":
        model.to(device)
        return model.bfloat16() if precision in ("half", "bfloat16") else model
    if precision == "bfloat16":
        return model.bfloat16()
    if precision == "float32" or not isinstance(model, Autoregressive):
        return model
    for block in model.blocks:
        _narrow(block, ("qkv", "out", "up", "down"), precision)
    _narrow(model, ("code_head",), precision)
    return model


def check_precision(name: str) -> Precision:
    """Raises UsageError for a name that is none."""
    for known in PRECISIONS:
        if name == known:
            return known
    raise UsageError(f"no precision named {name!r}: choose one of {', '.join(PRECISIONS)}")


def _narrow(parent: nn.Module | Block, names: tuple[str, ...], precision: Precision) -> None:
    engine = int8_engine()
    if engine is None and precision == "int8":
        raise UsageError("this machine has no products in 8 bits; choose half or float32")
    for name in names:
        linear: Any = getattr(parent, name)
        weight, bias = linear.weight.detach().contiguous(), linear.bias.detach()
        if precision == "int8" and engine is not None:
            setattr(parent, name, Int8Linear(weight, bias, engine, by_row=True))
        elif "fbgemm" in torch.backends.quantized.supported_engines:
            setattr(parent, name, HalfLinear(weight, bias))
