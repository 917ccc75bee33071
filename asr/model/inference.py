"""A Whisper made ready for inference: one matrix for the projections of an input, and the matrices as they are fast.

On a CPU: in float32 the encoder's in oneDNN's order, the decoder's in 16 bits where they fit without loss; with bf16
or int8 all of them in that. The embeddings' tables and the convolutions stay as they are, and so do the products of
the attention.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...kernels.bf16 import Bf16Linear
from ...kernels.float_linear import HalfLinear, PackedLinear, fits_half, packs
from ...kernels.int8 import Int8Linear, int8_engine
from ...kernels.precision import Precision
from .whisper import MultiHeadAttention, TextDecoder, Whisper

_Make = Callable[[Tensor, "Tensor | None"], nn.Module]  # a linear layer of a weight and a bias


class FusedAttention(nn.Module):
    """`MultiHeadAttention` whose query, key and value (or, towards the features, key and value) are one product."""

    def __init__(self, attention: MultiHeadAttention, cross: bool, make: _Make):
        super().__init__()
        self.n_heads = attention.n_heads
        parts = (
            [attention.key, attention.value] if cross else [attention.query, attention.key, attention.value]
        )
        weight = torch.cat([part.weight.detach() for part in parts])
        no_bias = weight.new_zeros(attention.key.weight.shape[0])
        bias = torch.cat([no_bias if part.bias is None else part.bias.detach() for part in parts])
        many = cross and make is _half  # the features are many rows
        self.inputs = (_packed if many else make)(weight, bias)
        if cross:
            self.query = make(attention.query.weight.detach(), attention.query.bias.detach())
        self.out = make(attention.out.weight.detach(), attention.out.bias.detach())

    heads = MultiHeadAttention.heads
    merge = MultiHeadAttention.merge
    forward = MultiHeadAttention.forward

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.inputs(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.inputs(x).unflatten(-1, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return key, value


class PackedMlp(nn.Module):
    """The two matrices of a block, with the gelu between them in the first one's product."""

    def __init__(self, mlp: nn.Sequential):
        super().__init__()
        first, _, last = cast("tuple[nn.Linear, nn.GELU, nn.Linear]", tuple(mlp))
        self.wide = PackedLinear(first.weight, first.bias, gelu=True)
        self.narrow = PackedLinear(last.weight, last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.wide(x))


@torch.no_grad()
def for_inference(model: Whisper, precision: Precision = "float32") -> Whisper:
    """A copy for inference, in evaluation mode; it shares the weights it leaves as they are. On a CPU it has a `draft`,
    its decoder in 8 bits, unless that is what it is made of.

    precision: float32 (on a GPU: as the model is); bf16: inputs and matrices rounded; int8: matrices in 8 bits, the
    inputs of their products quantised row by row. Raises UsageError for the last two where the model is not float32 on
    a CPU, and where torch has no products in 8 bits.
    """
    engine, int8 = int8_engine(), precision == "int8"
    if precision == "bf16" and (model.device.type != "cpu" or model.dtype != torch.float32):
        raise UsageError("bf16 products need a float32 model on a CPU; use float32")
    if int8 and (engine is None or model.device.type != "cpu" or model.dtype != torch.float32):
        raise UsageError(
            "8-bit products need a float32 model on a CPU that torch knows them for; use float32"
        )
    ready = copy.deepcopy(model, _shared(model)).eval()
    for parameter in ready.parameters():
        parameter.requires_grad_(False)
    on_cpu = model.device.type == "cpu" and model.dtype == torch.float32
    if on_cpu and engine is not None and not int8:
        ready._draft.append(
            _decoder_for_inference(
                copy.deepcopy(model.decoder, _shared(model)), partial(_int8, engine=engine)
            )
        )
    if int8:
        assert engine is not None
        encoding = decoding = partial(_int8, engine=engine)
    elif precision == "bf16":
        encoding = decoding = Bf16Linear
    else:
        encoding, decoding = (_packed, _half) if on_cpu else (_plain, _plain)
    _make_ready(ready.encoder, encoding)
    _decoder_for_inference(ready.decoder, decoding)
    return ready


def _shared(model: Whisper) -> dict[int, Any]:
    """What a deep copy takes over as it is. A new one each time: copying adds what was copied."""
    kept = [*model.parameters(), *model.buffers(), model.vocabulary]
    return {id(thing): thing for thing in kept}


def _decoder_for_inference(decoder: TextDecoder, make: _Make) -> TextDecoder:
    table = decoder.token_embedding.weight.detach()
    _make_ready(decoder, make)
    decoder.head = make(
        table, None
    )  # the embedding's table, whose products are as slow as it is long in memory
    return decoder.eval()


def _make_ready(module: nn.Module, make: _Make) -> None:
    for name, child in module.named_children():
        if isinstance(child, MultiHeadAttention):
            setattr(module, name, FusedAttention(child, name == "cross_attn", make))
        elif isinstance(child, nn.Linear):
            setattr(
                module, name, make(child.weight.detach(), None if child.bias is None else child.bias.detach())
            )
        elif (
            isinstance(child, nn.Sequential) and make is _packed and packs(cast("nn.Linear", child[0]).weight)
        ):
            setattr(module, name, PackedMlp(child))
        else:
            _make_ready(child, make)


def _plain(weight: Tensor, bias: Tensor | None) -> nn.Module:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _packed(weight: Tensor, bias: Tensor | None) -> nn.Module:
    return PackedLinear(weight, bias) if packs(weight) else _plain(weight, bias)


def _half(weight: Tensor, bias: Tensor | None) -> nn.Module:
    return HalfLinear(weight, bias) if fits_half(weight) else _packed(weight, bias)


def _int8(weight: Tensor, bias: Tensor | None, engine: str) -> nn.Module:
    return Int8Linear(weight, bias, engine, by_row=True)
