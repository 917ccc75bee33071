"""A transposed convolution as a product with a frame and those before it.

    kernel = m strides     out[t, r] = sum over i < m of  W[:, :, i s + r]^T frame[t - i],   r = 0 .. s - 1

What past frames still add to the next ones is not kept (m - 1 times s frames of O channels), but the frames themselves
(m - 1 of C channels): a causal convolution with m taps and s O channels, whose rows are cut into s frames. So
`causal_conv` does it, with its ring.

Shapes: B streams, T frames, C channels in, O out, s stride, m taps; channels-last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .causal_conv import Activation, causal_conv, conv_rows, supports

__all__ = [
    "PackedTranspose",
    "conv_transpose",
    "conv_transpose_reference",
    "conv_transpose_rows",
    "pack",
    "supports",
]


@dataclass(frozen=True)
class PackedTranspose:
    """weight (m, s O, C), bias and scale (s O,) or None."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    stride: int


def conv_transpose_reference(
    past: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int
) -> Tensor:
    """past (B, m - 1, C), x (B, T, C), weight (C, O, K) with K = m stride -> (B, T stride, O)."""
    frames = torch.cat([past, x], dim=1)
    y = F.conv_transpose1d(frames.transpose(1, 2), weight, bias, stride)
    first = past.shape[1] * stride
    return y[..., first : first + x.shape[1] * stride].transpose(1, 2)


def pack(weight: Tensor, bias: Tensor | None, stride: int, scale: Tensor | None = None) -> PackedTranspose:
    """weight (C, O, K), K a multiple of the stride; bias (O,); scale (O,), what the activation after it needs."""
    c, o, k = weight.shape
    if k % stride:
        raise ValueError(f"kernel_size {k} must be a multiple of the stride {stride}")
    taps = weight.view(c, o, k // stride, stride).flip(2).permute(2, 3, 1, 0)
    return PackedTranspose(
        taps.reshape(k // stride, stride * o, c).contiguous(),
        None if bias is None else bias.repeat(stride),
        None if scale is None else scale.repeat(stride),
        stride,
    )


def conv_transpose(
    x: Tensor, ring: Tensor, position: Tensor, packed: PackedTranspose, rate: int = 1,
    activation: Activation = "none",
) -> Tensor:  # fmt: skip
    """x (B, T, C) -> (B, T s, O); x goes into the ring (B, R, C), as in `causal_conv`."""
    y = causal_conv(x, ring, position, packed.weight, packed.bias, 1, rate, activation, packed.scale)
    return y.view(x.shape[0], x.shape[1] * packed.stride, -1)


def conv_transpose_rows(
    x: Tensor, packed: PackedTranspose, activation: Activation = "none", both: bool = False
) -> tuple[Tensor, Tensor]:
    """A whole signal x (B, T, C) -> twice (B, (T + m - 1) s, O), as in `causal_conv.conv_rows`: all that the frames
    write; the caller cuts the ends."""
    m = packed.weight.shape[0]
    x = F.pad(x, (0, 0, 0, m - 1))
    y, z = conv_rows(x, packed.weight, packed.bias, 1, m - 1, activation, packed.scale, None, both)
    shape = x.shape[0], x.shape[1] * packed.stride, -1
    return y.view(shape), z.view(shape) if both else z
