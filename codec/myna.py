"""`myna-24k`: a frame-rate backbone between two short-time transforms.

    wav -> MDCT, companded -> ConvNeXt at 100 Hz -> stride 2 -> ConvNeXt at 50 Hz -> latents
        -> residual VQ (8 x 1024, 50 frames a second, 4 kbps)
        -> ConvNeXt at 50 Hz -> x 2 -> ConvNeXt at 100 Hz -> expanded, inverse MDCT -> wav

The residual stream is linear from end to end: with its blocks at zero the network is a transform codec, and
`init_from_data` makes it the best such one (principal axes, k-means codebooks), from where training starts.
Everything is causal. The overlap of the synthesis windows looks ahead by half a frame; a decoder with `look_ahead`
speaks so many frames later, and has read the codes in between. Both together are `delay` samples.
After Siuzdak, "Vocos", 2023 (ConvNeXt at the frame rate, a transform for a head), with DAC's quantizer and snake.

Shapes: B batch, N samples, W window, H hop (= coefficients of a transform), D latent channels, T frames, K codebooks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..layers.conv import Conv1d, ConvTranspose1d
from ..layers.convnext import ConvNeXtBlock, Pointwise
from ..layers.spectral import Frames, OverlapAdd
from ..layers.steady import SteadyStream
from ..layers.streaming import Chain, Stream
from .base import Codes
from .convolutional import blocks, check_codes, check_n_codebooks, check_wav, fit
from .formats.context_model import ContextModel
from .packet_search import PacketSearch
from .quantizer import EMACodebook, FactorizedCodebook, ResidualVQ
from .trainable import TrainableCodec


@dataclass(frozen=True)
class MynaConfig:
    """Dimensions of the model; the defaults are `myna-24k`."""

    name: str = "myna-24k"
    sample_rate: int = 24_000
    hop: int = 240  # samples a transform: 100 Hz; windows of two hops overlap by one, the model's look-ahead
    stride: int = 2  # transforms a code frame: 50 Hz
    width: int = 256  # channels at the rate of the transforms, at least `hop`
    latent_width: int = 384  # channels at the rate of the codes
    encoder_depth: tuple[int, int] = (2, 4)  # ConvNeXt blocks at 100 Hz, at 50 Hz
    decoder_depth: tuple[int, int] = (4, 4)  # ConvNeXt blocks at 50 Hz, at 100 Hz
    expansion: int = 3  # hidden width of a block, times its channels
    kernel_size: int = 7
    look_ahead: int = 0  # code frames that the decoder waits for
    latent_dim: int = 64
    quantizer: str = "ema"  # or "factorized"
    n_codebooks: int = 8
    codebook_size: int = 1024
    codebook_dim: int = 16  # of factorized codebooks
    n_paths: int = 8  # of the search for codes (EMA codebooks), 1: there is none
    rate_weight: float = 0.04  # what the search pays for a bit of entropy-coded file, see ResidualVQ
    dead_code_share: float = 0.2  # codes used less than this share of the average are replaced while training

    @property
    def frame_size(self) -> int:
        return self.hop * self.stride


KNEE = 0.1  # of the companding curve: linear well below its square, a square root well above


def compress(x: Tensor) -> Tensor:
    """sign(x) (sqrt(|x| + k^2) - k): loud and quiet on a scale that a network reads."""
    return x.sign() * ((x.abs() + KNEE**2).sqrt() - KNEE)


def expand(c: Tensor) -> Tensor:
    """The inverse of `compress`: c (|c| + 2k)."""
    return c * (c.abs() + 2 * KNEE)


class MDCT(nn.Module):
    """The modified discrete cosine transform (Princen and Bradley 1986) with a sine window, as a matrix.

    Frames of 2H samples to H coefficients; the transpose and overlap-add give the samples back exactly.
    """

    basis: Tensor

    def __init__(self, hop: int):
        super().__init__()
        n, k = torch.arange(2 * hop, dtype=torch.float64)[:, None], torch.arange(hop, dtype=torch.float64)
        cosine = torch.cos(math.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5)) * (2 / hop) ** 0.5
        window = torch.sin(math.pi / (2 * hop) * (n + 0.5))
        self.register_buffer("basis", (cosine * window).float(), persistent=False)  # (2H, H)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 2H, T) -> (B, H, T)."""
        return torch.einsum("bwt,wh->bht", frames.float(), self.basis)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """(B, H, T) -> windowed frames (B, 2H, T)."""
        return torch.einsum("bht,wh->bwt", coefficients.float(), self.basis)


