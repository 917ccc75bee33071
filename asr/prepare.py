"""A Whisper made ready for inference: one matrix for the projections of an input, and with int8 the matrices in 8 bits.

The tables of the embeddings and the convolutions stay as they are, and so do the products of the attention.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..layers.int8 import Int8Linear, int8_engine
from .whisper import MultiHeadAttention, TextDecoder, Whisper


class FusedAttention(nn.Module):
    """`MultiHeadAttention` whose query, key and value (or, towards the features, key and value) are one product."""

    def __init__(self, attention: MultiHeadAttention, cross: bool, engine: str | None):
        super().__init__()
        self.n_heads = attention.n_heads
        parts = (
            [attention.key, attention.value] if cross else [attention.query, attention.key, attention.value]
        )
        weight = torch.cat([part.weight.detach() for part in parts])
        no_bias = weight.new_zeros(attention.key.weight.shape[0])
        bias = torch.cat([no_bias if part.bias is None else part.bias.detach() for part in parts])
        self.inputs = _linear(weight, bias, engine)
        if cross:
            self.query = _linear(attention.query.weight.detach(), attention.query.bias.detach(), engine)
        self.out = _linear(attention.out.weight.detach(), attention.out.bias.detach(), engine)

    heads = MultiHeadAttention.heads
    merge = MultiHeadAttention.merge
    forward = MultiHeadAttention.forward

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.inputs(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.inputs(x).unflatten(-1, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return key, value


class Head(nn.Module):
    """Logits by the table of the embedding, whose products are as slow as it is long in memory."""

    def __init__(self, weight: Tensor, engine: str | None):
        super().__init__()
        self.product = _linear(weight, None, engine)

    def forward(self, x: Tensor) -> Tensor:
        """x (R, D) or (R, T, D) -> (..., V)."""
        product = self.product
        if isinstance(product, nn.Linear) and x.ndim == 2 and 1 < len(x) <= _FEW:
            return (product.weight @ x.mT).mT.contiguous()
        return product(x)


# Up to so many rows oneDNN's product of the transposes takes half the time (5 rows of tiny.en: 7 ms for 15 ms).
_FEW = 16


@torch.no_grad()
def prepare(model: Whisper, int8: bool = False) -> Whisper:
    """A copy for inference, in evaluation mode; it shares the weights it leaves as they are. In float32 on a CPU it has
    a `draft`, its decoder in 8 bits.

    int8: matrices in 8 bits, the inputs of their products quantised row by row. Raises UsageError where the model is
    not float32 on a CPU, or torch has no such products for it.
    """
    engine = int8_engine() if int8 else None
    if int8 and (engine is None or model.device.type != "cpu" or model.dtype != torch.float32):
        raise UsageError(
            "8-bit products need a float32 model on a CPU that torch knows them for; use float32"
        )
    ready = copy.deepcopy(model, _shared(model)).eval()
    for parameter in ready.parameters():
        parameter.requires_grad_(False)
    if not int8 and model.device.type == "cpu" and model.dtype == torch.float32 and int8_engine() is not None:
        ready._draft.append(
            _decoder_for_inference(copy.deepcopy(model.decoder, _shared(model)), int8_engine())
        )
    _make_ready(ready.encoder, engine)
    _decoder_for_inference(ready.decoder, engine)
    return ready


def _shared(model: Whisper) -> dict[int, Any]:
    """What a deep copy takes over as it is. A new one each time: copying adds what was copied."""
    kept = [*model.parameters(), *model.buffers(), model.vocabulary]
    return {id(thing): thing for thing in kept}


def _decoder_for_inference(decoder: TextDecoder, engine: str | None) -> TextDecoder:
    table = decoder.token_embedding.weight.detach()
    _make_ready(decoder, engine)
    decoder.head = Head(table, engine)
    return decoder.eval()


def _make_ready(module: nn.Module, engine: str | None) -> None:
    for name, child in module.named_children():
        if isinstance(child, MultiHeadAttention):
            setattr(module, name, FusedAttention(child, name == "cross_attn", engine))
        elif isinstance(child, nn.Linear):
            setattr(module, name, _linear(child.weight.detach(), child.bias.detach(), engine))
        elif not isinstance(child, Head):
            _make_ready(child, engine)


def _linear(weight: Tensor, bias: Tensor | None, engine: str | None) -> nn.Module:
    if engine is not None:
        return Int8Linear(weight, bias, engine, by_row=True)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
