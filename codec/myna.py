"""The house codec: a frame-rate backbone between two short-time transforms.

    wav -> Frames -> log-compressed spectrum -> ConvNeXt at 100 Hz -> stride 2 -> ConvNeXt at 50 Hz -> latents
        -> residual VQ (8 x 1024, 50 frames a second, 4 kbps)
        -> ConvNeXt at 50 Hz -> x 2 -> ConvNeXt at 100 Hz -> spectrum -> OverlapAdd -> wav

Everything is causal. Only the overlap of the synthesis windows looks ahead: `delay` samples (one frame at most).
After Siuzdak, "Vocos", 2023 (Fourier head), with DAC's quantizer and snake.

Shapes: B batch, N samples, F bins, D latent channels, T frames, K codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.conv import Conv1d, ConvTranspose1d
from ..layers.convnext import ChannelNorm, ConvNeXtBlock, Pointwise
from ..layers.spectral import Frames, OverlapAdd
from ..layers.streaming import Chain, State, Stream, Streamable
from .base import Codec, Codes
from .quantizer import EMACodebook, FactorizedCodebook, QuantizedResult, ResidualVQ


@dataclass(frozen=True)
class MynaConfig:
    """Dimensions of the model; the defaults are `myna-24k`."""

    name: str = "myna-24k"
    sample_rate: int = 24_000
    hop: int = 240  # samples a spectrum: 100 Hz
    window: int = 720  # of analysis and synthesis; window - hop samples are the model's look-ahead
    stride: int = 2  # spectra a code frame: 50 Hz
    width: int = 256  # channels at the rate of the spectra
    latent_width: int = 384  # channels at the rate of the codes
    encoder_depth: tuple[int, int] = (2, 4)  # ConvNeXt blocks at 100 Hz, at 50 Hz
    decoder_depth: tuple[int, int] = (4, 4)  # ConvNeXt blocks at 50 Hz, at 100 Hz
    expansion: int = 3  # hidden width of a block, times its channels
    kernel_size: int = 7
    latent_dim: int = 64
    quantizer: str = "factorized"  # or "ema"
    n_codebooks: int = 8
    codebook_size: int = 1024
    codebook_dim: int = 16  # of factorized codebooks
    dead_code_share: float = 0.2  # codes used less than this share of the average are replaced while training

    @property
    def frame_size(self) -> int:
        return self.hop * self.stride


class Spectrum(nn.Module):
    """Frames (B, W, T) to real features (B, 3F, T): the spectrum with its magnitude compressed, and its log.

    A loud and a quiet voice, a vowel and its consonants differ by orders of magnitude; the power 0.3 and the
    logarithm bring all of them to the scale that a network reads.
    """

    window: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.features = 3 * (size // 2 + 1)
        self.register_buffer("window", torch.hann_window(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 0:  # the FFT library refuses an empty batch
            return x.new_zeros(x.shape[0], self.features, 0)
        with torch.autocast(x.device.type, enabled=False):
            s = torch.fft.rfft(x.float().transpose(1, 2) * self.window)
            power = s.real.square() + s.imag.square() + 1e-6
            squeeze = power.pow(-0.35)
            y = torch.cat([s.real * squeeze, s.imag * squeeze, 0.25 * power.log()], dim=-1)
        return y.transpose(1, 2).to(x.dtype)


class FourierHead(nn.Module):
    """Features (B, D, T) to windowed frames (B, W, T) through exp(m) (a + ib), one m, a and b a bin.

    The exponent spans the range of speech levels, the linear pair its signs and phases without a jump.
    """

    window: Tensor

    def __init__(self, channels: int, size: int, hop: int):
        super().__init__()
        self.size, self.bins = size, size // 2 + 1
        self.norm = ChannelNorm(channels)
        self.project = Pointwise(channels, 3 * self.bins)
        with torch.no_grad():
            self.project.linear.weight.mul_(0.5)
            self.project.linear.bias[: self.bins].fill_(-0.5)
        # Hann windows at a third of their length or less add up to a constant: divide by it.
        window = torch.hann_window(size)
        self.register_buffer("window", window * (hop / window.sum()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], self.size, 0)
        y = self.project(self.norm(x)).transpose(1, 2).float()
        m, a, b = y.split(self.bins, dim=-1)
        gain = m.clamp(max=5.0).exp() * self.size**0.5
        with torch.autocast(x.device.type, enabled=False):
            frames = torch.fft.irfft(torch.complex(gain * a, gain * b), n=self.size)
        return (frames * self.window).transpose(1, 2)


def _blocks(channels: int, depth: int, config: MynaConfig) -> list[nn.Module]:
    return [ConvNeXtBlock(channels, channels * config.expansion, config.kernel_size) for _ in range(depth)]


def build_encoder(config: MynaConfig) -> Chain:
    """wav (B, 1, N) -> latents (B, D, T)."""
    spectrum, s = Spectrum(config.window), config.stride
    return Chain(
        Frames(config.window, config.hop),
        spectrum,
        Pointwise(spectrum.features, config.width),
        ChannelNorm(config.width),
        *_blocks(config.width, config.encoder_depth[0], config),
        Conv1d(config.width, config.latent_width, 2 * s, stride=s),
        *_blocks(config.latent_width, config.encoder_depth[1], config),
        ChannelNorm(config.latent_width),
        Pointwise(config.latent_width, config.latent_dim),
    )


def build_decoder(config: MynaConfig) -> Chain:
    """latents (B, D, T) -> wav (B, 1, T * frame_size), `lag` samples late."""
    s = config.stride
    return Chain(
        Conv1d(config.latent_dim, config.latent_width, 3),
        ChannelNorm(config.latent_width),
        *_blocks(config.latent_width, config.decoder_depth[0], config),
        ConvTranspose1d(config.latent_width, config.width, 2 * s, stride=s),
        *_blocks(config.width, config.decoder_depth[1], config),
        FourierHead(config.width, config.window, config.hop),
        OverlapAdd(config.window, config.hop),
    )


def build_quantizer(config: MynaConfig) -> ResidualVQ:
    k, v = config.n_codebooks, config.codebook_size
    if config.quantizer == "ema":
        return ResidualVQ([EMACodebook(config.latent_dim, v) for _ in range(k)])
    if config.quantizer == "factorized":
        d, share = config.codebook_dim, config.dead_code_share
        return ResidualVQ([FactorizedCodebook(config.latent_dim, v, d, share) for _ in range(k)])
    raise ValueError(f"quantizer {config.quantizer!r} is neither 'factorized' nor 'ema'")


@dataclass(frozen=True)
class TrainingResult:
    """wav (B, 1, N) reconstructed, and what the quantizer reports."""

    wav: Tensor
    quantizer: QuantizedResult | None


class MynaCodec(Codec):
    """`myna-24k`: causal, 24 kHz mono, 50 frames a second, 8 codebooks of 1024."""

    channels = 1

    def __init__(self, config: MynaConfig | None = None):
        super().__init__()
        self.config = config = config or MynaConfig()
        self.name, self.sample_rate, self.frame_size = config.name, config.sample_rate, config.frame_size
        self.n_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        self.delay = config.window - config.hop
        self.encoder, self.quantizer, self.decoder = (
            build_encoder(config),
            build_quantizer(config),
            build_decoder(config),
        )

    def n_frames(self, n_samples: int) -> int:
        """Frames of a waveform: enough for its last sample to be covered by every window that reaches it."""
        return -(-(n_samples + self.delay) // self.frame_size)

    def latents(self, wav: Tensor) -> Tensor:
        """wav (B, 1, N) -> (B, D, T)."""
        n = wav.shape[-1]
        return self.encoder(F.pad(wav, (0, self.n_frames(n) * self.frame_size - n)))

    def encode(self, wav: Tensor, n_codebooks: int | None = None) -> Codes:
        return Codes(self.quantizer.encode(self.latents(wav), n_codebooks), wav.shape[-1])

    def decode(self, codes: Codes) -> Tensor:
        wav = self.decoder(self.quantizer.decode(codes.codes))
        return wav[..., self.delay : self.delay + codes.n_samples]

    def encoder_stream(self, batch: int = 1, n_codebooks: int | None = None) -> MynaEncoderStream:
        return MynaEncoderStream(self, batch, n_codebooks)

    def decoder_stream(self, batch: int = 1) -> MynaDecoderStream:
        return MynaDecoderStream(self, batch)

    def forward(
        self, wav: Tensor, n_codebooks: Tensor | None = None, unquantized: Tensor | None = None
    ) -> TrainingResult:
        """One training pass. n_codebooks (B,): how many each example uses. unquantized (B,): examples whose
        latents pass as they are; True for all while the codec warms up."""
        n = wav.shape[-1]
        latents = self.latents(wav)
        result = None
        z = latents
        if unquantized is None or not bool(unquantized.all()):
            result = self.quantizer(latents, n_codebooks)
            z = result.quantized
            if unquantized is not None:
                z = torch.where(unquantized.to(z.device)[:, None, None], latents, z)
        return TrainingResult(self.decoder(z)[..., self.delay : self.delay + n], result)


class MynaEncoderStream:
    """wav chunks to codes: one frame for every `frame_size` samples, none late."""

    def __init__(self, codec: MynaCodec, batch: int, n_codebooks: int | None):
        self.codec, self.n_codebooks, self.n_samples = codec, n_codebooks, 0
        self.stream = Stream(codec.encoder, batch)

    @torch.inference_mode()
    def push(self, wav: Tensor) -> Tensor:
        """wav (B, 1, n), any n -> codes (B, K, t)."""
        self.n_samples += wav.shape[-1]
        return self._codes(self.stream.push(wav))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The frames of the last, partial hop and of the overlap after it."""
        n = self.codec.n_frames(self.n_samples) * self.codec.frame_size - self.n_samples
        like = next(self.codec.parameters())
        return self._codes(self.stream.flush(like.new_zeros(self.stream.batch, 1, n)))

    def fork(self) -> MynaEncoderStream:
        """An independent copy that continues from here."""
        other = MynaEncoderStream(self.codec, self.stream.batch, self.n_codebooks)
        other.stream, other.n_samples = self.stream.fork(), self.n_samples
        return other

    def _codes(self, latents: Tensor) -> Tensor:
        if latents.shape[-1] == 0:
            k = self.n_codebooks or self.codec.n_codebooks
            return torch.zeros(latents.shape[0], k, 0, dtype=torch.long, device=latents.device)
        return self.codec.quantizer.encode(latents, self.n_codebooks)


