"""ConvNeXt block (Liu et al. 2022; for audio: Siuzdak, "Vocos", 2023), causal, with a snake for the GELU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels.matrices import linear
from ..kernels.precision import Precision
from .activations import snake
from .conv import Conv1d
from .streaming import State, Streamable


class ConvNeXtBlock(Streamable):
    """x + scale * W2 snake(W1 norm(depthwise(x))), x (B, C, T).

    hidden: width of the pointwise pair.   kernel_size, dilation: of the depthwise convolution, which looks only back.
    """

    products: Precision = "float32"  # of the pair, on a CPU

    def __init__(
        self, channels: int, hidden: int, kernel_size: int = 7, dilation: int = 1, scale: float = 1.0
    ):
        super().__init__()
        self.in_channels = channels
        self.depthwise = Conv1d(channels, channels, kernel_size, dilation=dilation, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, hidden)
        self.alpha = nn.Parameter(torch.ones(hidden))
        self.contract = nn.Linear(hidden, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))
        nn.init.zeros_(self.contract.weight)  # a new block is the identity
        nn.init.zeros_(self.contract.bias)

    def init_state(self, batch: int, like: Tensor) -> State:
        return self.depthwise.init_state(batch, like)

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        y, state = self.depthwise.step(x, state, final)
        y = linear(self.expand, self.norm(y.transpose(1, 2)), self.products)
        y = linear(self.contract, snake(y, self.alpha), self.products)
        return x + (y * self.scale).transpose(1, 2), state


class Pointwise(nn.Module):
    """A linear map of the channels of (B, C, T), as one GEMM."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(1, 2)).transpose(1, 2)
