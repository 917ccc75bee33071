"""Confidence intervals of a rate by the bootstrap over clips (Efron 1979)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000


def interval(errors: Sequence[int], totals: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of sum(errors) / sum(totals) over resamples of the clips, each with its errors and its total;
    nan where there is nothing to err on."""
    counts = np.array([errors, totals], float)
    if not counts[1].sum():
        return math.nan, math.nan
    n = counts.shape[1]
    drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    wrong, total = counts[:, drawn].sum(-1)
    low, high = np.quantile(wrong / np.maximum(1, total), (0.025, 0.975))
    return float(low), float(high)
