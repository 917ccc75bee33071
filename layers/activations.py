"""Activations of the neural codecs."""

import torch
from torch import Tensor, nn


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """x + sin^2(alpha x) / alpha, x (B, C, T) with alpha (1, C, 1), or x (..., C) with alpha (C,). Ziyin et al.,
    "Neural networks fail to learn periodic functions", 2020, eq. 3; the 1e-9 is DAC's."""
    if x.is_cuda and x.dtype == alpha.dtype:
        from ..kernels.gpu import (
            snake as kernel,
        )  # with Triton, which a CPU does not need and is slow to import

        if kernel.supports(x, alpha):
            return kernel.snake(x, alpha.flatten(), 1 if alpha.ndim == x.ndim else -1)
    share = (alpha + 1e-9).reciprocal()
    if torch.is_grad_enabled():
        return x + share * torch.sin(alpha * x).square()
    y = (alpha * x).sin_().square_()  # in place: new memory costs more than the arithmetic
    return torch.addcmul(x, y, share, out=y)


class Snake(nn.Module):
    """Snake with one learned frequency a channel. alpha has the shape (1, C, 1) of DAC's checkpoints."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return snake(x, self.alpha)
