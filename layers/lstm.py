"""The LSTM of SEANet, with its memory as an argument.

Shapes: B batch, C channels, T frames, L layers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..kernels.conv1d import PackedMatrix, supports
from ..kernels.packed import packed
from .streaming import State, Streamable

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_FEW = 24  # frames in a call below which torch's own LSTM is slower (measured at 512 channels)


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
        if x.shape[-1] <= _FEW and x.shape[0] == 1 and supports(x, cast("Tensor", self.lstm.weight_ih_l0)):
            return self._few_frames(x, state)
        hidden, cell = (part.transpose(0, 1).contiguous() for part in state)
        y, (hidden, cell) = self.lstm(x.permute(2, 0, 1), (hidden, cell))
        y = y.permute(1, 2, 0)
        return (y + x if self.skip else y), (hidden.transpose(0, 1), cell.transpose(0, 1))

    def _few_frames(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The same for one row, frame by frame: torch's LSTM rearranges its weights at every call, which
        costs more than the few frames of a streaming chunk."""
        y, hiddens, cells = x[0].t(), [], []
        for layer in range(self.lstm.num_layers):
            w_in, w_hidden, b_in, b_hidden = (getattr(self.lstm, f"{name}_l{layer}") for name in _WEIGHTS)
            inputs = packed(self, f"in {layer}", w_in, _pack)
            recurrent = packed(self, f"hidden {layer}", w_hidden, _pack).plain.t()
            hidden, cell = state[0][0, layer], state[1][0, layer]
            gates, out = inputs.product(y.contiguous(), b_in + b_hidden), torch.empty_like(y)
            for t in range(y.shape[0]):
                z = torch.addmv(gates[t], recurrent, hidden).view(4, -1)
                admit, forget, _, emit = z.sigmoid().unbind()
                cell = torch.addcmul(forget * cell, admit, z[2].tanh())
                hidden = torch.mul(emit, cell.tanh(), out=out[t])
            y = out
            hiddens.append(hidden)
            cells.append(cell)
        y = y.t()[None]
        return (y + x if self.skip else y), (torch.stack(hiddens)[None], torch.stack(cells)[None])


def _pack(weight: Tensor) -> PackedMatrix:
    """(O, I), as torch's linear layers have it."""
    return PackedMatrix(weight.t())
