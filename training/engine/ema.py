"""An exponential moving average of a model's weights: what is validated and shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Shadows a module's parameters and its floating-point buffers (codebooks that follow the data are
    buffers).

    decay: at the beginning the average follows faster, (1 + step) / (10 + step), until it reaches `decay`.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.shadow = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        rate = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in module.state_dict().items():
            shadow = self.shadow[name]
            if tensor.is_floating_point():
                shadow.lerp_(tensor, rate)
            else:
                shadow.copy_(tensor)

    def restart(self, module: nn.Module) -> None:
        """Take over the values of `module` (one whose codebooks have just been placed, say)."""
        for name, tensor in module.state_dict().items():
            self.shadow[name].copy_(tensor)

    @contextmanager
    def swapped_in(self, module: nn.Module) -> Iterator[None]:
        """Inside, `module` has the averaged weights; outside again its own."""
        own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(self.shadow)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"steps": self.steps, **{f"shadow.{k}": v for k, v in self.shadow.items()}}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        self.steps = int(state["steps"])
        for name, tensor in self.shadow.items():
            tensor.copy_(state[f"shadow.{name}"])  # pyright: ignore[reportArgumentType]
