"""Speech models made ready for inference: constants computed once, weights in 8 or 16 bits on a CPU.

One frame at a time, a model is as slow as its weights are long in memory (kernels/int8.py has measurements).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ...kernels.bf16 import Bf16Linear
from ...kernels.int8 import Int8Linear, int8_engine
from ...kernels.precision import Precision
from ...layers.transformer import Block, RMSNorm
from .code_embedding import CodeEmbedding, CodeHead, CodeSumEmbedding

_MIN_WEIGHTS = 4096  # a smaller product takes longer to quantise than to compute
_Make = Callable[[Tensor, "Tensor | None"], nn.Module]  # a large matrix of a weight and a bias


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
        # As F.normalize, in fewer operations.
        return x / torch.linalg.vector_norm(x, 2, -1, True).clamp_min(1e-12)


@torch.no_grad()
def for_inference(model: nn.Module, precision: Precision = "int8") -> nn.Module:
    """A copy of a model (or of a part) for generation, in evaluation mode: the code embeddings and heads as plain
    tables and matrices, and on a CPU every larger matrix in `precision`; in float32 where torch has no products in 8
    bits.

    The copy shares the weights it leaves as they are; it is not for training or saving.
    """
    make: _Make | None = None
    if next(model.parameters()).device.type == "cpu":
        engine = int8_engine()
        if precision == "int8" and engine is not None:
            make = partial(Int8Linear, engine=engine)
        elif precision == "bf16":
            make = Bf16Linear
    return _prepared(_copied(model, {}).eval(), make)


def folded_gains(model: nn.Module) -> dict[str, Tensor]:
    """The factors (I,) that `for_inference` moves from norms into the matrices behind them, by the names of these: an
    adapter (`layers.lora`) of the model needs them, too."""
    gains = {}
    for name, part in model.named_modules():
        if isinstance(part, Block):
            for norm, into in ((part.norm1, "attention.qkv"), (part.norm2, "feed_forward.gate_up")):
                if norm.adapt is None:
                    gains[f"{name}.{into}"] = _gain(norm)
    return gains


def _copied(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """The tree of modules anew around the same tensors, in a tenth of the time of a deep copy."""
    if id(module) not in copies:
        copies[id(module)] = made = module.__class__.__new__(module.__class__)
        for name, value in vars(module).items():
            made.__dict__[name] = copy.copy(value) if isinstance(value, (dict, list, set)) else value
        for name, child in module._modules.items():
            made._modules[name] = None if child is None else _copied(child, copies)
    return copies[id(module)]


def _prepared(module: nn.Module, make: _Make | None) -> nn.Module:
    if isinstance(module, CodeHead):
        return _linear(module.matrix(), module.bias.detach(), make)
    if isinstance(module, CodeEmbedding):
        return nn.Embedding.from_pretrained(module.table())
    if isinstance(module, CodeSumEmbedding):
        return CodeSums(module.table())
    if isinstance(module, nn.Linear):
        bias = None if module.bias is None else module.bias.detach()
        return _linear(module.weight.detach(), bias, make)
    if isinstance(module, Block):
        _fold_norm(module, "norm1", module.attention.qkv)
        _fold_norm(module, "norm2", module.feed_forward.gate_up)
    for name, child in module.named_children():
        setattr(module, name, _prepared(child, make))
    return module


def _gain(norm: RMSNorm) -> Tensor:
    return norm.weight.detach() * norm.weight.numel() ** 0.5


def _fold_norm(block: Block, name: str, into: nn.Linear) -> None:
    """Three operations of torch instead of twelve."""
    norm: RMSNorm = getattr(block, name)
    if norm.adapt is None:
        into.weight = nn.Parameter(into.weight * _gain(norm), requires_grad=False)
        setattr(block, name, UnitNorm())


def _linear(weight: Tensor, bias: Tensor | None, make: _Make | None) -> nn.Module:
    if make is not None and weight.numel() >= _MIN_WEIGHTS:
        return make(weight, bias)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
