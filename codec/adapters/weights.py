"""What the adapters share: weight normalisation folded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import InputError

Weights = Mapping[str, Tensor]

# How torch's two kinds of weight normalisation name the length (g) and the direction (v) of a weight.
_NORMED = {
    "weight_g": "weight_v",
    "parametrizations.weight.original0": "parametrizations.weight.original1",
}


def fold_weight_norm(weights: Weights) -> dict[str, Tensor]:
    """Replace every pair (g, v) by weight = g v / |v|, the norm over all axes but the first."""
    folded = dict(weights)
    for key in weights:
        for g, v in _NORMED.items():
            if key == g or key.endswith("." + g):
                stem = key[: -len(g)]
                if stem + v not in folded:
                    raise InputError(
                        f"checkpoint has {key} without {stem + v}: it is incomplete, download it again"
                    )
                folded[stem + "weight"] = _fold(folded.pop(stem + v), folded.pop(key))
    return folded


def _fold(v: Tensor, g: Tensor) -> Tensor:
    """In torch's own kernel, so that the weights are the published ones to the last bit; half precision is folded
    in float32, which the models here compute in."""
    return torch._weight_norm(v.float(), g.float(), 0)  # pyright: ignore[reportPrivateImportUsage]
