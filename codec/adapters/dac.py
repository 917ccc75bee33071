"""DAC's checkpoints: the original `.pth` package and Hugging Face's safetensors.

Original                                 Hugging Face                         here
encoder.block.0.weight_g                 encoder.conv1.weight                 encoder.layers.0.weight
encoder.block.1.block.2.block.0.alpha    encoder.block.0.res_unit3.snake1.*   encoder.layers.1.layers.2...
encoder.block.1.block.4.weight_v         encoder.block.0.conv1.weight         encoder.layers.1.layers.4.weight
decoder.model.1.block.1.weight_v         decoder.block.0.conv_t1.weight       decoder.layers.1.layers.1.weight
decoder.model.6.bias                     decoder.conv2.bias                   decoder.layers.6.bias
quantizer.quantizers.0.codebook.weight   the same                             quantizer.codebooks.0...
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data.checkpoint import load_strictly
from ...errors import InputError
from ..dac import DAC, DAC_16K, DAC_24K, DAC_44K, DAC_44K_16KBPS, DACConfig
from .weights import fold_weight_norm

_QUANTIZER = re.compile(r"quantizer\.quantizers\.(\d+)\.(.+)")
_ORIGINAL = re.compile(r"(encoder\.block|decoder\.model)\.(\d+)\.(?:block\.(\d+)\.)?(?:block\.(\d+)\.)?(\w+)")
_HF_UNIT = re.compile(r"(encoder|decoder)\.block\.(\d+)\.res_unit(\d)\.(snake1|conv1|snake2|conv2)\.(\w+)")
_HF_BLOCK = re.compile(r"(encoder|decoder)\.block\.(\d+)\.(snake1|conv1|conv_t1)\.(\w+)")
_HF_OUTER = re.compile(r"(encoder|decoder)\.(conv1|snake1|conv2)\.(\w+)")
_IN_UNIT = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}
_PUBLISHED = (DAC_44K, DAC_44K_16KBPS, DAC_24K, DAC_16K)


def is_dac(keys: Mapping[str, Any]) -> bool:
    """Whether the keys are a DAC's, original or Hugging Face."""
    return any(_QUANTIZER.fullmatch(key) for key in keys)


def adapt_dac(weights: Mapping[str, Tensor], path: str | Path, sample_rate: int | None = None) -> DAC:
    """The model of a checkpoint, on the CPU, ready to run.

    Dimensions are read off the weights. `sample_rate` comes from the file's own metadata; without it, it is
    that of the published model with the same strides and codebooks. Raises InputError for weights that do not
    fit.
    """
    folded = fold_weight_norm(weights)
    n_blocks = 1 + max((int(m[2]) for key in folded if (m := _HF_BLOCK.fullmatch(key))), default=-1)
    renamed = {_rename(key, n_blocks, path): value for key, value in folded.items()}
    model = DAC(_config(renamed, sample_rate, path))
    load_strictly(model, renamed, path)
    return model.eval()


def _rename(key: str, n_blocks: int, path: str | Path) -> str:
    if m := _QUANTIZER.fullmatch(key):
        return f"quantizer.codebooks.{m[1]}.{m[2]}"
    if m := _HF_UNIT.fullmatch(key):
        unit = int(m[3]) + (-1 if m[1] == "encoder" else 1)
        return f"{m[1]}.layers.{int(m[2]) + 1}.layers.{unit}.body.layers.{_IN_UNIT[m[4]]}.{m[5]}"
    if m := _HF_BLOCK.fullmatch(key):
        place = {"encoder": {"snake1": 3, "conv1": 4}, "decoder": {"snake1": 0, "conv_t1": 1}}[m[1]].get(m[3])
        return f"{m[1]}.layers.{int(m[2]) + 1}.layers.{place}.{m[4]}"
    if m := _HF_OUTER.fullmatch(key):
        return f"{m[1]}.layers.{ {'conv1': 0, 'snake1': n_blocks + 1, 'conv2': n_blocks + 2}[m[2]] }.{m[3]}"
    if m := _ORIGINAL.fullmatch(key):
        stem = f"{m[1].split('.')[0]}.layers.{m[2]}."
        stem += f"layers.{m[3]}." if m[3] else ""
        stem += f"body.layers.{m[4]}." if m[4] else ""
        return stem + m[5]
    raise InputError(f"{path}: {key} is no part of a DAC; give a DAC checkpoint")


def _config(weights: Mapping[str, Tensor], sample_rate: int | None, path: str | Path) -> DACConfig:
    """Dimensions from renamed weights."""
    try:
        n = max(int(key.split(".")[2]) for key in weights if key.startswith("encoder.layers.")) - 2
        rates = tuple(weights[f"encoder.layers.{i}.layers.4.weight"].shape[-1] // 2 for i in range(1, n + 1))
        up_rates = tuple(
            weights[f"decoder.layers.{i}.layers.1.weight"].shape[-1] // 2 for i in range(1, n + 1)
        )
        encoder_dim = weights["encoder.layers.0.weight"].shape[0]
        decoder_dim, latent_dim, _ = weights["decoder.layers.0.weight"].shape
        codebook_size, codebook_dim = weights["quantizer.codebooks.0.codebook.weight"].shape
        n_codebooks = sum(key.endswith(".codebook.weight") for key in weights)
        like = (rates, latent_dim, n_codebooks)
        published = next(
            (c for c in _PUBLISHED if (c.encoder_rates, c.latent_dim, c.n_codebooks) == like), None
        )
        if sample_rate is None:
            if published is None:
                raise InputError(f"{path}: a DAC of unknown sample rate; keep its config.json beside it")
            sample_rate = published.sample_rate
        name = published.name if published else f"dac-{sample_rate // 1000}k"
        return DACConfig(
            name=name,
            sample_rate=sample_rate,
            encoder_dim=encoder_dim,
            encoder_rates=rates,
            latent_dim=latent_dim,
            decoder_dim=decoder_dim,
            decoder_rates=up_rates,
            n_codebooks=n_codebooks,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: a DAC checkpoint without {error}: it is incomplete, download it again"
        ) from None
