"""SEANet, the encoder and decoder of EnCodec (Défossez et al. 2022, section 3.1 and figure 1).

    encoder   conv 7 | (residual block, ELU, strided conv) x 4 | LSTM x 2, ELU, conv 7
    decoder   conv 7, LSTM x 2 | (ELU, transposed conv, residual block) x 4 | ELU, conv 7

Shapes: B batch, C audio channels, N samples, D latent channels, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import nn

from ..layers import Chain, Conv1d, ConvTranspose1d, Residual, Streamable
from ..layers.conv import PadMode
from ..layers.lstm import LSTM
from ..layers.norm import TimeGroupNorm, Trim


@dataclass(frozen=True)
class SEANetConfig:
    """Dimensions of a SEANet encoder and decoder."""

    channels: int = 1  # audio channels
    dimension: int = 128  # latent channels
    n_filters: int = 32  # channels at the sample rate, doubled at every stride
    n_residual_layers: int = 1  # residual blocks a stride
    ratios: tuple[int, ...] = (8, 5, 4, 2)  # strides of the decoder, from latents to samples
    kernel_size: int = 7  # of the first convolution
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_base: int = 2  # the j-th residual block of a stride is dilated by dilation_base ** j
    compress: int = 2  # channels are divided by this inside a residual block
    true_skip: bool = False  # the skip is the identity instead of a 1x1 convolution
    n_lstm: int = 2  # LSTM layers
    causal: bool = True
    pad_mode: PadMode = "reflect"
    norm: Literal["none", "time_group_norm"] = "none"  # weight normalisation is folded into the weights

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return prod(self.ratios)


def seanet_encoder(config: SEANetConfig) -> Chain:
    """Waveform (B, C, N) -> latents (B, D, ceil(N / hop_length))."""
    width = config.n_filters
    layers: list[nn.Module] = [_conv(config, config.channels, width, config.kernel_size)]
    for ratio in reversed(config.ratios):
        layers += _residual_blocks(config, width)
        layers += [nn.ELU(), _conv(config, width, 2 * width, 2 * ratio, stride=ratio)]
        width *= 2
    if config.n_lstm:
        layers.append(LSTM(width, config.n_lstm))
    layers += [nn.ELU(), _conv(config, width, config.dimension, config.last_kernel_size)]
    return Chain(*layers)


def seanet_decoder(config: SEANetConfig) -> Chain:
    """Latents (B, D, T) -> waveform (B, C, T * hop_length)."""
    width = config.n_filters * 2 ** len(config.ratios)
    layers: list[nn.Module] = [_conv(config, config.dimension, width, config.kernel_size)]
    if config.n_lstm:
        layers.append(LSTM(width, config.n_lstm))
    for ratio in config.ratios:
        layers += [nn.ELU(), _conv_transpose(config, width, width // 2, ratio)]
        width //= 2
        layers += _residual_blocks(config, width)
    layers += [nn.ELU(), _conv(config, width, config.channels, config.last_kernel_size)]
    return Chain(*layers)


def _residual_blocks(config: SEANetConfig, width: int) -> list[nn.Module]:
    hidden = width // config.compress
    return [
        Residual(
            Chain(
                nn.ELU(),
                _conv(config, width, hidden, config.residual_kernel_size, dilation=config.dilation_base**j),
                nn.ELU(),
                _conv(config, hidden, width, 1),
            ),
            skip=None if config.true_skip else _conv(config, width, width, 1),
        )
        for j in range(config.n_residual_layers)
    ]


def _conv(
    config: SEANetConfig, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
) -> Streamable:
    padding = "causal" if config.causal else "centred"
    conv = Conv1d(inputs, outputs, kernel, stride, dilation, padding=padding, pad_mode=config.pad_mode)
    return Chain(conv, TimeGroupNorm(outputs)) if config.norm == "time_group_norm" else conv


def _conv_transpose(config: SEANetConfig, inputs: int, outputs: int, ratio: int) -> Streamable:
    padding = "causal" if config.causal else "centred"
    conv = ConvTranspose1d(inputs, outputs, 2 * ratio, ratio, padding=padding)
    if config.norm != "time_group_norm":
        return conv
    # The published model normalises before it cuts the overhang off.
    full = ConvTranspose1d(inputs, outputs, 2 * ratio, ratio, padding=0)
    return Chain(full, TimeGroupNorm(outputs), Trim(conv.left, conv.right))
