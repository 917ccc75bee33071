"""From noise to data: how much of each a state holds at every time.

    x_t = alpha(t) x0 + sigma(t) noise,     velocity = alpha'(t) x0 + sigma'(t) noise

Two kinds of path. A continuous one runs from t = 0 (noise) to t = 1 (data): rectified flow (Liu et al. 2022, eq. 1;
Lipman et al. 2023, section 4.1, with sigma_min = 0) and the trigonometric path. A discrete one is the diffusion of
Ho et al. 2020: N indices, index 0 next to the data, sampled at some of them only (Nichol and Dhariwal 2021,
section 4). Its velocity is Salimans and Ho's (2022, section 4): the derivative by the angle, alpha noise - sigma x0.

Shapes: B batch; states (B, ...), times (B,).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .grids import Grid, Times, Uniform


@dataclass(frozen=True)
class Level:
    """One point of a path.   t: the time that the model is told."""

    t: float
    alpha: float
    sigma: float
    d_alpha: float  # derivatives, of which the velocity is made
    d_sigma: float


class Path(Protocol):
    """What samplers and trainers ask of a path. Frozen dataclasses meet it."""

    @property
    def continuous(self) -> bool:
        """Whether there are levels between any two."""
        ...

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma and their derivatives at times t (B,), in float64."""
        ...

    def levels(self, n_steps: int, grid: Grid) -> tuple[Level, ...]:
        """n_steps + 1 of them, from noise to data. Raises ValueError for more steps than the path has."""
        ...


def level(path: Path, t: float) -> Level:
    """The path at time t."""
    return Level(t, *(float(c) for c in path.coefficients(torch.tensor([t], dtype=torch.float64))))


class _Continuous:
    """t from 0 (noise) to 1 (data)."""

    continuous = True

    def levels(self: Path, n_steps: int, grid: Grid) -> tuple[Level, ...]:
        if n_steps < 1:
            raise ValueError(f"{n_steps} steps lead nowhere; take 1 or more")
        return tuple(level(self, grid(step / n_steps)) for step in range(n_steps + 1))


@dataclass(frozen=True)
class LinearPath(_Continuous):
    """Rectified flow: alpha = t, sigma = 1 - t, velocity = x0 - noise."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t = t.double()
        one = torch.ones_like(t)
        return t, 1 - t, one, -one


@dataclass(frozen=True)
class TrigonometricPath(_Continuous):
    """A quarter of a circle, which keeps the variance: alpha = sin(pi t / 2), sigma = cos(pi t / 2). The continuous
    form of the cosine schedule (Albergo and Vanden-Eijnden 2023, table 2)."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        turn = math.pi / 2
        angle = t.double() * turn
        sin, cos = angle.sin(), angle.cos()
        # Exact at the ends, where samplers ask whether anything is left of the other part.
        cos = torch.where(t.double() >= 1, torch.zeros_like(cos), cos)
        return sin, cos, turn * cos, -turn * sin


@dataclass(frozen=True)
class DiscretePath:
    """The diffusion of N training steps: index N - 1 is nearly noise, index 0 nearly data.

    betas: variance that each step adds, in order of the index, each above 0 and below 1.
    """

    betas: tuple[float, ...] = field(repr=False)

    continuous = False

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise ValueError("betas must lie above 0 and below 1")

    @cached_property
    def alpha_bar(self) -> Tensor:
        """(N,) float64: the product of 1 - beta up to each index."""
        return torch.cumprod(1 - torch.tensor(self.betas, dtype=torch.float64), 0)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t: indices; -1 is the data itself."""
        index = t.long()
        if bool((index != t).any()) or bool((index < -1).any()) or bool((index >= len(self.betas)).any()):
            raise ValueError(f"times of this path are the whole numbers from -1 to {len(self.betas) - 1}")
        alpha_bar = torch.where(index < 0, 1.0, self.alpha_bar.to(t.device)[index.clamp(min=0)])
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return alpha, sigma, -sigma, alpha

    def levels(self, n_steps: int, grid: Grid) -> tuple[Level, ...]:
        indices = self._respaced(n_steps, grid)
        return tuple(level(self, index) for index in (*reversed(indices), -1))

    def _respaced(self, n_steps: int, grid: Grid) -> list[int]:
        """The indices that are visited, in ascending order."""
        n = len(self.betas)
        if not 1 <= n_steps <= n:
            raise ValueError(f"{n_steps} steps do not fit a schedule of {n}; take 1 to {n}")
        if n_steps == 1:
            return [n - 1]
        if isinstance(grid, Uniform) and grid.start == 0:
            # Added up, not multiplied, so that halves round to the side to which they do in the published code.
            stride, at, indices = (n - 1) / (n_steps - 1), 0.0, []
            for _ in range(n_steps):
                indices.append(round(at))
                at += stride
        else:
            spaced = (grid(step / (n_steps - 1)) for step in range(n_steps - 1, -1, -1))
            indices = [round((1 - t) * (n - 1)) for t in spaced]
        if any(a >= b for a, b in itertools.pairwise(indices)):
            raise ValueError(f"{n_steps} steps on the grid {grid} visit an index twice; take fewer")
        return indices


def linear_schedule(n: int = 1000, start: float = 1e-4, end: float = 0.02) -> DiscretePath:
    """Betas that grow evenly (Ho et al. 2020, section 4)."""
    return DiscretePath(tuple(torch.linspace(start, end, n, dtype=torch.float64).tolist()))


def cosine_schedule(n: int = 1000, offset: float = 0.008, largest: float = 0.999) -> DiscretePath:
    """alpha-bar follows a squared cosine (Nichol and Dhariwal 2021, eq. 17)."""

    def alpha_bar(t: float) -> float:
        return math.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2

    return DiscretePath(tuple(min(1 - alpha_bar((i + 1) / n) / alpha_bar(i / n), largest) for i in range(n)))


def even_log_snr(path: DiscretePath, n_steps: int) -> Times:
    """A grid whose steps are equally wide in the logarithm of the signal-to-noise ratio, as solvers of higher order
    want them (Lu et al. 2022a, section 3.4). Raises ValueError for more steps than the path has, or fewer than 2."""
    n = len(path.betas)
    if not 2 <= n_steps <= n:
        raise ValueError(f"{n_steps} steps do not fit a schedule of {n}; take 2 to {n}")
    falling = torch.logit(path.alpha_bar)
    wanted = torch.linspace(float(falling[0]), float(falling[-1]), n_steps, dtype=torch.float64)
    nearest = (falling[None] - wanted[:, None]).abs().argmin(1).tolist()
    indices: list[int] = []
    for step, index in enumerate(
        nearest
    ):  # each index once, also where the schedule is coarser than the steps
        low = indices[-1] + 1 if indices else 0
        indices.append(min(max(index, low), n - n_steps + step))
    return Times(tuple(1 - index / (n - 1) for index in reversed(indices)))
