"""The Descript Audio Codec (Kumar et al. 2023, "High-fidelity audio compression with improved RVQGAN"): snake
activations, dilated residual units and factorized codebooks, centred in time.

    encoder   conv 7 | (3 residual units, snake, strided conv) x 4 | snake, conv 3
    decoder   conv 7 | (snake, transposed conv, 3 residual units) x 4 | snake, conv 7, tanh

Shapes: B batch, N samples, D latent channels, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from ..layers import Chain, Conv1d, ConvTranspose1d, Residual, Snake
from .base import Codes
from .convolutional import ConvolutionalCodec, check_codes, fit
from .quantizer import FactorizedCodebook, ResidualVQ


@dataclass(frozen=True)
class DACConfig:
    """Dimensions of a DAC; the defaults are the published 44.1 kHz model at 8 kbps."""

    name: str = "dac-44k"
    sample_rate: int = 44_100
    encoder_dim: int = 64  # channels at the sample rate, doubled at every stride
    encoder_rates: tuple[int, ...] = (2, 4, 8, 8)
    latent_dim: int = 1024
    decoder_dim: int = 1536  # channels at the frame rate, halved at every stride
    decoder_rates: tuple[int, ...] = (8, 8, 4, 2)
    n_codebooks: int = 9
    codebook_size: int = 1024
    codebook_dim: int = 8


DAC_44K = DACConfig()
DAC_44K_16KBPS = DACConfig(name="dac-44k-16kbps", latent_dim=128, n_codebooks=18)
DAC_24K = DACConfig(
    name="dac-24k", sample_rate=24_000, encoder_rates=(2, 4, 5, 8), decoder_rates=(8, 5, 4, 2), n_codebooks=32
)
DAC_16K = DACConfig(
    name="dac-16k", sample_rate=16_000, encoder_rates=(2, 4, 5, 8), decoder_rates=(8, 5, 4, 2), n_codebooks=12
)


class DAC(ConvolutionalCodec):
    """DAC, mono; the channels of a recording go into the batch.

    The input is filled with zeros to whole frames. With an odd stride among the decoder's (24 and 16 kHz) its
    output falls a few samples short of them (8 in the published models); decoding fills these with zeros.
    """

    channels = 1
    whole_frames = True

    def __init__(self, config: DACConfig = DAC_44K):
        super().__init__()
        self.config, self.name, self.sample_rate = config, config.name, config.sample_rate
        self.frame_size, self.decoder_channels = prod(config.encoder_rates), config.latent_dim
        self.n_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        self.encoder = dac_encoder(config)
        self.quantizer = ResidualVQ(
            [
                FactorizedCodebook(config.latent_dim, config.codebook_size, config.codebook_dim)
                for _ in range(config.n_codebooks)
            ]
        )
        self.decoder = dac_decoder(config)
        self.delay = self.encoder.delay + self.decoder.delay * self.frame_size

    def decode(self, codes: Codes) -> Tensor:
        with torch.no_grad():
            if not codes.codes.is_cuda:
                return super().decode(codes)
            from . import dac_fused  # with Triton, which a CPU does not need and is slow to import

            if not dac_fused.supports(self, codes.codes.shape[-1]):
                return super().decode(codes)
            check_codes(self, codes.codes)
            latents = self.quantizer.decode(codes.codes)
            return fit(dac_fused.fused_decoder(self)(latents).to(latents.dtype), codes.n_samples)


def dac_encoder(config: DACConfig) -> Chain:
    """Waveform (B, 1, N) -> latents (B, D, T); T = N / hop for whole frames."""
    width = config.encoder_dim
    layers: list[nn.Module] = [_conv(1, width, 7)]
    for stride in config.encoder_rates:
        down = Conv1d(width, 2 * width, 2 * stride, stride, padding=(stride + 1) // 2, fill=False)
        layers.append(Chain(*_residual_units(width), Snake(width), down))
        width *= 2
    return Chain(*layers, Snake(width), _conv(width, config.latent_dim, 3))


def dac_decoder(config: DACConfig) -> Chain:
    """Latents (B, D, T) -> waveform (B, 1, about T * hop)."""
    width = config.decoder_dim
    layers: list[nn.Module] = [_conv(config.latent_dim, width, 7)]
    for stride in config.decoder_rates:
        up = ConvTranspose1d(width, width // 2, 2 * stride, stride, padding=(stride + 1) // 2)
        layers.append(Chain(Snake(width), up, *_residual_units(width // 2)))
        width //= 2
    return Chain(*layers, Snake(width), _conv(width, 1, 7), nn.Tanh())


def _residual_units(width: int) -> list[Residual]:
    return [
        Residual(Chain(Snake(width), _conv(width, width, 7, dilation), Snake(width), _conv(width, width, 1)))
        for dilation in (1, 3, 9)
    ]


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> Conv1d:
    return Conv1d(
        inputs, outputs, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2, fill=False
    )
