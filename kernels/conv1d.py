"""1-d convolution and its transpose on a CPU: PyTorch's, and as matrix products over frames in memory order.

With channels next to each other in memory, a convolution of stride s is a few matrix products over
overlapping views of the input, with no copy of it (s = 2, kernel 4):

    memory     |f0 f1|f2 f3|f4 f5|f6 f7|      rows of s frames, s * C numbers each
    y[t]     = row[t] W0 + row[t + 1] W1      W0: the first s taps, W1: the others

Where the taps of an output are many and the channels few, the windows are copied out side by side, as many as the
cache holds, for one product each. `benchmarks/codec.py` measures it against `F.conv1d`, which reorders its weights at
every call: that costs more at the few frames of a streaming chunk, and less over a whole file (docs/log.md).

Shapes: B batch, C input channels, O output channels, T frames, K taps. All tensors are (B, C, T); the fast
versions like them, and return them, with frames outermost in memory: the transpose of a contiguous (B, T, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers in a copy of windows side by side: a megabyte, which the second-level cache holds.
_COPIED = 1 << 18
# Up to this many channels a product per tap has too little to do for each pass over the output.
_NARROW = 256


def conv1d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, dilation: int = 1
) -> Tensor:
    """x (B, C, T), weight (O, C, K) -> (B, O, T'), without padding."""
    return F.conv1d(x, weight, bias, stride, 0, dilation)


def conv_transpose1d_reference(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """x (B, C, T), weight (C, O, K) -> (B, O, (T - 1) stride + K)."""
    return F.conv_transpose1d(x, weight, None, stride)


def supports(x: Tensor, weight: Tensor) -> bool:
    """Whether the fast versions may be used: float32 on a CPU, and nothing to differentiate."""
    return x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_grad_enabled()


def pack_conv1d(weight: Tensor) -> Tensor:
    """(O, C, K) -> (K C, O), for `conv1d_gemm`."""
    return weight.detach().permute(2, 1, 0).reshape(-1, weight.shape[0]).contiguous()


def pack_conv_transpose1d(weight: Tensor) -> Tensor:
    """(C, O, K) -> (C, K O), for `conv_transpose1d_gemm`."""
    return weight.detach().permute(0, 2, 1).reshape(weight.shape[0], -1).contiguous()


def conv1d_gemm(
    x: Tensor, packed: Tensor, bias: Tensor | None, kernel_size: int, stride: int = 1, dilation: int = 1
) -> Tensor:
    """As `conv1d_reference`, with the weight from `pack_conv1d`."""
    x = x.transpose(1, 2).contiguous()
    b, t, c = x.shape
    span = (kernel_size - 1) * dilation + 1
    n, out = (t - span) // stride + 1, packed.shape[1]
    copied = n * kernel_size * c
    if span == stride == 1:
        y = _product(bias, x.view(b * t, c), packed)
    elif b > 1 or c < 8 or copied < _COPIED or (stride > 1 and (dilation > 1 or kernel_size % stride)):
        windows = x.as_strided((b, n, kernel_size, c), (t * c, stride * c, dilation * c, 1))
        y = _product(bias, windows.reshape(b * n, kernel_size * c), packed)
    elif kernel_size >= 3 * stride and c <= _NARROW:
        y = _product_in_blocks(
            bias, x[0].as_strided((n, kernel_size, c), (stride * c, dilation * c, 1)), packed
        )
    else:
        rows = x[0, : t // stride * stride].view(-1, stride * c)
        taps = packed.view(-1, stride * c, out)
        y = _product(bias, rows[:n], taps[0])
        for i in range(1, taps.shape[0]):
            y.addmm_(rows[i * dilation : i * dilation + n], taps[i])
    return y.view(b, n, out).transpose(1, 2)


def conv_transpose1d_gemm(x: Tensor, packed: Tensor, kernel_size: int, stride: int) -> Tensor:
    """As `conv_transpose1d_reference`, with the weight from `pack_conv_transpose1d`; kernel_size must be a
    multiple of the stride."""
    x = x.transpose(1, 2).contiguous()
    b, t, c = x.shape
    m, out = kernel_size // stride, packed.shape[1] // kernel_size
    parts = (x.view(b * t, c) @ packed).view(b, t, m, stride * out)
    y = x.new_zeros(b, t + m - 1, stride * out)
    for i in range(m):  # part i of frame t lands on row t + i
        y[:, i : i + t] += parts[:, :, i]
    return y.view(b, (t + m - 1) * stride, out).transpose(1, 2)


def _product_in_blocks(bias: Tensor | None, windows: Tensor, b: Tensor) -> Tensor:
    """The product of windows (n, K, C), overlapping in memory, with b (K C, O)."""
    n, size, out = windows.shape[0], windows.shape[1] * windows.shape[2], b.shape[1]
    y = windows.new_empty(n, out)
    rows = max(64, _COPIED // size)
    for start in range(0, n, rows):
        part = windows[start : start + rows].reshape(-1, size)
        into = y[start : start + rows]
        if bias is None:
            torch.mm(part, b, out=into)
        else:
            torch.addmm(bias, part, b, out=into)
    return y


def _product(bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return a @ b if bias is None else torch.addmm(bias, a, b)
