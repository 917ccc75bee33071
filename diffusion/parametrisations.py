"""What a model predicts, and what the same prediction is in other words.

    x_t = alpha x0 + sigma noise         velocity = alpha' x0 + sigma' noise

Any one of x0, noise ("epsilon") and velocity gives, with x_t, the other two.   Shapes: states (B, ...), times (B,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .paths import Level, Path

Parametrisation = Literal["epsilon", "x0", "velocity"]
PARAMETRISATIONS: tuple[Parametrisation, ...] = ("epsilon", "x0", "velocity")


@dataclass(frozen=True)
class Prediction:
    """What a model says about x at a level.   extra: channels beside it, such as a variance."""

    x: Tensor
    level: Level
    x0: Tensor
    given_noise: Tensor | None = None
    extra: Tensor | None = None

    @property
    def noise(self) -> Tensor:
        """Raises ValueError at the data, where none is left to tell."""
        if self.given_noise is not None:
            return self.given_noise
        if self.level.sigma == 0:
            raise ValueError("there is no noise to predict at the end of the path")
        return (self.x - self.level.alpha * self.x0) / self.level.sigma

    @property
    def velocity(self) -> Tensor:
        return self.level.d_alpha * self.x0 + self.level.d_sigma * self.noise


def interpret(
    output: Tensor,
    kind: Parametrisation,
    x: Tensor,
    level: Level,
    clamp: float | None = None,
    extra: Tensor | None = None,
) -> Prediction:
    """A model's output as a prediction.   clamp: x0 is kept within -clamp to clamp, and the noise follows it.

    Raises ValueError for epsilon at a level that holds no data (alpha = 0): start a little later.
    """
    noise = None
    if kind == "x0":
        x0 = output
    elif kind == "epsilon":
        if level.alpha == 0:
            raise ValueError(
                "predicted noise says nothing about the data where there is none; start the grid above 0"
            )
        x0, noise = (x - level.sigma * output) / level.alpha, output
    else:
        # Cramer's rule on the two lines above.
        determinant = level.alpha * level.d_sigma - level.sigma * level.d_alpha
        x0 = (level.d_sigma * x - level.sigma * output) / determinant
        noise = (level.alpha * output - level.d_alpha * x) / determinant
    if clamp is not None:
        x0, noise = x0.clamp(-clamp, clamp), None
    return Prediction(x, level, x0, noise, extra)


def corrupt(path: Path, x0: Tensor, noise: Tensor, t: Tensor, kind: Parametrisation) -> tuple[Tensor, Tensor]:
    """A training pair: x_t, and what the model should say of it. x0 and noise (B, ...), t (B,)."""
    shape = (-1, *[1] * (x0.ndim - 1))
    alpha, sigma, d_alpha, d_sigma = (c.to(x0.dtype).view(shape) for c in path.coefficients(t))
    x = alpha * x0 + sigma * noise
    target = {"x0": x0, "epsilon": noise}.get(kind)
    return x, d_alpha * x0 + d_sigma * noise if target is None else target
