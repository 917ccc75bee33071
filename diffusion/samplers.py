"""The samplers: from noise to data in few steps. Each is a frozen dataclass of its options.

    Ancestral     DDPM: noise is added back after every step (Ho et al. 2020, algorithm 2)
    DDIM          the same without, or with a part of it (Song et al. 2021, eq. 12)
    DPMSolver2M   DPM-Solver++ of second order, multistep (Lu et al. 2022b, algorithm 2)
    Euler, Midpoint, Heun     the velocity of a flow, integrated (Lipman et al. 2023; Karras et al. 2022, algorithm 1)

Shapes: states (B, C, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from .denoiser import Denoiser
from .grids import Grid
from .parametrisations import Prediction
from .paths import Level, Path, level

Noise = Callable[[Tensor], Tensor]
"""Fresh noise of the shape of a state."""
Progress = Callable[[int, int], None]  # steps done, steps in all


class Sampler(Protocol):
    @property
    def n_steps(self) -> int: ...

    def run(
        self, denoise: Denoiser, x: Tensor, path: Path, grid: Grid, noise: Noise, progress: Progress
    ) -> Tensor:
        """From noise x (B, C, ...) to data. Raises ValueError for a path that the sampler cannot go."""
        ...


class _Stepwise:
    """Step by step along the levels of a path; a sampler says what a step does."""

    n_steps: int

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"{self.n_steps} steps lead nowhere; take 1 or more")

    def run(
        self, denoise: Denoiser, x: Tensor, path: Path, grid: Grid, noise: Noise, progress: Progress
    ) -> Tensor:
        levels = path.levels(self.n_steps, grid)
        walk = self._walk(denoise, path, levels, noise)
        for step in range(self.n_steps):
            x = walk(x, step)
            progress(step + 1, self.n_steps)
        return x

    def _walk(
        self, denoise: Denoiser, path: Path, levels: tuple[Level, ...], noise: Noise
    ) -> Callable[[Tensor, int], Tensor]:
        """(state, step) -> the next state."""
        raise NotImplementedError


@dataclass(frozen=True)
class Ancestral(_Stepwise):
    """DDPM on a discrete path.

    variance: "learned" reads the share between the two bounds from the model's second half of channels (Nichol and
    Dhariwal 2021, eq. 15); "small" and "large" are the bounds (Ho et al. 2020, section 3.2).
    """

    n_steps: int = 100
    variance: Literal["learned", "small", "large"] = "learned"

    def _walk(
        self, denoise: Denoiser, path: Path, levels: tuple[Level, ...], noise: Noise
    ) -> Callable[[Tensor, int], Tensor]:
        if path.continuous:
            raise ValueError(
                "ancestral sampling goes discrete paths; take DDIM(eta=1), Euler or Heun on a flow"
            )
        last = self.n_steps - 1

        def bounds(step: int) -> tuple[float, float]:
            """beta and the posterior's beta-tilde of a step (Ho et al. 2020, eq. 7)."""
            now, following = levels[step].alpha ** 2, levels[step + 1].alpha ** 2
            beta = 1 - now / following
            return beta, beta * (1 - following) / (1 - now)

        def walk(x: Tensor, step: int) -> Tensor:
            said = denoise(x, levels[step], step, self.n_steps)
            now, following = levels[step].alpha ** 2, levels[step + 1].alpha ** 2
            beta, tilde = bounds(step)
            mean = (beta * math.sqrt(following) * said.x0 + (1 - following) * math.sqrt(1 - beta) * x) / (
                1 - now
            )
            fresh = noise(x)  # drawn in the last step too, as published, so that seeds mean the same
            if step == last:
                return mean
            return mean + self._deviation(said, beta, tilde) * fresh

        return walk

    def _deviation(self, said: Prediction, beta: float, tilde: float) -> Tensor | float:
        if self.variance != "learned":
            return math.sqrt(tilde if self.variance == "small" else beta)
        if said.extra is None:
            raise ValueError('the model predicts no variance; take variance="small" or "large"')
        share = (said.extra.to(said.x.dtype) + 1) / 2
        return torch.exp(0.5 * (share * math.log(beta) + (1 - share) * math.log(tilde)))


