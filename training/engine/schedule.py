"""Learning-rate schedules as plain functions of how far the run is."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer

Decay = Literal["constant", "cosine", "exponential", "wsd"]


def rate_factor(
    step: int,
    progress: float,
    warmup_steps: int = 0,
    decay: Decay = "cosine",
    final: float = 0.05,
    gamma: float = 1.0,
    cooldown: float = 0.1,
) -> float:
    """What the base learning rate is multiplied with.

    step: counted from 0. progress: share of the run done, 0..1 (of steps or of minutes: the caller's choice).
    warmup_steps: linear from 0 over the first steps. final: where the cosine ends, and the cooldown. gamma: of
    exponential decay, for each step (DAC: 0.999996). cooldown: share of the run at its end in which "wsd"
    (warmup, stable, decay: Hu et al. 2024, MiniCPM, section 4) goes down, by 1 - sqrt (Hagele et al. 2024, section 4).
    """
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if decay == "cosine":
        progress = min(max(progress, 0.0), 1.0)
        return warm * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
    if decay == "wsd" and cools(progress, cooldown):
        down = min(1.0, (progress - (1 - cooldown)) / cooldown)
        return warm * (final + (1 - final) * (1 - math.sqrt(down)))
    return warm * (gamma**step if decay == "exponential" else 1.0)


def cools(progress: float, cooldown: float) -> bool:
    """Whether "wsd" is past its stable part."""
    return cooldown > 0 and progress > 1 - cooldown


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """The rate of every group, times the share that `width_transfer` gave it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)
