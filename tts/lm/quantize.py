"""Speech models prepared for inference: constants computed once, int8 weights on a CPU.

One frame at a time, a model is as slow as its weights are long in memory (kernels/int8.py has measurements).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.int8 import Int8Linear, int8_engine
from ...layers.transformer import Block, RMSNorm
from .code_embedding import CodeEmbedding, CodeHead, CodeSumEmbedding

_MIN_WEIGHTS = 4096  # a smaller product takes longer to quantise than to compute


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
