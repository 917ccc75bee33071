"""Adversarial losses, hinge and least squares, and feature matching, over any list of judgements.

All are means over the sub-discriminators, so that adding one does not change the weight of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...discriminators import Judgement
from ..engine.schedule import set_rate

GANLoss = Literal["hinge", "least_squares"]


def discriminator_loss(real: list[Judgement], fake: list[Judgement], kind: GANLoss) -> Tensor:
    """What the discriminators minimise: real towards 1, fake towards -1 (hinge; EnCodec, section 3.4) or 0
    (least squares; Mao et al. 2017, as DAC's code has it)."""
    parts = []
    for r, f in zip(real, fake, strict=True):
        if kind == "hinge":
            parts.append(F.relu(1 - r.logits.float()).mean() + F.relu(1 + f.logits.float()).mean())
        else:
            parts.append((1 - r.logits.float()).square().mean() + f.logits.float().square().mean())
    return torch.stack(parts).mean()


def generator_loss(fake: list[Judgement], kind: GANLoss) -> Tensor:
    """What the codec minimises so that its output is taken for real (EnCodec eq. 2; DAC's code)."""
    if kind == "hinge":
        return torch.stack([F.relu(1 - f.logits.float()).mean() for f in fake]).mean()
    return torch.stack([(1 - f.logits.float()).square().mean() for f in fake]).mean()


def feature_matching_loss(real: list[Judgement], fake: list[Judgement], relative: bool = True) -> Tensor:
    """Mean over all layers of L1 between the activations (DAC), divided by the mean magnitude of the real
    ones if `relative` (EnCodec eq. 3)."""
    parts = []
    for r, f in zip(real, fake, strict=True):
        for truth, guess in zip(r.features, f.features, strict=True):
            truth = truth.detach().float()
            distance = F.l1_loss(guess.float(), truth)
            parts.append(distance / truth.abs().mean().clamp(min=1e-6) if relative else distance)
    return torch.stack(parts).mean()


@dataclass(frozen=True)
class CriticStep:
    """A step of a discriminator's optimizer at a rate. A gradient that is not finite changes nothing."""

    critic: nn.Module
    optimizer: torch.optim.Optimizer
    rate: float
    clip: float

    def __call__(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.critic.parameters(), self.clip)
        if bool(torch.isfinite(norm)):
            set_rate(self.optimizer, self.rate)
            self.optimizer.step()
