"""Speech models made ready to generate: what never changes computed once, and the weights in 8 bits on a CPU.

One frame at a time, a model is as slow as its weights are long in memory. Measured on one core of an EPYC with AVX-512,
the four products of a layer of width 320 for one frame: float32 0.40 ms, bfloat16 0.30 ms, 8-bit weights with bfloat16
inputs (torch's int8pack) 0.06 ms, 8-bit weights and inputs (fbgemm) 0.05 ms, for three rows too. The last is used.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.transformer import Block, RMSNorm
from .code_embedding import CodeEmbedding, CodeHead, CodeSumEmbedding

_ENGINES = ("fbgemm", "x86", "qnnpack")  # the first that this build of torch has
_MIN_WEIGHTS = 4096  # a smaller product takes longer to quantise than to compute


def int8_engine() -> str | None:
    """The library for products in 8 bits on this machine's CPU, None where there is none."""
    supported = torch.backends.quantized.supported_engines
    return next((engine for engine in _ENGINES if engine in supported), None)


class Int8Linear(nn.Module):
    """y = W x + b with W in 8 bits, one scale a row, and x quantised as it comes (one scale a call)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, engine: str):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        scale = weight.abs().amax(dim=1).clamp(min=1e-8).double() / 127
        zero = torch.zeros(len(weight), dtype=torch.long)
        rows = torch.quantize_per_channel(weight.float(), scale, zero, 0, torch.qint8)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            self._packed = torch.ops.quantized.linear_prepack(rows, None if bias is None else bias.float())
        finally:
            torch.backends.quantized.engine = before
        # Without VNNI pairs of products saturate in 16 bits unless the inputs leave a bit free.
        self._reduce_range = not _has_vnni()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features), float32, on the CPU -> (..., out_features)."""
        return torch.ops.quantized.linear_dynamic(x, self._packed, self._reduce_range)


class CodeSums(nn.Module):
    """`CodeSumEmbedding` with its table computed."""

    table: Tensor

    def __init__(self, table: Tensor):
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, codes: Tensor, n_known: Tensor | int | None = None) -> Tensor:
        return CodeSumEmbedding.sum(self.table, codes, n_known)

    def few(self, codes: Tensor) -> Tensor:
        return CodeSumEmbedding.sum(self.table, codes)


class UnitNorm(nn.Module):
    """x over its length: an RMSNorm whose gain has moved into the matrix that follows."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return F.normalize(x, dim=-1)


@torch.no_grad()
def prepare(model: nn.Module, int8: bool = True) -> nn.Module:
    """A copy of a model (or of a part) for generation, in evaluation mode: the code embeddings and heads as plain
    tables and matrices, and with `int8` every larger matrix in 8 bits, where the CPU can multiply them.

    The copy shares the weights it leaves as they are; it is not for training or saving.
    """
    engine = int8_engine() if int8 and next(model.parameters()).device.type == "cpu" else None
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    prepared = copy.deepcopy(model, shared).eval()
    return _prepared(prepared, engine)


def _prepared(module: nn.Module, engine: str | None) -> nn.Module:
    if isinstance(module, CodeHead):
        return _linear(module.matrix(), module.bias.detach(), engine)
    if isinstance(module, CodeEmbedding):
        return nn.Embedding.from_pretrained(module.table())
    if isinstance(module, CodeSumEmbedding):
        return CodeSums(module.table())
    if isinstance(module, nn.Linear):
        bias = None if module.bias is None else module.bias.detach()
        return _linear(module.weight.detach(), bias, engine)
    if isinstance(module, Block):
        _fold_norm(module, "norm1", module.attention.qkv)
        _fold_norm(module, "norm2", module.feed_forward.gate_up)
    for name, child in module.named_children():
        setattr(module, name, _prepared(child, engine))
    return module


def _fold_norm(block: Block, name: str, into: nn.Linear) -> None:
    """Three operations of torch instead of twelve."""
    norm: RMSNorm = getattr(block, name)
    if norm.adapt is None:
        gain = norm.weight * norm.weight.numel() ** 0.5
        into.weight = nn.Parameter(into.weight * gain, requires_grad=False)
        setattr(block, name, UnitNorm())


def _linear(weight: Tensor, bias: Tensor | None, engine: str | None) -> nn.Module:
    if engine is not None and weight.numel() >= _MIN_WEIGHTS:
        return Int8Linear(weight, bias, engine)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _has_vnni() -> bool:
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(supported and supported())
