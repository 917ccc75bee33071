"""Between samples and short-time frames, as streams.

    samples   |----|----|----|----|        hop
    frames    [--------t=0--------]        window = 4 hops: the last one is new, three came before
                   [--------t=1--------]

Shapes: B batch, N samples, W window length, T frames.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from .streaming import State, Streamable


class Frames(Streamable):
    """Cut samples (B, 1, N) into overlapping frames (B, W, T), each ending with its newest hop (causal).

    The end is filled with zeros to whole hops; what came before the beginning counts as zeros.
    """

    def __init__(self, window: int, hop: int):
        super().__init__()
        self.window, self.hop, self.rate = window, hop, Fraction(1, hop)
        self.in_channels = 1

    def init_state(self, batch: int, like: Tensor) -> State:
        return like.new_zeros(batch, 1, self.window - self.hop)

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        x = torch.cat([state, x], dim=-1)
        rest = (x.shape[-1] - (self.window - self.hop)) % self.hop
        if final and rest:
            x = torch.nn.functional.pad(x, (0, self.hop - rest))
        n = (x.shape[-1] - self.window) // self.hop + 1
        if n < 1:
            return x.new_zeros(x.shape[0], self.window, 0), x
        return x[:, 0].unfold(-1, self.window, self.hop).transpose(1, 2), x[..., n * self.hop :]


class OverlapAdd(Streamable):
    """The transpose of `Frames`: add frames (B, W, T) into samples (B, 1, T * hop).

    Causal with a constant lag: frame t completes the samples up to the end of hop t, and the first window - hop
    samples of a stream belong to the time before its beginning; the caller drops them.
    """

    def __init__(self, window: int, hop: int):
        super().__init__()
        if window % hop:
            raise ValueError(f"window {window} must be a multiple of hop {hop}")
        self.window, self.hop, self.rate = window, hop, Fraction(hop)
        self.lag = window - hop
        self.in_channels = window

    def init_state(self, batch: int, like: Tensor) -> State:
        return like.new_zeros(batch, 1, self.window - self.hop)

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        b, _, t = x.shape
        if t == 0:
            return x.new_zeros(b, 1, 0), state
        parts = x.transpose(1, 2).reshape(b, t, self.window // self.hop, self.hop)
        y = torch.cat([state[:, 0].reshape(b, -1, self.hop), x.new_zeros(b, t, self.hop)], dim=1)
        for i in range(parts.shape[2]):  # hop i of frame t lands on hop t + i; the order fixes the rounding
            y[:, i : i + t] += parts[:, :, i]
        y = y.reshape(b, 1, -1)
        return y[..., : t * self.hop], y[..., t * self.hop :]
