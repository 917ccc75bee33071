"""What is made of a weight once and used many times, such as its copy in the order that a fast kernel reads.

Kept beside the layers and not in them: it is neither copied nor saved with a model, and goes when the layer goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

T = TypeVar("T")

_MADE: WeakKeyDictionary[nn.Module, dict[str, tuple[object, object]]] = WeakKeyDictionary()


def packed(layer: nn.Module, name: str, weight: Tensor, make: Callable[[Tensor], T]) -> T:
    """make(weight), made again when the weight (or the number of threads) has changed.

    layer, name: whose it is, and which of several. The weight must count its changes: one made in inference mode does
    not, and is used as it is.
    """
    if weight.is_inference():
        return make(weight)
    key = (weight._version, weight.data_ptr(), weight.shape, torch.get_num_threads())
    made = _MADE.setdefault(layer, {})
    found = made.get(name)
    if found is None or found[0] != key:
        found = made[name] = (key, make(weight))
    return found[1]  # pyright: ignore[reportReturnType]
