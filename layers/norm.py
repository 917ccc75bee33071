"""Normalisation over a whole signal, and the trimming that has to come after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .streaming import State, Streamable


class TimeGroupNorm(Streamable):
    """Zero mean and unit variance over all channels and frames of each example, then a gain and a bias a
    channel (the "time_group_norm" of EnCodec 48 kHz).

    Every output frame depends on every input frame, so nothing is emitted before the end; a model that has it
    streams by segments. x (B, C, T) -> (B, C, T).
    """

    resettable = False

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.in_channels = channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    @property
    def delay(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise ValueError("TimeGroupNorm looks ahead to the end of its segment: its delay has no bound")

    def needed(self, n: int) -> int:
        return self.delay

    def init_state(self, batch: int, like: Tensor) -> State:
        """All frames so far."""
        return like.new_zeros(batch, self.in_channels, 0)

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        x = torch.cat([state, x], dim=-1) if state.shape[-1] else x
        if not final:
            return x[..., :0], x
        if x.shape[-1] == 0:
            return x, x
        return nn.functional.group_norm(x, 1, self.weight, self.bias, self.eps), x[..., :0]


class Trim(Streamable):
    """Cut `left` frames off the beginning of the signal and `right` off its end."""

    def __init__(self, left: int, right: int):
        super().__init__()
        self.left, self.right = left, right

    resettable = False

    @property
    def delay(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.left + self.right

    def init_state(self, batch: int, like: Tensor) -> State:
        """(frames still to be cut from the beginning, the frames that may turn out to be the end)."""
        return self.left, None

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        cut, held = state
        x = x if held is None else torch.cat([held, x], dim=-1)
        n = min(cut, x.shape[-1])
        x, cut = x[..., n:], cut - n
        certain = max(0, x.shape[-1] - self.right)
        return x[..., :certain], (cut, x[..., certain:])
