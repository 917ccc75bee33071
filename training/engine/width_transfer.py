"""Learning rates that hold for every width (muP: Yang et al. 2022, "Tensor Programs V", table 8, for Adam): found on a
narrow model, used on a wide one.

    inputs grow with the width, outputs too      rate / growth
    inputs grow, outputs do not (a readout)      rate / growth, first weights / sqrt(growth)
    all others (embeddings, biases, gains)       as they are

What a step decays does not change with the rate. Attention heads have to stay as wide as they are, since the scale of
their products is not changed here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def transfer(
    model: nn.Module, narrow: nn.Module, groups: list[dict[str, Any]], begins: bool
) -> list[dict[str, Any]]:
    """Parameter groups of `model` whose rates are those of `narrow`, which is the same at another width.

    groups: as `trainer.decayed_groups` gives them.   begins: the first weights of readouts are made smaller, in place;
    not for weights that have been trained.
    """
    growths = {name: growth(model, narrow, name) for name, _ in model.named_parameters()}
    if begins:
        shapes = {name: p.shape for name, p in narrow.named_parameters()}
        with torch.no_grad():
            for name, p in model.named_parameters():
                if growths[name] != 1 and p.shape[0] == shapes[name][0]:
                    p.mul_(growths[name] ** -0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    found: list[dict[str, Any]] = []
    for group in groups:
        by_growth: dict[float, list[nn.Parameter]] = {}
        for p in group["params"]:
            by_growth.setdefault(growths[names[id(p)]], []).append(p)
        for times, parameters in sorted(by_growth.items()):
            decay = group["weight_decay"] * times
            found.append({**group, "params": parameters, "weight_decay": decay, "rate_share": 1 / times})
    return found


def growth(model: nn.Module, narrow: nn.Module, name: str) -> float:
    """How many times as many inputs a linear layer's matrix has; 1 of any other parameter."""
    owner, _, kind = name.rpartition(".")
    layer = model.get_submodule(owner)
    if not isinstance(layer, nn.Linear) or kind != "weight":
        return 1.0
    other = narrow.get_submodule(owner)
    assert isinstance(other, nn.Linear)
    return layer.in_features / other.in_features
