"""What the adapters share: weight normalisation folded, keys renamed, loading that is strict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

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


def load_strictly(model: nn.Module, weights: Weights, path: str | Path) -> None:
    """Load all of the weights and nothing else. Raises InputError naming what differs."""
    own = model.state_dict()
    wrong = [f"missing {key}" for key in own if key not in weights]
    wrong += [f"unknown {key}" for key in weights if key not in own]
    wrong += [
        f"{key} is {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{path}: weights do not fit the model: {'; '.join(wrong[:3])}{more}; download it again"
        )
    model.load_state_dict(dict(weights), strict=True)
