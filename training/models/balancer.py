"""EnCodec's loss balancer (Défossez et al. 2022, section 3.4, "Balancer").

Each loss contributes a fixed share of the gradient that reaches the decoder's output, whatever its scale: a
weight says how much a loss matters, not how large its numbers happen to be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine import distributed


class Balancer:
    """Combines the gradients g_i of losses with respect to the model's output into

        sum_i  total_norm * (w_i / sum_j w_j) * g_i / <||g_i||>

    where <||g_i||> is an exponential average over the steps of the mean L2 norm of an example's gradient.

    weights: by loss name. decay: of the average. Its state goes into the checkpoint.
    """

    def __init__(self, weights: dict[str, float], total_norm: float = 1.0, decay: float = 0.999):
        self.weights, self.total_norm, self.decay = weights, total_norm, decay
        self._total: dict[str, float] = {}
        self._count: dict[str, float] = {}

    def gradient(self, losses: dict[str, Tensor], output: Tensor) -> Tensor:
        """The gradient to start the backward pass from at `output` (B, ...). `losses` share its graph, which
        is kept: losses of the same step that do not pass through the output are to be added by the caller."""
        share = sum(self.weights[name] for name in losses)
        combined = torch.zeros_like(output)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
            norm = self._average(name, gradient.flatten(1).norm(dim=1).mean())
            combined += gradient * (self.total_norm * self.weights[name] / share / max(norm, 1e-12))
        return combined

    def _average(self, name: str, norm: Tensor) -> float:
        """The average norm so far, without the bias of its start."""
        value = float(distributed.mean(norm))
        self._total[name] = self._total.get(name, 0.0) * self.decay + value
        self._count[name] = self._count.get(name, 0.0) * self.decay + 1
        return self._total[name] / self._count[name]

    def state_dict(self) -> dict[str, dict[str, float]]:
        return {"total": dict(self._total), "count": dict(self._count)}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        self._total, self._count = dict(state["total"]), dict(state["count"])
