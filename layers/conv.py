"""Convolutions that stream: causal and centred, with constant or reflected padding, and their transposes.

Left padding counts as frames that came before the first one:

    padded   . . . . a b c d e f g h i . .        left = 4, right = 2, kernel 5, stride 2
             [---y0---]
                 [---y1---]                       y1 can be emitted once c has arrived
    carry                        [ ... ]          the padded frames that the next output still needs

Shapes: B batch, C channels, T frames.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.conv1d import (
    conv1d_packed,
    conv_transpose1d_packed,
    pack_conv1d,
    pack_conv_transpose1d,
    supports,
)
from ..kernels.matrices import MATRICES
from ..kernels.packed import packed
from ..kernels.precision import Precision
from .streaming import State, Streamable, join, join_all

PadMode = Literal["constant", "reflect"]


def pad1d(x: Tensor, left: int, right: int, mode: PadMode) -> Tensor:
    """Pad x (B, C, T) along time. An input too short to be reflected is first filled with zeros on the right, which
    are cut away again, as EnCodec does."""
    n = x.shape[-1]
    missing = max(0, max(left, right) + 1 - n) if mode == "reflect" else 0
    if missing:
        padded = F.pad(F.pad(x, (0, missing)), (left, right), mode="reflect")
        return padded[..., : padded.shape[-1] - missing]
    if mode == "reflect":
        before, after = x[..., 1 : left + 1].flip(-1), x[..., n - 1 - right : n - 1].flip(-1)
    else:
        before, after = (x.new_zeros(*x.shape[:-1], width) for width in (left, right))
    # F.pad would lose the order in memory.
    return join_all([part for part in (before, x, after) if part.shape[-1]] or [x], order=x)


class Conv1d(Streamable):
    """A 1-d convolution with its own padding.

    padding: "causal" (all of it on the left), "centred" (EnCodec's split: the odd frame to the left) or an
        explicit number of frames on each side (DAC).
    products: the precision of its products on a CPU, which may be changed at any time (`codec.precision`).
    fill: pad the end so that every input frame is covered by a whole stride (EnCodec); otherwise a rest that
        is shorter than the stride is dropped, as torch does.
    """

    products: Precision = "float32"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding: Literal["causal", "centred"] | int = "causal",
        pad_mode: PadMode = "constant",
        fill: bool = True,
    ):
        super().__init__()
        span = (kernel_size - 1) * dilation + 1
        if span < stride:
            raise ValueError(
                f"kernel_size {kernel_size} x dilation {dilation} does not reach across stride {stride}"
            )
        if padding == "causal":
            self.left, self.right = span - stride, 0
        elif padding == "centred":
            self.right = (span - stride) // 2
            self.left = span - stride - self.right
        elif padding < span:
            self.left = self.right = padding
        else:
            raise ValueError(f"padding {padding} reaches past the kernel's span of {span} frames; use less")
        # Without any padding there is nothing to mirror, and nothing to remember for it.
        if not (self.left or self.right or (fill and stride > 1)):
            pad_mode = "constant"
        self.pad_mode: PadMode = pad_mode
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.dilation, self.groups = kernel_size, stride, dilation, groups
        self.span, self.fill = span, fill
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # torch's default for convolutions

    @property
    def rate(self) -> Fraction:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Fraction(1, self.stride)

    @property
    def delay(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return max(0, self.span - self.stride - self.left)

    def needed(self, n: int) -> int:
        return n * self.stride + self.span - self.stride - self.left

    @property
    def resettable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pad_mode == "constant" and self.left == self.span - self.stride

    def init_state(self, batch: int, like: Tensor) -> State:
        """(carry, frames at its beginning kept only to be mirrored, whether the left padding is in place).

        A reflected beginning has to wait for what it mirrors, a reflected end has to remember it. The
        beginning also waits for as much as the end could mirror: a signal shorter than that is reflected as a
        whole.
        """
        mirrored = self.pad_mode == "reflect" and self.left > 0
        return like.new_zeros(batch, self.in_channels, 0 if mirrored else self.left), 0, int(not mirrored)

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        carry, spent, started = state
        x = join(carry, x)
        longest = max(self.left, self.right + (self.stride - 1 if self.fill else 0))
        if not started and x.shape[-1] <= longest and not final:
            return x.new_zeros(x.shape[0], self.out_channels, 0), (x, 0, 0)
        left = 0 if started else self.left
        right = self.right + self._shortfall(x.shape[-1] - spent + left + self.right) if final else 0
        if (left or right) and (x.shape[-1] or self.pad_mode == "constant"):
            x = pad1d(x, left, right, self.pad_mode)
        n = max(0, (x.shape[-1] - spent - self.span) // self.stride + 1)
        y = self._conv(x[..., spent:]) if n else x.new_zeros(x.shape[0], self.out_channels, 0)
        used = spent + n * self.stride
        spent = min(used, self.right + self.stride) if self.pad_mode == "reflect" else 0
        return y, (x[..., used - spent :], spent, 1)

    def _shortfall(self, padded: int) -> int:
        """Frames missing at the end of `padded` ones for the last stride to be whole."""
        frames = -(-(padded - self.span) // self.stride) + 1
        return (frames - 1) * self.stride + self.span - padded if self.fill and frames > 0 else 0

    def _conv(self, x: Tensor) -> Tensor:
        if self.groups == 1 and supports(x, self.weight):
            kind = MATRICES[self.products]
            matrix = packed(self, self.products, self.weight, lambda weight: pack_conv1d(weight, kind))
            return conv1d_packed(x, self.weight, matrix, self.bias, self.stride, self.dilation)
        return F.conv1d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class ConvTranspose1d(Streamable):
    """A transposed 1-d convolution: every frame writes `kernel_size` frames, overlapping with its
    neighbours'.

    padding: "causal" cuts all the excess on the right, "centred" splits it (EnCodec: the odd frame on the
    left),
        a number cuts that many frames on each side (DAC).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding: Literal["causal", "centred"] | int = "causal",
    ):
        super().__init__()
        if kernel_size < stride:
            raise ValueError(f"kernel_size {kernel_size} leaves gaps at stride {stride}")
        excess = kernel_size - stride
        if padding == "causal":
            self.left, self.right = 0, excess
        elif padding == "centred":
            self.right = excess // 2
            self.left = excess - self.right
        elif padding <= excess:
            self.left = self.right = padding
        else:
            raise ValueError(f"padding {padding} cuts more than the overlap of {excess} frames; use less")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.groups, self.excess = kernel_size, stride, groups, excess
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels // groups, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    @property
    def rate(self) -> Fraction:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Fraction(self.stride)

    @property
    def delay(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return -(-self.left // self.stride)

    def needed(self, n: int) -> int:
        return -(-(n + self.left) // self.stride)

    @property
    def resettable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.left == 0

    def init_state(self, batch: int, like: Tensor) -> State:
        """(what past frames still add to the next ones, output frames yet to be cut at the beginning)."""
        return like.new_zeros(batch, self.out_channels, self.excess), self.left

    def step(self, x: Tensor, state: State, final: bool = False) -> tuple[Tensor, State]:
        tail, cut = state
        n = x.shape[-1] * self.stride
        if n:
            y = self._conv(x)
            # The bias comes after the overlap is added, so that it counts once.
            if self.excess and not torch.is_grad_enabled():
                y[..., : self.excess] += tail
            elif self.excess:
                y = torch.cat([y[..., : self.excess] + tail, y[..., self.excess :]], dim=-1)
        else:
            y = tail
        end = y.shape[-1] - self.right if final else n
        out, tail = y[..., min(cut, end) : max(end, 0)], y[..., n:]
        cut = max(0, cut - max(end, 0))
        if self.bias is not None:
            out = out + self.bias[:, None]
        return out, (tail, cut)

    def _conv(self, x: Tensor) -> Tensor:
        if self.groups == 1 and self.kernel_size % self.stride == 0 and supports(x, self.weight):
            matrix = packed(self, "conv", self.weight, pack_conv_transpose1d)
            return conv_transpose1d_packed(x, matrix, self.kernel_size, self.stride)
        return F.conv_transpose1d(x, self.weight, None, self.stride, groups=self.groups)
