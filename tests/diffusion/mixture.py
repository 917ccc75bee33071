"""A mixture of Gaussians on its way through a path: everything that a perfect model would say is known in closed form.

x_t is again a mixture, of means alpha mu_k and variances alpha^2 s_k^2 + sigma^2
E[x0 | x_t] = sum_k p(k | x_t) (mu_k + alpha s_k^2 / (alpha^2 s_k^2 + sigma^2) (x_t - alpha mu_k))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from myna.diffusion import Parametrisation, Path
from scipy.stats import kstest, norm
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """One dimension, every channel alike."""

    weights: tuple[float, ...] = (0.3, 0.5, 0.2)
    means: tuple[float, ...] = (-1.5, 0.5, 2.0)
    deviations: tuple[float, ...] = (0.2, 0.4, 0.1)

    def expected(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], x (B, C)."""
        weights, means, deviations = (
            torch.tensor(v, dtype=x.dtype) for v in (self.weights, self.means, self.deviations)
        )
        alpha, sigma, x = alpha[:, None, None], sigma[:, None, None], x[..., None]
        variance = alpha**2 * deviations**2 + sigma**2
        fits = weights.log() - 0.5 * variance.log() - (x - alpha * means) ** 2 / (2 * variance)
        inside = means + alpha * deviations**2 / variance * (x - alpha * means)
        return (fits.softmax(-1) * inside).sum(-1)

    def distance(self, samples: Tensor) -> float:
        """Of samples from the mixture: Kolmogorov and Smirnov's, the largest gap between the distributions."""

        def cdf(x: np.ndarray) -> np.ndarray:
            parts = zip(self.weights, self.means, self.deviations, strict=True)
            return np.sum([w * norm.cdf(x, m, s) for w, m, s in parts], axis=0)

        return float(kstest(samples.flatten().numpy(), cdf).statistic)


@dataclass(frozen=True)
class Oracle:
    """The perfect model of a mixture, in one parametrisation; the conditioning, if given, is the mixture.
    spread: also predict a variance, as this share between the bounds, in -1 to 1."""

    path: Path
    parametrisation: Parametrisation
    spread: float | None = None

    def __call__(self, x: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        mixture = Mixture() if conditioning is None else conditioning
        alpha, sigma, d_alpha, d_sigma = (c.to(x.dtype) for c in self.path.coefficients(t))
        x0 = mixture.expected(x, alpha, sigma)
        noise = (x - alpha[:, None] * x0) / sigma[:, None]
        said = {"x0": x0, "epsilon": noise}.get(self.parametrisation)
        said = d_alpha[:, None] * x0 + d_sigma[:, None] * noise if said is None else said
        return said if self.spread is None else torch.cat([said, torch.full_like(said, self.spread)], 1)
