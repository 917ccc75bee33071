"""A larger `codec.myna` that begins as a smaller one: more codebooks, more latents, a decoder that waits.

Shapes: D latent channels, V codebook_size.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor

from ...codec.myna import MynaCodec, MynaConfig
from ...codec.quantizer import EMACodebook

GROWING = ("n_codebooks", "latent_dim", "look_ahead")
_FRESH = 0.1  # size of new weights beside those that have been learned


@torch.no_grad()
def grown(codec: MynaCodec, config: MynaConfig) -> MynaCodec:
    """`codec` itself where `config` asks for no more of GROWING than it has, else a codec of its other dimensions and
    of `config`'s GROWING that makes nearly the same sound, `look_ahead` frames later.

    The codebooks it had keep their rows, those it had not wait for data (`ResidualVQ.init_rest_from`). Only EMA
    codebooks grow.
    """
    old = codec.config
    more = {name: getattr(config, name) for name in GROWING}
    if old.quantizer != "ema" or not any(more[name] > getattr(old, name) for name in GROWING):
        return codec
    if any(more[name] < getattr(old, name) for name in GROWING):
        return codec
    new = MynaCodec(dataclasses.replace(old, **more))
    d = old.latent_dim
    lift, latents = _ends(new)
    old_lift, old_latents = _ends(codec)
    kept = {name: t for name, t in codec.state_dict().items() if name in new.state_dict()}
    for name, tensor in new.state_dict().items():
        if name in kept and kept[name].shape == tensor.shape:
            tensor.copy_(kept[name])
    latents.linear.weight.mul_(_FRESH)
    latents.linear.weight[:d] = old_latents.linear.weight
    latents.linear.bias.zero_()
    latents.linear.bias[:d] = old_latents.linear.bias
    lift.weight.mul_(_FRESH)
    # The new decoder hears a code `look_ahead` frames before it speaks of it.
    lift.weight[:, :d] = 0
    lift.weight[:, :d, : old_lift.kernel_size] = old_lift.weight
    for book, before in zip(_books(new), _books(codec), strict=False):
        for name in ("embed", "embed_avg"):
            rows: Tensor = getattr(book, name)
            rows.zero_()
            rows[:, :d] = getattr(before, name)
    for book in _books(new)[old.n_codebooks :]:
        book.inited.zero_()
    return new


def _ends(codec: MynaCodec) -> tuple[Any, Any]:
    """The first layer of the decoder, the last of the encoder."""
    return cast("tuple[Any, Any]", (codec.decoder.layers[0], codec.encoder.layers[-1]))


def _books(codec: MynaCodec) -> list[EMACodebook]:
    return cast("list[EMACodebook]", list(codec.quantizer.codebooks))