@dataclass(frozen=True)
class DDIM(_Stepwise):
    """Any path.   eta: share of the ancestral noise that is added back, 0: none, the same noise gives the same data."""

    n_steps: int = 30
    eta: float = 0.0

    def _walk(
        self, denoise: Denoiser, path: Path, levels: tuple[Level, ...], noise: Noise
    ) -> Callable[[Tensor, int], Tensor]:
        def walk(x: Tensor, step: int) -> Tensor:
            now, following = levels[step], levels[step + 1]
            said = denoise(x, now, step, self.n_steps)
            if following.sigma == 0:
                return following.alpha * said.x0
            if not self.eta:
                return following.alpha * said.x0 + following.sigma * said.noise
            # Song et al.'s sigma_t, for paths whose variance is not one too.
            kept = (now.alpha * following.sigma) / (now.sigma * following.alpha)
            fresh = self.eta * following.sigma * math.sqrt(max(0.0, 1 - kept**2))
            rest = math.sqrt(max(0.0, following.sigma**2 - fresh**2))
            return following.alpha * said.x0 + rest * said.noise + fresh * noise(x)

        return walk


@dataclass(frozen=True)
class DPMSolver2M(_Stepwise):
    """Any path; one evaluation a step, the one before being used again. On a discrete path take the grid of
    `even_log_snr`: steps of very different widths cost it its order."""

    n_steps: int = 20

    def _walk(
        self, denoise: Denoiser, path: Path, levels: tuple[Level, ...], noise: Noise
    ) -> Callable[[Tensor, int], Tensor]:
        before: list[Tensor] = []  # x0 as predicted in the last step

        def width(step: int) -> float:
            """Of a step, in the logarithm of the signal-to-noise ratio."""
            return _log_snr(levels[step + 1]) - _log_snr(levels[step])

        def walk(x: Tensor, step: int) -> Tensor:
            now, following = levels[step], levels[step + 1]
            x0 = denoise(x, now, step, self.n_steps).x0
            ahead = x0
            # To the data itself the width is infinite: that step is of first order.
            if before and following.sigma > 0:
                ahead = x0 + width(step) / (2 * width(step - 1)) * (x0 - before[0])
            before[:] = [x0]
            kept = following.sigma / now.sigma
            return kept * x + (following.alpha - now.alpha * kept) * ahead

        return walk


@dataclass(frozen=True)
class Euler(_Stepwise):
    """Continuous paths, first order: one evaluation a step."""

    n_steps: int = 10

    def _walk(
        self, denoise: Denoiser, path: Path, levels: tuple[Level, ...], noise: Noise
    ) -> Callable[[Tensor, int], Tensor]:
        _check_continuous(path, "Euler")

        def walk(x: Tensor, step: int) -> Tensor:
            now, following = levels[step], levels[step + 1]
            return x + (following.t - now.t) * denoise(x, now, step, self.n_steps).velocity

        return walk


@dataclass(frozen=True)
class Midpoint(_Stepwise):
    """Continuous paths, second order: two evaluations a step, the second half way."""

    n_steps: int = 5

    def _walk(
        self, denoise: Denoiser, path: Path, levels: tuple[Level, ...], noise: Noise
    ) -> Callable[[Tensor, int], Tensor]:
        _check_continuous(path, "midpoint")

        def walk(x: Tensor, step: int) -> Tensor:
            now, following = levels[step], levels[step + 1]
            width = following.t - now.t
            half = level(path, now.t + width / 2)
            there = x + width / 2 * denoise(x, now, step, self.n_steps).velocity
            return x + width * denoise(there, half, step, self.n_steps).velocity

        return walk


@dataclass(frozen=True)
class Heun(_Stepwise):
    """Continuous paths, second order: two evaluations a step, the second at its end, but one in the last step, which
    ends where no noise is left to tell a velocity by."""

    n_steps: int = 5

    def _walk(
        self, denoise: Denoiser, path: Path, levels: tuple[Level, ...], noise: Noise
    ) -> Callable[[Tensor, int], Tensor]:
        _check_continuous(path, "Heun")

        def walk(x: Tensor, step: int) -> Tensor:
            now, following = levels[step], levels[step + 1]
            width = following.t - now.t
            velocity = denoise(x, now, step, self.n_steps).velocity
            there = x + width * velocity
            if following.sigma == 0:
                return there
            return x + width / 2 * (velocity + denoise(there, following, step, self.n_steps).velocity)

        return walk


def _check_continuous(path: Path, name: str) -> None:
    if not path.continuous:
        raise ValueError(f"{name} integrates a continuous path; take DDIM or DPMSolver2M on a discrete one")


def _log_snr(at: Level) -> float:
    if at.alpha == 0:
        return -math.inf
    return math.inf if at.sigma == 0 else math.log(at.alpha / at.sigma)
