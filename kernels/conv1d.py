"""1-d convolution and its transpose on a CPU: PyTorch's, and as matrix products with weights packed beforehand.

`F.conv1d` turns its weight around at every call, which costs more than the arithmetic at the few frames of a
streaming chunk. oneDNN's packed convolutions do so whenever the number of frames asks for another order; its packed
matrices have one order for all. So the windows of the input are copied out side by side and multiplied:

    memory   | f0 | f1 | f2 | f3 | f4 | f5 |     frames of C numbers, next to each other
    windows  | f0 f1 f2 |                        rows of K C numbers, one every `stride` frames,
                  | f1 f2 f3 |                   times the weight (K C, O)

Over many frames the copies cost more than turning a small weight around, and oneDNN's convolution takes over, which
reads the same memory. docs/log.md has all of them measured.

Shapes: B batch, C input channels, O output channels, T frames, K taps. All tensors are (B, C, T); the fast
versions like them, and return them, with frames outermost in memory: the transpose of a contiguous (B, T, C).
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

# What PyTorch's compiler calls too; not built on every platform.
_PACKS = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)
_TYPICAL = 64  # rows that a weight is packed for; the order is the same for others
_SMALL = 1 << 18  # numbers in a weight that is turned around in no time: a megabyte
_MANY = 1 << 24  # multiplications in a product that is worth turning it around
_COPIED = 1 << 19  # numbers in a copy of windows: what the third-level cache has to spare


class PackedMatrix:
    """A matrix (I, O) to multiply rows with, in the orders that are fast: made when they are first needed."""

    def __init__(self, matrix: Tensor):
        self._matrix = matrix.detach()

    @cached_property
    def plain(self) -> Tensor:
        """(I, O) row by row: what a product with a single row reads at full speed."""
        return self._matrix.contiguous()

    @cached_property
    def _ordered(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self._matrix.t().contiguous(), _TYPICAL)

    def taken(self, x: Tensor) -> Tensor:
        """x in the type that `product` multiplies: rows that are copied several times are turned before."""
        return x

    def product(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """rows (n, I) -> (n, O)."""
        if rows.shape[0] == 1:
            return rows @ self.plain if bias is None else torch.addmm(bias, rows, self.plain)
        return torch.ops.mkldnn._linear_pointwise(rows, self._ordered, bias, "none", [], "")


def conv1d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, dilation: int = 1
) -> Tensor:
    """x (B, C, T), weight (O, C, K) -> (B, O, T'), without padding."""
    return F.conv1d(x, weight, bias, stride, 0, dilation)


def conv_transpose1d_reference(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """x (B, C, T), weight (C, O, K) -> (B, O, (T - 1) stride + K)."""
    return F.conv_transpose1d(x, weight, None, stride)


def supports(x: Tensor, weight: Tensor) -> bool:
    """Whether the fast versions may be used: float32 on a CPU, nothing to differentiate, and a weight that counts its
    changes (one made in inference mode does not), so that its packed copy can be kept."""
    return (
        _PACKS
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not weight.is_inference()
    )


def pack_conv1d(weight: Tensor, kind: type[PackedMatrix] = PackedMatrix) -> PackedMatrix:
    """(O, C, K) for `conv1d_packed`. kind: the matrix, of the precision that products are to have."""
    if weight.shape[0] == 1:  # each frame is multiplied with every tap, and what belongs together is added up
        return kind(weight[0])
    return kind(weight.permute(2, 1, 0).flatten(0, 1))


def pack_conv_transpose1d(weight: Tensor) -> PackedMatrix:
    """(C, O, K) for `conv_transpose1d_packed`."""
    return PackedMatrix(weight.permute(0, 2, 1).flatten(1))


def conv1d_packed(
    x: Tensor, weight: Tensor, packed: PackedMatrix, bias: Tensor | None, stride: int = 1, dilation: int = 1
) -> Tensor:
    """As `conv1d_reference`, with the weight as it is and from `pack_conv1d`."""
    x = x.transpose(1, 2).contiguous()
    b, t, c = x.shape
    out, _, k = weight.shape
    n = (t - (k - 1) * dilation - 1) // stride + 1
    if k == stride == 1 and out > 1:
        y = packed.product(x.view(b * t, c), bias)
    elif out == 1:
        taps = packed.product(x.view(b * t, c))
        y = taps.as_strided((b, n, k), (t * k, stride * k, dilation * k + 1)).sum(2)
        y = y if bias is None else y + bias
    elif type(packed) is PackedMatrix and b * n * weight.numel() >= _MANY and weight.numel() <= _SMALL:
        rows = x.transpose(1, 2)[:, :, None]
        return torch.mkldnn_convolution(
            rows, weight[:, :, None], bias, (0, 0), (1, stride), (1, dilation), 1
        )[:, :, 0]
    else:
        x = packed.taken(x)
        windows = x.as_strided((b, n, k, c), (t * c, stride * c, dilation * c, 1))
        at_once = n if b > 1 else max(64, _COPIED // (k * c))
        parts = [packed.product(part.reshape(-1, k * c), bias) for part in windows.split(at_once, 1)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
    return y.view(b, n, out).transpose(1, 2)


def conv_transpose1d_packed(x: Tensor, packed: PackedMatrix, kernel_size: int, stride: int) -> Tensor:
    """As `conv_transpose1d_reference`, with the weight from `pack_conv_transpose1d`; kernel_size must be a
    multiple of the stride."""
    x = x.transpose(1, 2).contiguous()
    b, t, c = x.shape
    m = kernel_size // stride
    parts = packed.product(x.view(b * t, c)).view(b, t, m, -1)
    y = x.new_empty(b, t + m - 1, parts.shape[-1])
    y[:, :t], y[:, t:] = parts[:, :, 0], 0
    for i in range(1, m):  # part i of frame t lands on row t + i
        y[:, i : i + t] += parts[:, :, i]
    return y.view(b, (t + m - 1) * stride, -1).transpose(1, 2)