class MynaDecoderStream:
    """codes to wav chunks: `frame_size` samples a frame, `delay` fewer the first time."""

    def __init__(self, codec: MynaCodec, batch: int):
        self.codec, self.lag = codec, codec.delay
        self.stream = Stream(codec.decoder, batch)

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Tensor:
        """codes (B, K, t), any t -> wav (B, 1, n)."""
        return self._step(codes, final=False)

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """Nothing is owed: the encoder has already coded the overlap. Ends the stream."""
        empty = torch.zeros(self.stream.batch, 1, 0, dtype=torch.long)
        return self._step(empty, final=True)

    def fork(self) -> MynaDecoderStream:
        """An independent copy that continues from here."""
        other = MynaDecoderStream(self.codec, self.stream.batch)
        other.stream, other.lag = self.stream.fork(), self.lag
        return other

    def _step(self, codes: Tensor, final: bool) -> Tensor:
        if codes.shape[-1]:
            z = self.codec.quantizer.decode(codes)
        else:
            z = next(self.codec.parameters()).new_zeros(codes.shape[0], self.codec.config.latent_dim, 0)
        wav = self.stream.flush(z) if final else self.stream.push(z)
        dropped = min(self.lag, wav.shape[-1])
        self.lag -= dropped
        return wav[..., dropped:]
