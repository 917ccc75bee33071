"""The LSTM of SEANet, with its memory as an argument.

Shapes: B batch, C channels, T frames, L layers.
"""

from __future__ import annotations

from torch import Tensor, nn

from .streaming import State, Streamable


class LSTM(Streamable):
    """Stacked LSTM layers over time, their input added to their output (Défossez et al. 2022, section 3.1).

    x (B, C, T) -> (B, C, T). Parameter names are those of torch's LSTM under `lstm.`.
    """

    def __init__(self, channels: int, n_layers: int = 2, skip: bool = True):
        super().__init__()
        self.in_channels, self.skip = channels, skip
        self.lstm = nn.LSTM(channels, channels, n_layers)

    def init_state(self, batch: int, like: Tensor) -> State:
        """(hidden, cell), each (B, L, C)."""
        zeros = like.new_zeros(batch, self.lstm.num_layers, self.in_channels)
        return zeros, zeros

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        if x.shape[-1] == 0:
            return x, state
        hidden, cell = (part.transpose(0, 1).contiguous() for part in state)
        y, (hidden, cell) = self.lstm(x.permute(2, 0, 1), (hidden, cell))
        y = y.permute(1, 2, 0)
        return (y + x if self.skip else y), (hidden.transpose(0, 1), cell.transpose(0, 1))