class Analysis(nn.Module):
    """Frames (B, 2H, T) to features (B, 2H, T): companded MDCT coefficients, and the logarithm of the power
    around each of them, which unlike one coefficient does not swing with the phase."""

    scale: Tensor

    def __init__(self, hop: int):
        super().__init__()
        self.hop, self.mdct = hop, MDCT(hop)
        self.register_buffer("scale", torch.full((hop, 1), 0.05))  # typical size of each coefficient

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            c = self.mdct(x) / self.scale
            power = c.square()
            if power.shape[-1]:  # a chunk too short for a frame, which torch's pooling refuses
                power = F.avg_pool1d(power.transpose(1, 2), 5, stride=1, padding=2).transpose(1, 2)
            return torch.cat([compress(c), 0.25 * (power + KNEE**4).log()], dim=1)


class Synthesis(nn.Module):
    """Features (B, width, T) to windowed frames (B, 2H, T): a linear map, expanded, through the inverse MDCT."""

    scale: Tensor

    def __init__(self, channels: int, hop: int):
        super().__init__()
        self.project, self.mdct = Pointwise(channels, hop), MDCT(hop)
        self.register_buffer("scale", torch.full((hop, 1), 0.05))

    def forward(self, x: Tensor) -> Tensor:
        c = self.project(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.mdct.inverse(expand(c.float()) * self.scale)


def _blocks(channels: int, depth: int, config: MynaConfig) -> list[nn.Module]:
    return [ConvNeXtBlock(channels, channels * config.expansion, config.kernel_size) for _ in range(depth)]


def build_encoder(config: MynaConfig) -> Chain:
    """wav (B, 1, N) -> latents (B, D, T)."""
    s = config.stride
    return Chain(
        Frames(2 * config.hop, config.hop),
        Analysis(config.hop),
        Pointwise(2 * config.hop, config.width),
        *_blocks(config.width, config.encoder_depth[0], config),
        Conv1d(config.width, config.latent_width, 2 * s, stride=s),
        *_blocks(config.latent_width, config.encoder_depth[1], config),
        Pointwise(config.latent_width, config.latent_dim),
    )


def build_decoder(config: MynaConfig) -> Chain:
    """latents (B, D, T) -> wav (B, 1, T * frame_size), one hop and `look_ahead` frames late."""
    s = config.stride
    return Chain(
        Conv1d(config.latent_dim, config.latent_width, 3 + config.look_ahead),
        *_blocks(config.latent_width, config.decoder_depth[0], config),
        ConvTranspose1d(config.latent_width, config.width, 2 * s, stride=s),
        *_blocks(config.width, config.decoder_depth[1], config),
        Synthesis(config.width, config.hop),
        OverlapAdd(2 * config.hop, config.hop),
    )


def build_quantizer(config: MynaConfig) -> ResidualVQ:
    k, v = config.n_codebooks, config.codebook_size
    if config.quantizer == "ema":
        return ResidualVQ(
            [EMACodebook(config.latent_dim, v) for _ in range(k)], config.n_paths, config.rate_weight
        )
    if config.quantizer == "factorized":
        d, share = config.codebook_dim, config.dead_code_share
        return ResidualVQ([FactorizedCodebook(config.latent_dim, v, d, share) for _ in range(k)])
    raise ValueError(f"quantizer {config.quantizer!r} is neither 'factorized' nor 'ema'")


class MynaCodec(TrainableCodec):
    """`myna-24k`: causal, 24 kHz mono, 50 frames a second, 8 codebooks of 1024."""

    channels = 1
    decoder: Chain
    # What the blocks add to the stream. The stream's own layers, which hold rows of very different size, do not bear it
    # (the first costs 20 dB of the latents); averages are read in training only.
    fit_for_int8 = ("expand.weight", "contract.weight", "embed_avg")

    def __init__(self, config: MynaConfig | None = None):
        super().__init__()
        self.config = config = config or MynaConfig()
        self.name, self.sample_rate, self.frame_size = config.name, config.sample_rate, config.frame_size
        self.n_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        self.delay = config.hop + config.look_ahead * config.frame_size
        self.encoder, self.quantizer, self.decoder = (
            build_encoder(config),
            build_quantizer(config),
            build_decoder(config),
        )

    @torch.no_grad()
    def init_from_data(self, wav: Tensor) -> None:
        """Become the best transform codec for wav (B, 1, N), from which training then starts.

        Coefficients are scaled to unit size, `latent_dim` principal axes of a code frame's coefficients are the
        latents, and the codebooks are k-means centres. A few hundred seconds of speech are enough.
        """
        h, s = self.config.hop, self.config.stride
        frames, analysis, stem, *rest = cast("list[Any]", list(self.encoder.layers))
        down = next(layer for layer in rest if isinstance(layer, Conv1d))
        lift, *others = cast("list[Any]", list(self.decoder.layers))
        up = next(layer for layer in others if isinstance(layer, ConvTranspose1d))
        synthesis = others[-2]
        coefficients = analysis.mdct(frames(wav))
        scale = coefficients.square().mean(dim=(0, 2)).sqrt()[:, None].clamp(min=1e-4)
        analysis.scale.copy_(scale)
        synthesis.scale.copy_(scale)
        c = compress(coefficients / scale)
        t = c.shape[-1] // s
        pairs = c[..., : t * s].reshape(len(c), h, t, s).permute(0, 2, 3, 1).reshape(-1, s * h)  # (B T, s h)
        axes = torch.linalg.eigh(pairs.t() @ pairs / len(pairs)).eigenvectors.flip(1)
        n = min(self.config.latent_width, s * h)
        axes = axes[:, :n].reshape(s, h, n)

        def eye(rows: int, columns: int) -> Tensor:
            return torch.eye(rows, columns, device=wav.device)

        for weight in (stem.linear.weight, down.weight, rest[-1].linear.weight, lift.weight, up.weight):
            weight.mul_(0.02)  # what the start does not use stays small, but can learn
        synthesis.project.linear.weight.mul_(0.02)
        stem.linear.weight[:h, :h] += eye(h, h)
        down.weight[:n, :h, -s:] += axes.permute(2, 1, 0)
        rest[-1].linear.weight[:, :n] += eye(self.config.latent_dim, n)
        lift.weight[:n, :, -1 - self.config.look_ahead] += eye(n, self.config.latent_dim)
        up.weight[:n, :h, :s] += axes.permute(2, 1, 0)
        synthesis.project.linear.weight[:, :h] += eye(h, h)
        for layer in (stem.linear, down, rest[-1].linear, lift, up, synthesis.project.linear):
            cast("Tensor", layer.bias).zero_()
        self.quantizer.init_from(self.latents(wav))

    def n_frames(self, n_samples: int) -> int:
        """Frames of a waveform: enough for its last sample to be covered by every window that reaches it. What a
        decoder waits for beyond them is not coded, so that files are as long whatever decoder reads them."""
        return -(-(n_samples + self.config.hop) // self.frame_size)

    def latents(self, wav: Tensor) -> Tensor:
        """wav (B, 1, N) -> (B, D, T)."""
        n = wav.shape[-1]
        return self.encoder(F.pad(wav, (0, self.n_frames(n) * self.frame_size - n)))

    def encode(self, wav: Tensor, n_codebooks: int | None = None, search: bool = False) -> Codes:
        check_wav(self, wav)
        k = check_n_codebooks(self, n_codebooks)
        length = self.n_frames(wav.shape[-1]) * self.frame_size

        def samples(start: int, end: int) -> Tensor:
            return fit(wav[..., start:end], end - start)

        with torch.no_grad():
            latents = blocks(self.encoder, length, self.frame_size, samples)
            codes = [self.quantizer.encode(z, k, search) for z in latents]
            return Codes(torch.cat(codes, dim=-1), wav.shape[-1])

    def decode(self, codes: Codes) -> Tensor:
        check_codes(self, codes.codes)
        n = codes.codes.shape[-1]

        def latents(start: int, end: int) -> Tensor:
            known = codes.codes[..., start : min(end, n)]
            z = self.quantizer.decode(known) if known.shape[-1] else self._after(len(codes.codes), 0)
            return F.pad(z, (0, end - start - z.shape[-1]))

        with torch.no_grad():
            wav = torch.cat(list(blocks(self.decoder, n + self.config.look_ahead, 1, latents)), dim=-1)
            return wav[..., self.delay : self.delay + codes.n_samples]

    def _after(self, batch: int, n: int) -> Tensor:
        """What a decoder is given for n frames after the last: latents (B, D, n) of nothing."""
        return next(self.parameters()).new_zeros(batch, self.config.latent_dim, n)

    def encoder_stream(
        self, batch: int = 1, n_codebooks: int | None = None, search: bool = False
    ) -> MynaEncoderStream:
        return MynaEncoderStream(self, batch, check_n_codebooks(self, n_codebooks), search)

    def packet_stream(
        self, batch: int, n_codebooks: int, packet_frames: int, model: ContextModel
    ) -> MynaEncoderStream:
        """An encoder stream whose codes are chosen, packet by packet, for what the entropy `model` makes of them, too.

        Raises UsageError where the quantizer does not search (`n_paths` 1, factorized codebooks).
        """
        if not self.searches:
            raise UsageError(
                f"{self.name} does not search for codes, so that they cannot be chosen by their bits"
            )
        k = check_n_codebooks(self, n_codebooks)
        packets = PacketSearch(self.quantizer, model, k, packet_frames)
        return MynaEncoderStream(self, batch, k, True, packets)

    @property
    def searches(self) -> bool:
        """Whether codes are looked for that are better together."""
        return self.quantizer.n_paths > 1

    def decoder_stream(self, batch: int = 1) -> MynaDecoderStream:
        return MynaDecoderStream(self, batch)

    def synthesize(self, latents: Tensor, n_samples: int) -> Tensor:
        padded = F.pad(latents, (0, self.config.look_ahead))
        return self.decoder(padded)[..., self.delay : self.delay + n_samples]


class MynaEncoderStream:
    """wav chunks to codes: one frame for every `frame_size` samples, none late, or as late as packets are full.

    packets: chooses the codes of whole packets, in the place of the quantizer.
    """

    def __init__(
        self,
        codec: MynaCodec,
        batch: int,
        n_codebooks: int,
        search: bool,
        packets: PacketSearch | None = None,
    ):
        self.codec, self.n_codebooks, self.search, self.n_samples = codec, n_codebooks, search, 0
        self.packets = packets
        self.stream = Stream(codec.encoder, batch)

    @torch.inference_mode()
    def push(self, wav: Tensor) -> Tensor:
        """wav (B, 1, n), any n -> codes (B, K, t)."""
        check_wav(self.codec, wav, shortest=0)
        self.n_samples += wav.shape[-1]
        return self._codes(self.stream.push(wav))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The frames of the last, partial hop and of the overlap after it."""
        n = self.codec.n_frames(self.n_samples) * self.codec.frame_size - self.n_samples
        like = next(self.codec.parameters())
        codes = self._codes(self.stream.flush(like.new_zeros(self.stream.batch, 1, n)))
        return codes if self.packets is None else torch.cat([codes, self.packets.flush()], dim=-1)

    def fork(self) -> MynaEncoderStream:
        """An independent copy that continues from here."""
        packets = None if self.packets is None else self.packets.fork()
        other = MynaEncoderStream(self.codec, self.stream.batch, self.n_codebooks, self.search, packets)
        other.stream, other.n_samples = self.stream.fork(), self.n_samples
        return other

    def _codes(self, latents: Tensor) -> Tensor:
        if self.packets is not None:
            return self.packets.push(latents)
        if latents.shape[-1] == 0:
            shape = latents.shape[0], self.n_codebooks, 0
            return torch.zeros(shape, dtype=torch.long, device=latents.device)
        return self.codec.quantizer.encode(latents, self.n_codebooks, self.search)


class MynaDecoderStream:
    """codes to wav chunks: `frame_size` samples a frame, `delay` fewer the first time."""

    def __init__(self, codec: MynaCodec, batch: int):
        self.codec, self.lag = codec, codec.delay
        self.stream = _decoder_stream(codec, batch)

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Tensor:
        """codes (B, K, t), any t -> wav (B, 1, n)."""
        if not codes.shape[-1]:
            return self._heard(self.stream.push(self.codec._after(codes.shape[0], 0)))
        check_codes(self.codec, codes)
        return self._heard(self.stream.push(self.codec.quantizer.decode(codes)))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """What the decoder waited for, if it does; the overlap the encoder has already coded. Ends the stream."""
        rest = self.codec.config.look_ahead
        wav = self._heard(self.stream.push(self.codec._after(self.stream.batch, rest))) if rest else None
        end = self._heard(self.stream.flush(self.codec._after(self.stream.batch, 0)))
        return end if wav is None else torch.cat([wav, end], dim=-1)

    def fork(self) -> MynaDecoderStream:
        """An independent copy that continues from here."""
        other = MynaDecoderStream(self.codec, self.stream.batch)
        other.stream, other.lag = self.stream.fork(), self.lag
        return other

    def _heard(self, wav: Tensor) -> Tensor:
        """Without what came before the first sample."""
        dropped = min(self.lag, wav.shape[-1])
        self.lag -= dropped
        return wav[..., dropped:]


def _decoder_stream(codec: MynaCodec, batch: int) -> Any:
    """The fused steps on a GPU that has them, else the layers, whose steps may be captured."""
    if next(codec.decoder.parameters()).is_cuda:
        from .myna_fused import fused_stream  # with Triton, which a CPU does not need and is slow to import

        if fused := fused_stream(codec, batch):
            return fused
    return SteadyStream(codec.decoder, batch)
