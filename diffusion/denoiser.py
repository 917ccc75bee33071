"""A model as samplers see it: guided, in one parametrisation, its output read as a prediction of the data.

Shapes: B batch, C channels; states (B, C, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .guidance import Guidance, stack
from .parametrisations import Parametrisation, Prediction, interpret
from .paths import Level

Model = Callable[[Tensor, Tensor, Any], Tensor]
"""(x (B, C, ...), times (B,), conditioning) -> (B, C, ...), or (B, 2 C, ...) where a variance is predicted too."""


class Denoiser:
    """model: called once a prediction, twice with guidance.   without: the conditioning of the unconditional pass."""

    def __init__(
        self,
        model: Model,
        conditioning: Any,
        parametrisation: Parametrisation,
        guidance: Guidance | None = None,
        without: Any = None,
        clamp: float | None = None,
    ):
        self.model, self.conditioning, self.without = model, conditioning, without
        self.parametrisation: Parametrisation = parametrisation
        self.guidance, self.clamp = guidance, clamp
        together = guidance is not None and guidance.weight > 0 and guidance.batched
        self._both = stack(conditioning, without) if together else None

    def __call__(self, x: Tensor, level: Level, step: int, n_steps: int) -> Prediction:
        """What the model says of x (B, C, ...) at a level, in step `step` of `n_steps`."""
        k = 0.0 if self.guidance is None else self.guidance.at(step, n_steps)
        t = torch.full((len(x),), level.t, device=x.device)
        without = None
        if k == 0:
            output = self.model(x, t, self.conditioning)
        elif self._both is not None:
            output, without = self.model(torch.cat([x, x]), torch.cat([t, t]), self._both).chunk(2)
        else:
            output, without = self.model(x, t, self.conditioning), self.model(x, t, self.without)
        channels = x.shape[1]
        if output.shape[1] not in (channels, 2 * channels):
            raise ValueError(
                f"the model gives {output.shape[1]} channels for {channels}; "
                "it should give as many, or twice as many with a variance"
            )
        extra = output[:, channels:] if output.shape[1] > channels else None
        said = output[:, :channels].to(x.dtype)
        if without is not None:
            said = torch.lerp(without[:, :channels].to(x.dtype), said, 1 + k)
        # The variance is the conditional pass's, unguided.
        return interpret(said, self.parametrisation, x, level, self.clamp, extra)
