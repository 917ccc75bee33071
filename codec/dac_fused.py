"""DAC's decoder on whole signals, channels-last, on a GPU: 24 to 32 launches.

    conv 7 | (transposed conv, 3 residual units) x 4 | conv 7, tanh        every snake is part of what comes before it

What a snake makes is written by the launch that makes its input, beside that input where a residual needs it. Units of
up to `widest` channels are one launch, wider ones two.

Shapes: B batch, D latent channels, T frames, N samples.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..kernels.gpu.causal_conv import conv_rows, runs_on
from ..kernels.gpu.conv_transpose import conv_transpose_rows, pack
from ..kernels.gpu.residual_unit import UnitWeights, residual_unit_rows
from ..kernels.packed import packed
from ..layers import ConvTranspose1d, Residual
from .convolutional import ConvolutionalCodec

LONGEST = 4096  # frames at once: activations take 2 MB a frame


def supports(codec: ConvolutionalCodec, frames: int) -> bool:
    """Whether the fused decoder may be used, and pays: on a GPU, for inference, in 16 bits. In float32 PyTorch's
    convolutions use the tensor cores (TF32), these do not."""
    like = next(codec.decoder.parameters())
    return runs_on(like) and like.dtype.itemsize == 2 and frames <= LONGEST and not torch.is_grad_enabled()


def fused_decoder(codec: ConvolutionalCodec) -> FusedDACDecoder:
    """Of a codec that is supported; made once."""
    like = next(codec.decoder.parameters())
    return packed(codec, "fused decoder", like, lambda _: FusedDACDecoder(codec, like.dtype))


class FusedDACDecoder:
    """The weights of a DAC's decoder in `dtype`, packed. widest: channels of a unit that is one launch."""

    def __init__(
        self, codec: ConvolutionalCodec, dtype: torch.dtype = torch.bfloat16, widest: int | None = None
    ):
        self.dtype = dtype
        self.widest = (256 if dtype.itemsize == 2 else 64) if widest is None else widest
        first, *stages, snake, last, _ = cast("list[Any]", list(codec.decoder.layers))
        self._first, self._last = self._conv(first), self._conv(last)
        self._stages: list[tuple[Any, int, list[tuple[UnitWeights, int]]]] = []
        self._alphas: list[
            Tensor
        ] = []  # of the snake before each stage's transposed convolution, and the last
        for stage in stages:
            bend, up, *units = stage.layers
            self._alphas.append(_alpha(bend))
            self._stages.append((self._up(up, units[0]), up.left, [self._unit(unit) for unit in units]))
        self._alphas.append(_alpha(snake))

    def _conv(self, layer: Any) -> tuple[Tensor, Tensor]:
        weight = layer.weight.detach().permute(2, 0, 1).to(self.dtype).contiguous()
        return weight, layer.bias.detach().float()

    def _up(self, layer: ConvTranspose1d, unit: Residual) -> Any:
        alpha = _alpha(cast("Any", unit.body).layers[0])
        return pack(
            layer.weight.detach().to(self.dtype),
            cast(Tensor, layer.bias).detach().float(),
            layer.stride,
            alpha,
        )

    def _unit(self, unit: Residual) -> tuple[UnitWeights, int]:
        bend1, conv1, bend2, conv2 = cast("Any", unit.body).layers
        (w1, b1), (w2, b2) = self._conv(conv1), self._conv(conv2)
        return UnitWeights(_alpha(bend1), w1, b1, _alpha(bend2), w2[0], b2), conv1.dilation

    def __call__(self, latents: Tensor) -> Tensor:
        """latents (B, D, T) -> waveform (B, 1, about T hops), as the codec's decoder."""
        x = latents.transpose(1, 2).to(self.dtype).contiguous()
        weight, bias = self._first
        z, _ = conv_rows(
            x, weight, bias, left=weight.shape[0] // 2, activation="snake", scale=self._alphas[0]
        )
        for (up, cut, units), following in zip(self._stages, self._alphas[1:], strict=True):
            x, z = conv_transpose_rows(z, up, "snake", both=True)
            x, z = (v[:, cut : v.shape[1] - cut].contiguous() for v in (x, z))
            after = [unit.alpha1 for unit, _ in units[1:]] + [following]
            for (w, dilation), alpha in zip(units, after, strict=True):
                left = (w.weight1.shape[0] - 1) * dilation // 2
                if x.shape[2] <= self.widest:
                    x, z = residual_unit_rows(x, w, dilation, left, z, alpha)
                    continue
                h, _ = conv_rows(z, w.weight1, w.bias1, dilation, left, "snake", w.alpha2)
                x, z = conv_rows(h, w.weight2[None], w.bias2, 1, 0, "snake", alpha, x, True)
        weight, bias = self._last
        y, _ = conv_rows(z, weight, bias, left=weight.shape[0] // 2)
        return y.transpose(1, 2).float().tanh()


def _alpha(snake: Any) -> Tensor:
    return snake.alpha.detach().float().flatten().contiguous()
