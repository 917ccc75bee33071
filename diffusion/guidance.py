"""Guidance: what the condition changes, exaggerated (Ho and Salimans 2022, eq. 6).

    output = (1 + k) conditional - k unconditional

TorToise calls it conditioning-free guidance and lets k rise from step to step: k (j + 1) / N in step j of N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Guidance:
    """weight: k; 0 is none, and costs nothing."""

    weight: float = 2.0
    ramp: bool = False  # k rises evenly from k / N in the first step to k in the last
    batched: bool = False  # both passes as one batch: faster where one row does not fill the device

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"guidance {self.weight} cannot be used; give 0 (none) or more")

    def at(self, step: int, n_steps: int) -> float:
        """k in a step counted from 0, from noise to data."""
        return self.weight * (step + 1) / n_steps if self.ramp else self.weight


def stack(first: Any, second: Any) -> Any:
    """Two conditions of the same structure as one, their tensors joined along the batch; what is no tensor must be
    equal in both, or ValueError."""
    a, structure = pytree.tree_flatten(first)
    b, other = pytree.tree_flatten(second)
    if structure != other:
        raise ValueError("the conditions with and without must have the same structure to be batched")
    return pytree.tree_unflatten([_joined(*pair) for pair in zip(a, b, strict=True)], structure)


def _joined(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.cat([a, b])
    if type(a) is not type(b) or a != b:
        raise ValueError(
            f"the conditions with and without differ in {a!r} and {b!r}; give tensors to be batched"
        )
    return a
