"""`sample`: the one door to the samplers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser, Model
from .grids import Grid, Uniform
from .guidance import Guidance
from .parametrisations import PARAMETRISATIONS, Parametrisation
from .paths import LinearPath, Path
from .samplers import Euler, Progress, Sampler


@dataclass(frozen=True)
class SampleOptions:
    """How data is made of noise. The defaults are those of a rectified flow."""

    sampler: Sampler = field(default_factory=Euler)  # with its number of steps
    path: Path = field(default_factory=LinearPath)  # the one that the model was trained on
    parametrisation: Parametrisation = "velocity"  # what the model predicts
    grid: Grid = field(default_factory=Uniform)  # where the steps are taken
    guidance: Guidance | None = None  # None: the conditional pass alone
    temperature: float = 1.0  # the noise to begin with is multiplied by it
    clamp: float | None = None  # bound of the predicted data, where the data has one

    def __post_init__(self) -> None:
        if self.parametrisation not in PARAMETRISATIONS:
            raise ValueError(
                f"no parametrisation {self.parametrisation!r}: one of {', '.join(PARAMETRISATIONS)}"
            )
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature} cannot be used; give 0 or more")


@torch.no_grad()  # not inference mode: a student may learn from what is sampled
def sample(
    model: Model,
    noise: Tensor,
    conditioning: Any = None,
    options: SampleOptions | None = None,
    *,
    without: Any = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Data (B, C, ...) from noise (B, C, ...) of unit variance.

    model: (x, times (B,), conditioning) -> what `options.parametrisation` says; times are those of the path, 0 to 1 on
    a continuous one (1: data), the training index on a discrete one.   without: the conditioning of the unconditional
    pass, for guidance.   generator: for samplers that add noise; None for torch's own.   progress: (done, steps).
    Raises ValueError for a sampler that cannot go the path, and for options that the model does not fit.

    >>> mel = sample(model, torch.randn(1, 100, 400), condition, SampleOptions(Midpoint(4), guidance=Guidance(0.7)))
    """
    options = options or SampleOptions()
    denoise = Denoiser(model, conditioning, options.parametrisation, options.guidance, without, options.clamp)

    def fresh(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    return options.sampler.run(
        denoise,
        noise * options.temperature,
        options.path,
        options.grid,
        fresh,
        progress or (lambda done, steps: None),
    )
